"""Exceptions that a policy raises to refuse a call or to end its answer."""

from __future__ import annotations

from typing import Any


class Rejection(Exception):
    """Refusal by a policy. Sent as the HTTP response, or as the last event of a stream that has started.

    *status* is the HTTP status for OpenAI clients; do not use 408 or 409, which SDKs retry. *retry_after* is in
    seconds; set it only if waiting helps. *final* sends `x-should-retry: false`, so that SDKs do not retry; by default
    it is True without *retry_after*. *error_type* is `type` of OpenAI's error object. *details* are added to the body: a
    limit's refusal has `policy`, `limit`, `used` (spent), `held` (reserved by running calls), `needed`, `resets_at` and
    `case`.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        retry_after: float | None = None,
        final: bool | None = None,
        error_type: str | None = None,
        details: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.retry_after = status, code, message, retry_after
        self.final = final if final is not None else retry_after is None
        self.error_type, self.details = error_type, details or {}


class Stop(Exception):
    """Raised by `Lease.on_event`: end the answer here, cleanly, with *finish* as its reason. Upstream is closed."""

    def __init__(self, finish: str = "content_filter") -> None:
        super().__init__(finish)
        self.finish = finish
