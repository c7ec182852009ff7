"""Faults that the fuzzer has found and that are not fixed yet. A run counts them, and does not fail because of them."""

from __future__ import annotations

from typing import NamedTuple


class KnownFault(NamedTuple):
    """A fault: a part of its message, and its cause."""

    pattern: str
    cause: str


KNOWN_FAULTS: tuple[KnownFault, ...] = (
    KnownFault("the id of a 400 is not in its record", "a body that is not valid HTTP is answered under a new id"),
    KnownFault("reset without an answer", "a refusal before the last byte of a request is destroyed by a reset"),
    KnownFault("first line b'HTTP/1.1 ", "a status without a name is sent without the space behind it (RFC 9112, 4)"),
    KnownFault(
        "failed: ValidationError",
        "Event.data raises for a number out of range, which ends the call (policies/api/event.py)",
    ),
    KnownFault('"code":"internal_error"', "as above, on the client's side"),
)
