"""Secrets in texts: whatever is done to a text that quotes one, no eight letters and digits of it stay in a row."""

from __future__ import annotations

import re
from base64 import b64encode
from collections import Counter
from collections.abc import Callable
from string import ascii_letters, digits

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sidecar.upstream.errors.encoded_text import TooManyLayers
from sidecar.upstream.errors.redact import MAX_READ_LENGTH, redact
from sidecar.upstream.errors.secret_values import WINDOW, Secrets

Traced = list[tuple[str, frozenset[int]]]
"""The characters of a text, each with the places of the secret's characters that it tells something about."""
NOTHING: frozenset[int] = frozenset()


def traced(text: str) -> Traced:
    """Return *text*, whose characters are those of the secret."""
    return [(char, frozenset([at])) for at, char in enumerate(text)]


def by_character(escape: Callable[[str], str]) -> Callable[[Traced], Traced]:
    """Return an encoding that replaces each character by *escape* of it."""
    return lambda text: [(out, source) for char, source in text for out in escape(char)]


def by_digit(bits: int, digits_of: Callable[[bytes], str]) -> Callable[[Traced], Traced]:
    """Return an encoding of bytes by *digits_of*, whose digits tell *bits* each of the one or two bytes that they are part of."""

    def encode(text: Traced) -> Traced:
        sources = [source for char, source in text for _ in char.encode()]
        out = digits_of("".join(char for char, _ in text).encode())
        ends = [(bits * at // 8, min((bits * at + bits - 1) // 8, len(sources) - 1)) for at in range(len(out))]
        return [
            (char, sources[first] | sources[last] if first < len(sources) else NOTHING)
            for char, (first, last) in zip(out, ends, strict=True)
        ]

    return encode


ENCODINGS = {
    "json": by_character(lambda char: {'"': '\\"', "\\": "\\\\", "/": "\\/", "\n": "\\n", "\x1b": "\\u001b"}.get(char, char)),
    "unicode": by_character(lambda char: f"\\u{ord(char):04x}"),
    "rust": by_character(lambda char: f"\\u{{{ord(char):x}}}"),
    "c": by_character(lambda char: f"\\x{ord(char) & 255:02X}"),
    "url": by_character(lambda char: char if char.isalnum() and char.isascii() else "".join(f"%{byte:02X}" for byte in char.encode())),
    "whole url": by_character(lambda char: "".join(f"%{byte:02x}" for byte in char.encode())),
    "html": by_character(lambda char: {"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "/": "&sol;", "-": "&hyphen;"}.get(char, char)),
    "decimal html": by_character(lambda char: f"&#{ord(char)};"),
    "hexadecimal html": by_character(lambda char: f"&#x{ord(char):X};"),
    "quoted printable": by_character(lambda char: "".join(f"={byte:02X}" for byte in char.encode())),
    "base64": by_digit(6, lambda raw: b64encode(raw).decode()),
    "base64 for urls": by_digit(6, lambda raw: b64encode(raw, b"-_").decode().rstrip("=")),
    "hexadecimal": by_digit(4, bytes.hex),
    "spaced hexadecimal": lambda text: wrapped(ENCODINGS["hexadecimal"](text), 2, " "),
    "utf-16": by_character(lambda char: f"{char}\0"),
    "swapped case": by_character(str.swapcase),
}  # fmt: skip
GAPS = ("\n", "\r\n", " ", "\t", " \n ", "\u00ad", "\u200b", "\x1b[0m", "\x1b[1;31m", "<br>", "<wbr/>", "</b>", '<span class="k">')
KEYS = st.builds(
    str.__add__,
    st.sampled_from(["", "sk-proj-", "sk-ant-api03-", "gsk_", "AIza"]),
    st.text(ascii_letters + digits + "-_+/", min_size=20, max_size=60).filter(
        lambda key: all(any(char.isdigit() for char in key[at : at + 4]) for at in range(len(key) - 3))
    ),
)


def wrapped(text: Traced, width: int, gap: str) -> Traced:
    """Return *text* with *gap* behind each *width* characters."""
    found: Traced = []
    for at in range(0, len(text), width):
        found += [*text[at : at + width], *((char, NOTHING) for char in gap)]
    return found


def longest_left(key: str, text: Traced, shown: Traced) -> int:
    """Return how many letters and digits of *key* in a row are in *shown*, what is left of *text*, with all that tells them."""
    told, left = (Counter(at for _, source in part for at in source) for part in (text, shown))
    runs = "".join("x" if left[at] == told[at] else " " for at, char in enumerate(key) if char.isalnum())
    return max(map(len, runs.split()), default=0)


@settings(max_examples=300, deadline=None)
@given(
    key=KEYS,
    names=st.lists(st.sampled_from(sorted(ENCODINGS)), max_size=3),
    prefix=st.text(ascii_letters + " ", max_size=5),
    wrap=st.none() | st.tuples(st.integers(6, 80), st.sampled_from(GAPS)),
    wraps_first=st.booleans(),
    cut=st.tuples(st.floats(0, 0.4), st.floats(0.6, 1)),
)
@example(key="Ab1Cd2Ef3Gh4Ij5Kl6Mn7", names=["unicode"], prefix="", wrap=(7, "\n"), wraps_first=False, cut=(0, 1))
def test_no_run_of_a_secret_is_left(
    key: str,
    names: list[str],
    prefix: str,
    wrap: tuple[int, str] | None,
    cut: tuple[float, float],
    *,
    wraps_first: bool,
) -> None:
    """Nested encodings, wraps and cuts in any combination leave less than `WINDOW` letters and digits in a row."""
    text = [*((char, NOTHING) for char in prefix), *traced(key)]
    if wrap and wraps_first:
        text = wrapped(text, *wrap)
    for name in names:
        text = ENCODINGS[name](text)
    if wrap and not wraps_first:
        text = wrapped(text, *wrap)
    first, last = int(len(text) * cut[0]), int(len(text) * cut[1])
    raw = "".join(char for char, _ in text[first:last])
    try:
        spans = Secrets([key]).spans(raw)
    except TooManyLayers:
        return
    hidden = frozenset(first + at for start, end in spans for at in range(start, end))
    shown = [each for at, each in enumerate(text) if first <= at < last and at not in hidden]
    assert longest_left(key, text, shown) < WINDOW, raw
