"""Interface of upstreams: attempts that deliver an answer in batches and can be closed at any time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Protocol, Self

from .call import Call
from .event import Batch
from .failure import Cause, Failure, GiveUpReason
from .failure_kinds import give_up_reason
from .usage import Usage


class UpstreamError(Exception):
    """An attempt failed: no answer, an error, or a stream that broke.

    *error* is the exception of the OpenAI SDK, or its stand-in. *kind* is the class of the failure (see `Failure`).
    *retry_after* is the wait in seconds that upstream asked for. *worked*: upstream may have read the prompt, so the
    prompt is charged. *kind_is_certain*: *kind* follows from a known error code, not from the status or a text.
    *instead* is a complete answer without output, which the client gets if no policy decides for another attempt.
    *wait_is_hint*: *retry_after* is when a limit resets, so a retry may succeed earlier; clients do not get it.
    *is_private*: upstream refused credentials that are not the client's, so the client must not see its error.
    `give_up_reason` says why no other attempt followed; the chain sets it.
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
        is_private: bool = False,
        wait_is_hint: bool = False,
    ) -> None:
        super().__init__(kind, error)
        self.is_final = False
        """Whether the call cannot be repeated, because its body streamed through and is not kept."""
        self.cause = Cause.of(error)
        self.kind, self.worked, self.instead = kind, worked, instead
        self.retry_after, self.should_retry, self.kind_is_certain = retry_after, should_retry, kind_is_certain
        self.is_private, self.wait_is_hint = is_private, wait_is_hint
        self.give_up_reason: GiveUpReason = give_up_reason(self.failure())

    @property
    def error(self) -> Exception:
        """The exception of the OpenAI SDK."""
        return self.cause.error

    @property
    def reason(self) -> str:
        """A description for the log: class names and a status, without texts of upstream or the call."""
        cause, status = self.cause.__cause__, self.cause.status_code
        cause = cause.__cause__ if cause is not None and cause.__cause__ is not None else cause
        names = [self.cause.name, *([] if cause is None else [type(cause).__name__])]
        return " ".join([*names, *([] if status is None else [str(status)])])

    def failure(self, *, attempt: int = 1, upstream: str = "", tried: tuple[str, ...] = ()) -> Failure:
        """Return this error for policies, as the failure of attempt number *attempt* at *upstream*."""
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
    """One attempt: an async context manager that opens it, and closes it in any phase."""

    @property
    def usage(self) -> Usage:
        """The usage of this attempt so far; readable at any time, also before it is entered and after it failed."""
        ...

    @property
    def has_finished(self) -> bool:
        """Whether every choice has finished, so that only the usage and the end of the stream are still to come."""
        ...

    def cut_off(self, sample: bytes, prompt_tokens: int) -> Batch:
        """Return the last batch of an answer that ends here: the finish `length` for each open choice, and the usage.

        *sample* is the JSON object of an event of this answer, whose id and model are used. *prompt_tokens* is the
        estimate, for an upstream that has not reported them. The usage is included only if the client asked for it. The
        caller delivers nothing else afterwards, and closes the attempt.
        """
        ...

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...

    async def deliver(self, to: Callable[[Batch], bool]) -> None:
        """Call *to* with each batch, in the event-loop iteration in which its bytes arrive; the last batch is marked.

        Return after the last batch, or when *to* returned False: then the caller drains its client and calls `deliver`
        again. Batches before the first output are held back, so that a failed attempt can be repeated. Raises
        `UpstreamError`, and exceptions of *to*. After a cancellation *to* is not called again.
        """
        ...


class Upstream(Protocol):
    """One or several servers to which calls are sent."""

    def open(self, call: Call, name: str | None = None) -> Stream:
        """Return an attempt; nothing is sent before it is entered.

        *name* selects one of several upstreams; None is the first. Raises `LookupError` for a name that is not
        configured.
        """
        ...

    async def choose(self, call: Call) -> str:
        """Return the name of the upstream for the first attempt of *call*, which all policies have admitted.

        Called only where there are several upstreams and no policy has set `call.upstream`. Raises `Rejection` for a model
        that none of them has.
        """
        ...

    def another(self, call: Call, tried: Sequence[str]) -> str | None:
        """Return an upstream that serves the model of *call* as well and is not among *tried*; None without one."""
        ...
