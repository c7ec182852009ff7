"""Faults that the fuzzer has found and that are not fixed yet. A run counts them, and does not fail because of them."""

from __future__ import annotations

from typing import NamedTuple


class KnownFault(NamedTuple):
    """A fault: a part of its message, and its cause."""

    pattern: str
    cause: str


KNOWN_FAULTS: tuple[KnownFault, ...] = ()
