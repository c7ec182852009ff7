"""What a chain needs of an upstream: attempts that deliver an answer in batches and can be closed at any moment."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Protocol, Self

from .call import Call
from .event import Batch
from .failure import Cause, Failure
from .usage import Usage


class UpstreamError(Exception):
    """An attempt failed: no answer, an error, or a stream that broke.

    *error* is what the OpenAI SDK would have raised, or its substitute; *kind* is our finer class (see `Failure`).
    *retry_after* are the seconds that upstream asked for. *worked* says that upstream may have read the prompt, so that it
    must be paid. *kind_is_certain* says that *kind* was found by a known code in upstream's answer, and not by its status or
    text. *instead* is a complete answer without any output: it is shown if no policy wants another attempt.
    """

    def __init__(
        self,
        error: Exception,
        kind: str,
        *,
        retry_after: float | None = None,
        should_retry: bool | None = None,
        worked: bool = False,
        kind_is_certain: bool = False,
        instead: Batch | None = None,
    ) -> None:
        super().__init__(kind, error)
        self.cause = Cause.of(error)
        self.kind, self.worked, self.instead = kind, worked, instead
        self.retry_after, self.should_retry, self.kind_is_certain = retry_after, should_retry, kind_is_certain

    @property
    def error(self) -> Exception:
        """What the OpenAI SDK would have raised."""
        return self.cause.error

    @property
    def reason(self) -> str:
        """What the log says of it: names of exceptions and a status, no text of upstream, nothing of the call."""
        cause, status = self.cause.__cause__, self.cause.status_code
        cause = cause.__cause__ if cause is not None and cause.__cause__ is not None else cause
        names = [self.cause.name, *([] if cause is None else [type(cause).__name__])]
        return " ".join([*names, *([] if status is None else [str(status)])])

    def failure(self, *, attempt: int = 1, upstream: str = "", tried: tuple[str, ...] = ()) -> Failure:
        """Return what the policies judge: this error as the attempt number *attempt*, at *upstream*."""
        cause = self.cause
        return Failure(
            kind=self.kind,
            status=cause.status_code,
            code=cause.code,
            type=cause.type,
            message=cause.message,
            retry_after=self.retry_after,
            should_retry=self.should_retry,
            upstream=upstream,
            tried=tried,
            attempt=attempt,
            kind_is_certain=self.kind_is_certain,
            cause=cause,
        )


class Stream(Protocol):
    """One attempt: opened by entering it, closed in whatever phase it is by leaving it."""

    @property
    def usage(self) -> Usage:
        """What this attempt has cost so far: at any moment, also before it is entered and after it broke."""
        ...

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...

    async def deliver(self, to: Callable[[Batch], bool]) -> None:
        """Call *to* with each batch in the event-loop iteration in which its bytes arrive; the last batch is marked.

        Return after the last batch, or when *to* returned False: the caller waits for its client and calls `deliver` again.
        Batches before the first output are held back, so that a failed attempt can be repeated. What *to* raises is raised
        here, and so is `UpstreamError`. After a cancellation *to* is not called any more.
        """
        ...


class Upstream(Protocol):
    """The servers that calls are sent to."""

    def open(self, call: Call, name: str | None = None) -> Stream:
        """Prepare one attempt; nothing is sent before it is entered.

        *name* chooses one of several upstreams; None is the first.  Raises `LookupError` for one that is not configured.
        """
        ...
