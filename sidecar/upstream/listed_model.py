"""The model of calls that name none, at an upstream without a configured one: the first in the upstream's list."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

REMEMBER_SECONDS = 60.0
REFRESH_SECONDS = 10.0
"""Seconds for one call to read the list again, while other calls use the name that is remembered."""


class ListedModel:
    """The name that was listed first, refreshed after 60 seconds.  *clock* is monotonic, in seconds.

    `name` stays until it is replaced or forgotten, so that a refresh that fails loses nothing; it is empty while unknown.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._refresh_at = 0.0
        self.name = ""

    @property
    def is_stale(self) -> bool:
        """Whether the next call must read the list again."""
        return self.name != "" and self._clock() >= self._refresh_at

    def refreshing(self) -> None:
        """Note that a call reads the list, so that no other one does for the next 10 seconds."""
        self._refresh_at = self._clock() + REFRESH_SECONDS

    def learn(self, name: str) -> None:
        """Remember *name*, the first one in a list that was just read; empty for a list without models."""
        self.name, self._refresh_at = name, self._clock() + REMEMBER_SECONDS

    def forget(self, name: str) -> None:
        """Drop *name* if it is remembered: the upstream no longer has this model."""
        if name == self.name:
            self.name = ""


class _Listed(msgspec.Struct):
    id: str = ""


class _First(msgspec.Struct, array_like=True):
    entry: _Listed


class _List(msgspec.Struct):
    data: _First


_decode_list = msgspec.json.Decoder(_List).decode


def first_model(body: bytes) -> str:
    """Return the first name in a list of models; empty without one. The other entries are skipped, not decoded."""
    try:
        return _decode_list(body).data.entry.id
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return ""
