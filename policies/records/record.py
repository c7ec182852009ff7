"""The record of one finished request: the only input of logs, metrics, traces and the page."""

from __future__ import annotations

import msgspec
from msgspec.structs import force_setattr

from policies.api.lease import Ending

MAX_NAME_CHARACTERS = 256
"""Of a model's name: clients and upstreams choose it."""
MAX_ERROR_CHARACTERS = 500
"""Of the upstream's error text."""
MAX_NOTES = 16
MAX_NOTE_CHARACTERS = 200
MAX_FAILED_ATTEMPTS = 16


class FailedAttempt(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """An upstream attempt that failed and was followed by another one."""

    upstream: str
    error_kind: str
    status: int | None = None
    """The upstream's HTTP status; None where none arrived."""
    started_after_seconds: float = 0.0
    """From the start of the request."""
    seconds: float = 0.0


class Record(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """Describe one finished request: answered, refused, failed or abandoned.

    Each request leaves exactly one record, also one that was refused before the chain or whose client left.  It holds no
    prompt, no answer and no key.  Names and texts that a client, an upstream or a policy chooses are cut to fixed lengths.
    Omitted fields mean "not known" or "does not apply"; JSON leaves out fields that have their default.
    """

    request_id: str
    started_at: float
    """Seconds since 1970, when the request's head had arrived."""
    total_seconds: float
    """From `started_at` to the end of the answer."""
    method: str
    route: str
    """The path's pattern, such as `/v1/models/{id}`, never the path as sent: at most one value per route."""
    status: int
    """The status that the client was sent; 499 if the client left before one was sent."""
    ending: Ending
    """`rejected`: the sidecar or a policy refused it. `failed`: the upstream or the sidecar failed. `cancelled`: the client left."""
    code: str = ""
    """The error code that the client was sent or would have been sent; empty on success."""
    rejected_by: str = ""
    """The name of the policy that refused it; empty if the refusal came before the chain."""
    call_id: str = ""
    """The id of reservations in the store; empty if the request did not reach the chain."""
    tenant: str = ""
    key_id: str = ""
    """The `id` of the client's `[[key]]`; empty for a key without an id."""
    profile: str = ""
    ip: str = ""
    """The client's address, after trusted proxies."""
    operation: str = ""
    """`chat`, `models`, `embeddings` …: few values."""
    stream: bool = False
    """Whether the client asked for a stream."""
    is_client_retry: bool = False
    """Whether the client's SDK had sent the call before."""
    model_asked: str = ""
    model_served: str = ""
    """The model of the upstream's answer, or else of the request as sent upstream."""
    upstream: str = ""
    """The configured name of the upstream that was asked last."""
    attempts: int = 0
    """Upstream attempts, the last one included; 0 if no upstream was asked."""
    failed_attempts: tuple[FailedAttempt, ...] = ()
    """The attempts before the last one."""
    error_kind: str = ""
    """The failure class of the last attempt (`policies.api.failure_kinds`)."""
    upstream_error: str = ""
    """The upstream's own error text, already redacted."""
    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    """The part of `input_tokens` that the upstream read from its cache."""
    tokens_exact: bool = True
    """False if the counts are an estimate or a lower bound."""
    cost_usd: float | None = None
    """None if the model has no price."""
    upstream_after_seconds: float | None = None
    """From the start to the last attempt: admission, queue, earlier attempts and backoff. None if no upstream was asked."""
    first_output_seconds: float | None = None
    """From the start to the first output that was sent to the client."""
    request_bytes: int = 0
    """Bytes of the body that a relayed request has sent upstream; 0 for other routes."""
    answer_bytes: int = 0
    """Bytes of the body of a relayed answer; 0 for other routes."""
    trace_parent: str = ""
    """The client's `traceparent` header if it is well-formed."""
    notes: tuple[str, ...] = ()
    """What policies decided, in order (`call.note`)."""

    def __post_init__(self) -> None:
        if len(self.model_asked) > MAX_NAME_CHARACTERS:
            force_setattr(self, "model_asked", _cut(self.model_asked, MAX_NAME_CHARACTERS))
        if len(self.model_served) > MAX_NAME_CHARACTERS:
            force_setattr(self, "model_served", _cut(self.model_served, MAX_NAME_CHARACTERS))
        if len(self.upstream_error) > MAX_ERROR_CHARACTERS:
            force_setattr(self, "upstream_error", _cut(self.upstream_error, MAX_ERROR_CHARACTERS))
        if self.notes:
            force_setattr(self, "notes", _bounded(self.notes))
        if len(self.failed_attempts) > MAX_FAILED_ATTEMPTS:
            force_setattr(self, "failed_attempts", self.failed_attempts[-MAX_FAILED_ATTEMPTS:])


def _bounded(notes: tuple[str, ...]) -> tuple[str, ...]:
    left_out = len(notes) - MAX_NOTES
    if left_out > 0:
        notes = (*notes[: MAX_NOTES - 1], f"{left_out + 1} more notes")
    return tuple(_cut(note, MAX_NOTE_CHARACTERS) for note in notes)


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"
