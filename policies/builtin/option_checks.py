"""Report every fault of a settings object at once, instead of the first one."""

from __future__ import annotations

from collections.abc import Iterable


class UnknownValue(BaseException):
    """Raised when a check reads an option whose value is not known, because it is faulty itself.

    Not an `Exception`: a check that catches errors of a library must not take it for one.
    """


def raise_faults(*checks: Iterable[str]) -> None:
    """Raise `ValueError` with every message that *checks* yield, one per line; do nothing without any.

    A message has the form "field: problem; cure".  A check that reads an unknown value ends there; the others go on.
    """
    found: list[str] = []
    unknown: UnknownValue | None = None
    for check in checks:
        try:
            for message in check:
                found.append(message)  # noqa: PERF402  # keeps the messages before an exception
        except UnknownValue as error:
            unknown = error
    if found:
        raise ValueError("\n".join(found))
    if unknown is not None:
        raise unknown
