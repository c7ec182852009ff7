"""What the sidecar must know of one API in order to govern it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from sidecar.wire.sse_writer import OPENAI_DONE_EVENT, OPENAI_PING, openai_error_body, openai_error_event

if TYPE_CHECKING:
    from policies.api.call import Call
    from policies.api.event import Batch
    from policies.api.requests.request_form import RequestForm
    from policies.api.usage import Usage
    from sidecar.wire.error_object import MalformedAnswer
    from sidecar.wire.request.documented_fields import FieldShape
    from sidecar.wire.sse_reader import Frame


PASSED_QUERY_STATE = "sidecar.passed_query"
"""The key in a call's `state` that is set where the client sent the query that its API passes on."""


class Reading(Protocol):
    """The state of one answer: what was read of it, and the batches for its client. One per attempt; no I/O.

    Nothing is returned before the first output, so that an attempt that fails until then can be repeated. After `failure`
    is set, or `done`, it takes no more frames.
    """

    outputs: int
    """Output tokens that were read, an estimate, over all choices. It never falls."""
    finishes: int
    """Choices or parts that have finished. Progress that is no output: the idle timeout starts again."""
    has_output: bool
    done: bool
    """Whether the end mark was read, so that the answer is complete."""
    says_why: bool
    """Whether an answer without output is explained by its finish, such as `length` or `content_filter`."""
    all_finished: bool
    """Whether only the usage and the end are still to come; a later failure is ignored."""
    failure: dict[str, Any] | MalformedAnswer | None
    """The error object that upstream sent, or why its answer is malformed."""

    @property
    def finished(self) -> bool:
        """Whether all that has begun has finished, so that the end of the body is no cut."""
        ...

    @property
    def usage(self) -> Usage:
        """Upstream's report and the tokens read, by the rules of `sidecar.wire.reported_usage`."""
        ...

    @property
    def is_answered(self) -> bool:
        """Whether upstream reported work for a complete answer without output."""
        ...

    def take(self, frames: Sequence[Frame]) -> Batch | None:
        """Take the events of one network read and return their batch; None before the first output."""
        ...

    def held(self) -> Batch:
        """Return the events that were held back before the first output, as a batch."""
        ...

    def take_whole(self, body: bytes, *, as_stream: bool) -> Batch | None:
        """Take an answer that came as one JSON object, in one step; see `take_whole_steps`."""
        ...

    def take_whole_steps(self, body: bytes, *, as_stream: bool) -> Generator[None, None, Batch | None]:
        """Take an answer that came as one JSON object, in steps of some milliseconds; None where it is a failure.

        *as_stream*: the client streams, so the batch has events, and is the last one.
        """
        ...

    def cut_off(self, sample: bytes, prompt_tokens: int) -> Batch:
        """Return the last batch of an answer that a limit ends here. See `policies.api.upstream.Stream.cut_off`."""
        ...


class Operation(ABC):
    """One API: where its routes are, what its requests must be, and how its answers and errors are read and written.

    Stateless; one object per process and API, in `sidecar.wire.operations.registry`.
    """

    request: ClassVar[RequestForm]
    """Where requests have the parts that policies read."""
    path: ClassVar[str]
    """The path of clients, and the route in records."""
    upstream_path: ClassVar[str]
    """The path of requests to upstreams, behind their base URL."""
    fields: ClassVar[Mapping[str, FieldShape]]
    """The documented fields of requests: those that can choose no other model, server or price than `model`."""
    asks_for_usage: ClassVar[bool] = False
    """Whether a stream has usage only with `stream_options.include_usage`, which the sidecar adds."""
    renames_ceiling: ClassVar[bool] = False
    """Whether some servers know the ceiling as `max_completion_tokens` alone, others not (chat completions)."""
    token_id_fields: ClassVar[tuple[str, ...]] = ()
    """Fields that may have hundreds of thousands of token ids, which stay JSON in a large body."""
    passed_query: ClassVar[str] = ""
    """The query that is passed on to upstreams where a client sends it; all others are dropped."""
    names_request_id: ClassVar[bool] = False
    """Whether errors have the request id in `request_id`, and responses in `request-id` (Anthropic)."""
    has_chat_nest_events: ClassVar[bool] = False
    """Whether the header `x-event-schema: chat-nest` is obeyed."""
    stores_answers: ClassVar[bool] = False
    """Whether upstream stores answers, which belong to the tenant that made them, and requests refer to earlier ones."""
    stream_end: ClassVar[bytes] = OPENAI_DONE_EVENT
    """What follows the last event of a complete stream; the reader leaves it out."""
    ping: ClassVar[bytes] = OPENAI_PING
    """The heartbeat of a stream, between two events."""

    @abstractmethod
    def check(self, body: dict[str, Any]) -> int:
        """Raise `BadRequest` unless policies can govern *body*; return its number of messages and parts.

        Numbers and switches that servers read in several ways are written in one way. Called once per request.
        """

    def check_steps(self, body: dict[str, Any]) -> Generator[None, None, int]:
        """Check as `check` does, in steps of a few milliseconds, for a large body."""
        yield
        return self.check(body)

    @abstractmethod
    def reading(self, call: Call) -> Reading:
        """Return the state of an answer to *call* before its first byte. Called once per attempt with status 200."""

    def fitted(self, body: dict[str, Any]) -> dict[str, Any]:
        """Return *body*, which policies have changed, with settings that fit its ceiling; not for `renames_ceiling`."""
        return body

    def error_body(self, status: int, error: Mapping[str, Any]) -> bytes:
        """Return the JSON body of an error response with *status*; *error* is OpenAI's error object."""
        return openai_error_body(error)

    def error_events(self, error: Mapping[str, Any], status: int, written: bytes) -> bytes:
        """Return the events that end a stream that has failed after its head, so that SDKs raise.

        *error* is OpenAI's error object, *status* its status, *written* the last batch that was written, which may be empty.
        """
        return openai_error_event(error) + OPENAI_DONE_EVENT
