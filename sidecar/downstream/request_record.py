"""Build the record of one request from what is known when it has ended."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import msgspec

from policies.api.lease import Ending
from policies.records.record import Record

from .client_errors import ClientError

if TYPE_CHECKING:
    from policies.api.call import Call
    from policies.api.lease import Outcome
    from policies.engine.call_control import CallControl

    from .client_connection import ClientConnection

CLIENT_CLOSED_REQUEST = 499
"""The status in the record of a request whose client left before it got one."""
_TRACE_PARENT = re.compile(rb"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")


class RequestTrail(msgspec.Struct, eq=False, kw_only=True):
    """What one request leaves behind while it is served; `record` makes the immutable record of it.

    Times are in seconds: `started_at` since 1970, `begun` by the monotonic clock.
    """

    request_id: str
    route: str
    method: str
    started_at: float
    begun: float
    tenant: str = ""
    key_id: str = ""
    ip: str = ""
    call: Call | None = None
    model_asked: str = ""
    trace_parent: str = ""
    control: CallControl | None = None
    error: ClientError | None = None
    """The error that was sent, or would have been; None for a success and for a client that left."""
    request_bytes: int = 0
    answer_bytes: int = 0
    """Bytes of the two bodies of a relayed request."""

    def note_call(self, call: Call, traceparent: bytes | None) -> None:
        """Note the call that the request became. Policies may change its model later, so the asked one is kept now."""
        self.call, self.tenant, self.ip = call, call.tenant, call.ip
        model = call.model
        self.model_asked = "" if model == call.substituted_model else model
        if traceparent is not None and _TRACE_PARENT.fullmatch(traceparent):
            self.trace_parent = traceparent.decode()

    def note_server_refusal(self, connection: ClientConnection) -> None:
        """Note that the client got the server's answer, whatever the route has found out until then."""
        self.request_id = connection.refused_id
        self.error = ClientError(status=connection.status, code=connection.refused_as, message="")

    def record(self, status: int, now: float) -> Record:
        """Return the record; *status* is what the client was sent (0: nothing), *now* the end by the monotonic clock."""
        call, control, error = self.call, self.control, self.error
        outcome = None if control is None else control.outcome
        known: dict[str, Any] = {
            "request_id": self.request_id,
            "started_at": self.started_at,
            "total_seconds": now - self.begun,
            "method": self.method,
            "route": self.route,
            "status": status or CLIENT_CLOSED_REQUEST,
            "ending": self._ending(outcome, status),
            "code": "" if error is None else error.code,
            "tenant": self.tenant,
            "key_id": self.key_id,
            "ip": self.ip,
            "model_asked": self.model_asked,
            "trace_parent": self.trace_parent,
        }
        if call is None or control is None or outcome is None:
            return Record(**known)
        usage = outcome.usage
        return Record(
            **known,
            rejected_by="" if error is None else str(error.details.get("policy", "")),
            call_id=call.id,
            request_bytes=self.request_bytes,
            answer_bytes=self.answer_bytes,
            profile=call.profile,
            operation=call.operation.name,
            stream=call.stream,
            is_client_retry=call.is_client_retry,
            model_served=outcome.model,
            upstream=outcome.upstream,
            attempts=outcome.attempts,
            failed_attempts=control.failed_attempts,
            error_kind=outcome.kind,
            upstream_error=outcome.message if outcome.ending is Ending.FAILED else "",
            input_tokens=usage.input,
            output_tokens=usage.output,
            cached_tokens=usage.cached,
            tokens_exact=usage.exact and not usage.unreported,
            cost_usd=control.cost_usd,
            upstream_after_seconds=control.upstream_after_seconds,
            first_output_seconds=outcome.seconds_to_first_output,
            notes=tuple(note for each in call.notes if (note := _printable(each))),
        )

    def _ending(self, outcome: Outcome | None, status: int) -> Ending:
        """Return how the request ended: a deadline or a drain cancels the call, but for its client the call failed.

        A client that left without a status, while its call was settled, has cancelled it.  A complete answer that a
        client's protocol cannot express (Chat Nest's, without text) has failed.  A request that is answered without a call
        (usage) is done.
        """
        if outcome is not None and outcome.ending is not Ending.CANCELLED:
            if outcome.ending is Ending.DONE and self.error is not None:
                return Ending.FAILED
            return Ending.CANCELLED if not status and self.error is None else outcome.ending
        if self.error is None:
            return Ending.DONE if status and outcome is None else Ending.CANCELLED
        return Ending.FAILED if outcome is not None or self.error.code == "internal_error" else Ending.REJECTED


def _printable(text: str) -> str:
    return text if text.isprintable() else "".join(character for character in text if character.isprintable())
