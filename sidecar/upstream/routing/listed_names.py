"""The names in a list of models, and how a requested name matches them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from enum import IntEnum
from itertools import islice

import msgspec

MAX_LISTED_MODELS = 10_000
"""Models of one upstream that are known; further ones of its list are not."""
MAX_MODEL_NAME_LENGTH = 256
"""Characters of a name that is compared with lists and patterns; a longer one is left out."""
MAX_LISTED_VALUES = 100_000
"""Values of a list of models: OpenRouter's list of 400 models has 25,000."""
ENTRIES_PER_ITERATION = 100
LATEST_TAG = ":latest"
"""Ollama's tag of a model that is named without one."""


class Fit(IntEnum):
    """How well an upstream's models fit a requested name; the upstreams with the best fit serve it."""

    NOT = 0
    CATCH_ALL = 1
    """Only by the alias `*`."""
    OTHER_CASE = 2
    """Listed in another case."""
    SERVED = 3


class _List(msgspec.Struct):
    data: list[msgspec.Raw]


class _Entry(msgspec.Struct):
    id: str


_decode_list = msgspec.json.Decoder(_List).decode
_decode_entry = msgspec.json.Decoder(_Entry).decode


async def entries_of(body: bytes) -> list[tuple[str, msgspec.Raw]]:
    """Return the ids and entries of the list of models in *body*, read in several event-loop iterations.

    Raises `ValueError` if it is not a list as OpenAI defines it, or too long.
    """
    if body.count(b",") > MAX_LISTED_VALUES:
        msg = "the list of models is too long"
        raise ValueError(msg)
    found = []
    try:
        for at, raw in enumerate(_decode_list(body).data, start=1):
            found.append((_decode_entry(raw).id, raw))
            if at % ENTRIES_PER_ITERATION == 0:
                await asyncio.sleep(0)
    except RecursionError as error:
        msg = "the list of models is nested too deeply"
        raise ValueError(msg) from error
    return found


class ListedNames:
    """The models that an upstream lists.  `x` and `x:latest` are the same model."""

    __slots__ = ("_exact", "_folded", "_plain", "names")

    def __init__(self, names: Iterable[str]) -> None:
        kept = (name for name in names if name and len(name) <= MAX_MODEL_NAME_LENGTH)
        self.names = tuple(dict.fromkeys(islice(kept, MAX_LISTED_MODELS)))
        """In the order of the list."""
        self._exact = frozenset(self.names)
        self._plain = frozenset(map(plain_name, self.names))
        self._folded = frozenset(name.lower() for name in self._plain)

    def fit(self, name: str) -> Fit:
        """Return how *name*, of any length, fits.  Another case fits less: some servers ignore case, and some do not."""
        if len(name) > MAX_MODEL_NAME_LENGTH:
            return Fit.NOT
        plain = plain_name(name)
        if plain in self._plain:
            return Fit.SERVED
        return Fit.OTHER_CASE if plain.lower() in self._folded else Fit.NOT

    def spelled(self, name: str) -> str:
        """Return *name* as a server that lists it expects it: without `:latest` where the list has it only without.

        The other direction needs no change: Ollama itself adds the tag.
        """
        if not name.endswith(LATEST_TAG) or name in self._exact:
            return name
        plain = name.removesuffix(LATEST_TAG)
        return plain if plain in self._exact else name


def plain_name(name: str) -> str:
    """Return *name* without the tag `:latest`."""
    return name.removesuffix(LATEST_TAG)
