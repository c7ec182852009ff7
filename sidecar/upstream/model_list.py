"""The list of models, asked for as one attempt, so that it goes through the same chain as every other call.

It passes by the breaker: a server may list its models and be unable to run one, so a list neither opens nor closes the way
for answers; and a client that lists before it asks must not find nothing, and then never ask, because of an outage.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from policies.api.event import Batch, Event
from policies.api.usage import Usage

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from policies.api.call import Call

    from .client import UpstreamClient


class ModelListAttempt:
    """See `policies.upstream.Stream`: one batch, which is the JSON list as upstream sent it."""

    usage = Usage()

    def __init__(self, upstream: UpstreamClient, call: Call) -> None:
        self._upstream, self._call = upstream, call
        self._over = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Batch:
        if self._over:
            raise StopAsyncIteration
        self._over = True
        body = await self._upstream.models(self._call.forwarded_headers)
        return Batch(events=[Event(index=-1, raw=body)], raw=body, last=True)
