"""The classes of upstream failures, and whether another attempt can succeed after each.

Policies list them in `on` and `never`; `sidecar/downstream/upstream_failures.py` has the message of each for clients.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import msgspec

from .failure import Failure, GiveUpReason

TIMEOUT_FAMILY: Final = "timeout"
STATUS_PREFIX, CODE_PREFIX = "status:", "code:"
"""Prefixes in a list of classes: `status:425` is an HTTP status, `code:warming_up` a code or type."""
FAILURE_STATUSES: Final = frozenset(map(str, range(201, 600)))
"""HTTP statuses of failures; a status of 200 is never one, even with an error in the body."""


class FailureClass(msgspec.Struct, frozen=True, kw_only=True):
    """One class of failures, with the reason in `why`.

    `retry`: another attempt at the same upstream may succeed. `final`: no repeat of the same request can succeed there.
    `sick`: it counts as a failure for the circuit breaker. `late`: no other attempt is possible, at any upstream.
    `family` is a name for several classes.
    """

    why: str
    retry: bool = False
    final: bool = False
    sick: bool = False
    late: bool = False
    family: str = ""


FAILURE_CLASSES: Mapping[str, FailureClass] = {
    "connect": FailureClass(
        why="The connection failed, or upstream closed it before it answered.", retry=True, sick=True
    ),
    "connect_timeout": FailureClass(
        why="No connection in `connect` seconds, so upstream did no work.", retry=True, sick=True, family=TIMEOUT_FAMILY
    ),
    "head_timeout": FailureClass(
        why="No answer in `head` seconds (`whole`, without `stream`).", retry=True, sick=True, family=TIMEOUT_FAMILY
    ),
    "first_token_timeout": FailureClass(
        why="An answer, but no output in `first_token` seconds (`whole`, without `stream`).",
        retry=True,
        sick=True,
        family=TIMEOUT_FAMILY,
    ),
    "idle_timeout": FailureClass(
        why="No output for `idle` seconds after the first output, which the client has received.", sick=True, late=True
    ),
    "total_timeout": FailureClass(why="The deadline of the whole call has passed.", late=True),
    TIMEOUT_FAMILY: FailureClass(
        why="Upstream reported a timeout: 408, 504.", retry=True, sick=True, family=TIMEOUT_FAMILY
    ),
    "rate": FailureClass(why="Waiting helps, and upstream often sends the time to wait.", retry=True),
    "overloaded": FailureClass(
        why="Upstream is busy, full or still loading its model: 503, 529, 409.", retry=True, sick=True
    ),
    "server": FailureClass(
        why="It failed before any output: 500, 502, a truncated or malformed answer.", retry=True, sick=True
    ),
    "empty": FailureClass(
        why="The answer is complete without output or reported output tokens. Retried once, because some servers send that "
        "for an over-long prompt.",
        retry=True,
    ),
    "unavailable": FailureClass(why="The circuit breaker is open, so nothing was sent. Another upstream may succeed."),
    "quota": FailureClass(why="The account's quota is used up; waiting within a call does not help.", final=True),
    "context": FailureClass(why="The same prompt will be too long again.", final=True),
    "too_large": FailureClass(
        why="One call exceeds the whole rate of the account; only a smaller one, or another upstream, can succeed.",
        family="context",
        final=True,
    ),
    "auth": FailureClass(why="The same key will be refused again.", final=True),
    "request": FailureClass(why="The same request will be refused again.", final=True),
    "interrupted": FailureClass(
        why="The client has received output: an answer is never started twice.", sick=True, late=True
    ),
}
CLASS_NAMES: Final = (*FAILURE_CLASSES, STATUS_PREFIX + "CODE", CODE_PREFIX + "NAME")
RETRYABLE_KINDS: Final = tuple(
    dict.fromkeys(each.family or name for name, each in FAILURE_CLASSES.items() if each.retry)
)


def class_faults(field: str, names: Sequence[str]) -> Iterator[str]:
    """Yield a message, worded for the author of the file, for each unusable class of *names* in *field*."""
    for at, name in enumerate(names):
        if (fault := _fault_of(name)) is not None:
            yield f"{field}[{at}]: {name!r} {fault}"


def _fault_of(name: str) -> str | None:
    if (known := FAILURE_CLASSES.get(name)) is not None:
        return "occurs when no other attempt is possible; remove it" if known.late else None
    if name.startswith(STATUS_PREFIX) and name.removeprefix(STATUS_PREFIX).isdecimal():
        fails = name.removeprefix(STATUS_PREFIX) in FAILURE_STATUSES
        return None if fails else "is not the status of a failure; use one from 201 to 599, like 'status:425'"
    if name.startswith(CODE_PREFIX) and name != CODE_PREFIX:
        return None
    near = difflib.get_close_matches(name, FAILURE_CLASSES, n=1)
    cure = f"did you mean {near[0]!r}?" if near else f"use one of {', '.join(CLASS_NAMES)}"
    return f"is not a class of failures; {cure}"


def is_useless(failure: Failure) -> bool:
    """Whether no repeat of the same request can succeed: by upstream's `x-should-retry`, else by the class of *failure*.

    Upstream's `x-should-retry: true` overrides a class that follows from a status or a text.
    """
    if failure.should_retry is False:
        return True
    known = FAILURE_CLASSES.get(failure.kind)
    return known is not None and known.final and (failure.kind_is_certain or failure.should_retry is not True)


def give_up_reason(failure: Failure) -> GiveUpReason:
    """Return why the call ends with *failure*, where no policy gave a reason.

    A call that was repeated is `spent`, unless its last upstream asked for a wait and was not asked again.
    """
    if is_useless(failure):
        return "useless"
    known = FAILURE_CLASSES.get(failure.kind)
    could_repeat = known is None or known.retry or known.final
    obeyed = failure.retry_after is None or failure.attempts_here > 1
    return "spent" if could_repeat and obeyed and failure.attempt > 1 else "declined"


def among(names: Sequence[str], failure: Failure) -> bool:
    """Whether *names* has the class of *failure*, its family, its status, or upstream's code or type for it."""
    kind = failure.kind
    if kind in names:
        return True
    known = FAILURE_CLASSES.get(kind)
    if known is not None and known.family and known.family in names:
        return True
    fields = ((STATUS_PREFIX, failure.status), (CODE_PREFIX, failure.code), (CODE_PREFIX, failure.type))
    own = {f"{prefix}{value}".lower() for prefix, value in fields if value is not None}
    return any(name.lower() in own for name in names)
