"""The classes of what goes wrong at an upstream: which of them another attempt can cure, and why.

Policies name them in `on` and `never`; the program tells its clients each in its own words (`sidecar/errors.py`).
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from .failure import Failure

TIMEOUT: Final = "timeout"
STATUS, CODE = "status:", "code:"
"""In a list of classes, `status:425` is every failure of that HTTP status, `code:warming_up` of that error code or type."""
FAILING: Final = frozenset(map(str, range(201, 600)))
"""Statuses that are failures: a 200 is none, whatever its body says."""


class FailureClass(msgspec.Struct, frozen=True, kw_only=True):
    """One class.  *retry*: another attempt at the same upstream may cure it.  *sick*: it speaks against the upstream's health.

    *family* is a name that stands for several classes.  *late*: nothing can be begun again after it, here or elsewhere.
    """

    why: str
    retry: bool = False
    sick: bool = False
    late: bool = False
    family: str = ""


CLASSES: Mapping[str, FailureClass] = {
    "connect": FailureClass(why="It was never reached, or closed before it answered.", retry=True, sick=True),
    "connect_timeout": FailureClass(
        why="No connection in `connect` seconds: nothing was done.", retry=True, sick=True, family=TIMEOUT
    ),
    "head_timeout": FailureClass(
        why="No answer in `head` seconds (`whole`, without `stream`).", retry=True, sick=True, family=TIMEOUT
    ),
    "first_token_timeout": FailureClass(
        why="An answer, but no output in `first_token` seconds (`whole`, without `stream`).",
        retry=True,
        sick=True,
        family=TIMEOUT,
    ),
    "idle_timeout": FailureClass(
        why="Silence of `idle` seconds after the first output, which the client has seen.", sick=True, late=True
    ),
    "total_timeout": FailureClass(why="The deadline of the whole call has passed; nothing is left of it.", late=True),
    TIMEOUT: FailureClass(why="It says so itself: 408, 504.", retry=True, sick=True, family=TIMEOUT),
    "rate": FailureClass(why="A wait cures it, and upstream often says how long.", retry=True),
    "overloaded": FailureClass(why="Busy, full or still loading its model: 503, 529, 409.", retry=True, sick=True),
    "server": FailureClass(
        why="It failed before any output: 500, 502, a broken or senseless answer.", retry=True, sick=True
    ),
    "empty": FailureClass(why="It ended well and said nothing. Once: some answer an over-long prompt so.", retry=True),
    "unavailable": FailureClass(why="Its breaker is open: nothing was sent. Another upstream may do."),
    "quota": FailureClass(why="What was paid for is used up; no wait of ours cures that."),
    "context": FailureClass(why="The same prompt will be too long again."),
    "auth": FailureClass(why="The same key will be refused again."),
    "request": FailureClass(why="The same request will be refused again."),
    "interrupted": FailureClass(
        why="The client has seen output: an answer is never begun twice.", sick=True, late=True
    ),
}
NAMES: Final = (*CLASSES, STATUS + "CODE", CODE + "NAME")
RETRYABLE: Final = tuple(dict.fromkeys(each.family or name for name, each in CLASSES.items() if each.retry))


def check_classes(field: str, names: Sequence[str]) -> None:
    """Raise `ValueError`, worded for a configuration's author, unless each of *names* in *field* is a class that can act."""
    for at, name in enumerate(names):
        if (fault := _fault_of(name)) is not None:
            msg = f"{field}[{at}]: {name!r} {fault}"
            raise ValueError(msg)


def _fault_of(name: str) -> str | None:
    if (known := CLASSES.get(name)) is not None:
        return "comes when nothing can be begun again; leave it out" if known.late else None
    if name.startswith(STATUS) and name.removeprefix(STATUS).isdecimal():
        fails = name.removeprefix(STATUS) in FAILING
        return None if fails else "is no status of a failure; write one from 201 to 599, like 'status:425'"
    if name.startswith(CODE) and name != CODE:
        return None
    near = difflib.get_close_matches(name, CLASSES, n=1)
    right = f"did you mean {near[0]!r}?" if near else f"name one of {', '.join(NAMES)}"
    return f"is no class of failures; {right}"


def among(names: Sequence[str], failure: Failure) -> bool:
    """Whether *failure* is of one of the classes *names*: its own, its family, its status, or upstream's code for it."""
    kind = failure.kind
    if kind in names:
        return True
    known = CLASSES.get(kind)
    if known is not None and known.family and known.family in names:
        return True
    fields = ((STATUS, failure.status), (CODE, failure.code), (CODE, failure.type))
    own = {f"{prefix}{value}".lower() for prefix, value in fields if value is not None}
    return any(name.lower() in own for name in names)
