"""The answer of an upstream to a relayed request, as it comes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sidecar.downstream.client_connection import Head
from sidecar.downstream.response import ClientResponse
from sidecar.wire.relay.answer_head import BODILESS_STATUS
from sidecar.wire.relay.relayed_request import relayed

if TYPE_CHECKING:
    from policies.api.event import Batch
    from sidecar.downstream.client_errors import ClientError


class RelayResponse(ClientResponse):
    """Status, some headers, and the body of the upstream. A failure behind the head cuts the connection.

    The body is not read, so no error can be written into it: it may be a sound, or a stream of any form.
    """

    def write_nowait(self, batch: Batch) -> bool:
        """See `BatchSink.write_nowait`; the first batch brings the head."""
        connection, raw, last = self._connection, batch.raw, batch.last
        head = None if connection.status else self._head()
        if (head is not None or raw or last) and not self.ended:
            self.ended = last
            connection.write_nowait(head, raw, more=not last)
        return not connection.full

    def _head(self) -> Head:
        call = self.call
        assert call is not None  # for the type: it is set before the call runs
        answer = relayed(call).answer
        assert answer is not None  # for the type: the attempt sets it before its first batch
        headers = self._headers(*answer.headers)
        if answer.length is not None and answer.status != BODILESS_STATUS:
            headers.append((b"content-length", b"%d" % answer.length))
        return Head(answer.status, headers)

    def fail(self, error: ClientError) -> None:
        """End with *error*, a response of its own; behind the head, cut the connection instead."""
        if self._connection.status and not self.ended:
            self.ended = True
            self._connection.cut()
        else:
            super().fail(error)
