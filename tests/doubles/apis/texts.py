"""What the fake upstream's model generates, the same in all APIs."""

from __future__ import annotations

HELLO = ("Hello", ", Zoë 👋", '\n\ndata: {"not": "an event"}\n\n', "bye.")
"""Pieces of an answer: characters of several bytes, and text that looks like an event."""
WARM = ("It is 21 °C", " in Oslo.")
"""Pieces of the answer after the result of the tool."""
WEATHER = '{"city": "Oslo"}'
PERSON = '{"name": "Ada Lovelace", "born": 1815}'
THOUGHTS = ("A greeting", " is due.")
PIECE_LENGTH = 7
"""Characters of one piece of streamed JSON."""


def pieces(text: str) -> tuple[str, ...]:
    """Return *text* in pieces of `PIECE_LENGTH` characters."""
    return tuple(text[at : at + PIECE_LENGTH] for at in range(0, len(text), PIECE_LENGTH))


def arguments_of(name: str) -> str:
    """Return the arguments with which the model calls the tool *name*."""
    return WEATHER if name == "get_weather" else PERSON
