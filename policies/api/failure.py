"""Failed upstream attempts, and the decisions of policies about them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, Literal, TypeAlias, get_args

import msgspec

GiveUpReason: TypeAlias = Literal["spent", "declined", "useless"]
"""Why a call ends with its failure.

`spent`: it was repeated without success. `declined`: a repeat was possible, and was not made. `useless`: no repeat of the
same request can succeed. Clients get `x-should-retry: false` unless it is `declined`.
"""
GIVE_UP_REASONS: Final[tuple[GiveUpReason, ...]] = get_args(GiveUpReason)


class Cause(Exception):
    """Lazy stand-in for an exception of the OpenAI SDK: its fields are available at once, `error` imports the SDK.

    *make* returns the exception. *error_fields* is the server's error object as clients may see it, empty without one;
    `code`, `type` and `param` are its fields as strings. *origin* becomes the exception's `__cause__`.
    """

    def __init__(
        self,
        make: Callable[[], Exception],
        name: str,
        message: str = "",
        *,
        status: int | None = None,
        error_fields: Mapping[str, object] = {},
        origin: BaseException | None = None,
    ) -> None:
        super().__init__(name)
        self._make = make
        self._error: Exception | None = None
        self.name, self.message, self.status_code, self.__cause__ = name, message, status, origin
        self.error_fields = error_fields
        self.code, self.type, self.param = (_text(error_fields.get(key)) for key in ("code", "type", "param"))

    @classmethod
    def of(cls, error: Exception) -> Cause:
        """Return a stand-in for *error*, or *error* itself if it is one. Messages of other libraries are dropped."""
        if isinstance(error, Cause):
            return error
        name, origin = type(error).__name__, error.__cause__
        if not type(error).__module__.startswith("openai"):
            return cls(lambda: error, name, origin=origin)  # its message must not reach clients
        given, status = getattr(error, "message", ""), getattr(error, "status_code", None)
        message = given if isinstance(given, str) else ""
        named = {key: value for key in ("type", "param", "code") if (value := getattr(error, key, None)) is not None}
        return cls(
            lambda: error,
            name,
            message,
            status=status if isinstance(status, int) else None,
            error_fields={"message": message, **named} if message and named else named,
            origin=origin,
        )

    @property
    def error(self) -> Exception:
        """The exception; always the same object."""
        if self._error is None:
            self._error = self._make()
            self._error.__cause__ = self.__cause__
        return self._error


def _text(value: object) -> str | None:
    return None if value is None else str(value)


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """One upstream attempt that failed before the client saw any output.

    The chain asks `retry` a second time if the first decision was `GIVE_UP`, would miss the call's deadline, or exceeds the
    retry budget. Then `can_retry_here` is False, and only an upstream that was not tried is accepted. Where another upstream
    serves the model as well, it also asks again without `retry_after`: the wait that this one asked for does not apply there.
    """

    kind: str
    """The class of the failure, one of `policies.api.failure_kinds.FAILURE_CLASSES`: "rate", "connect_timeout", ..."""
    status: int | None = None
    """The HTTP status; None without an answer, or for an error within a response of status 200."""
    code: str | None = None
    """`code` of the server's error object, as a string."""
    type: str | None = None
    """`type` of the server's error object."""
    message: str = ""
    """The server's own message, redacted; empty if it sent none."""
    retry_after: float | None = None
    """Seconds that the server asked to wait."""
    should_retry: bool | None = None
    """The server's `x-should-retry` header; None if it sent none."""
    upstream: str = ""
    """The upstream that failed."""
    tried: tuple[str, ...] = ()
    """The upstreams of all attempts so far, this one last."""
    attempt: int = 1
    """The number of the attempt, 1 for the first."""
    can_retry_here: bool = True
    """Whether another attempt at `upstream` is possible."""
    kind_is_certain: bool = False
    """Whether the kind follows from a known error code; otherwise from the status or the text."""
    cause: Cause | None = None
    """The source of `exception`."""

    @property
    def attempts_here(self) -> int:
        """The number of attempts at `upstream`; all attempts if `tried` is empty."""
        return self.tried.count(self.upstream) or self.attempt

    def exception(self) -> Exception:
        """Return the exception of the OpenAI SDK for this failure, always the same object.

        The first use in a process imports the SDK, which takes about 0.4 s.
        """
        return RuntimeError(self.message or self.kind) if self.cause is None else self.cause.error


class Retry(msgspec.Struct, frozen=True):
    """Make another attempt in *after* seconds, at *upstream* if it names one.

    An upstream that is not configured is a mistake in the policy: the call ends with status 500, and the log names the
    upstreams that are configured.
    """

    after: float = 0.0
    upstream: str | None = None

    def __post_init__(self) -> None:
        if not self.after >= 0:
            raise ValueError(f"after: {self.after} is not a number of seconds >= 0; return GIVE_UP to end the call")


class GiveUp(msgspec.Struct, frozen=True, repr_omit_defaults=True):
    """Make no other attempt. Policies return `GIVE_UP`, or a `GiveUp` with the *reason*, which clients are told.

    Without a reason it follows from the failure. See `policies.api.failure_kinds.give_up_reason`.
    """

    reason: GiveUpReason | None = None

    def __post_init__(self) -> None:
        if self.reason is not None and self.reason not in GIVE_UP_REASONS:
            raise ValueError(f"reason: {self.reason!r} is unknown; use one of {', '.join(GIVE_UP_REASONS)}, or None")


GIVE_UP: Final = GiveUp()
Decision: TypeAlias = Retry | GiveUp
"""The result of `retry`; None leaves the decision to the next policy."""
