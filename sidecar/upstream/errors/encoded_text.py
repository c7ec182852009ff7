"""Undo escapes, encodings and line wraps of a text, and map what is found there back to the text as it was sent.

`views_of` yields readings of one text: as it is, without escapes, without tags and white space, and the same of what its
base64 and hexadecimal digits encode.  Any one of them may be a misreading (`50%de` has no escape), so all are searched.
The time is linear in the length of the text: each pass removes characters, and passes and decoded characters are bounded.
"""

from __future__ import annotations

import re
import sys
from binascii import a2b_base64, a2b_hex
from collections.abc import Callable, Iterable, Iterator, Sequence
from html.entities import html5
from itertools import compress
from string import ascii_letters, digits, hexdigits
from typing import TypeAlias
from unicodedata import normalize

MAX_PASSES = 16
"""Passes over one text: each removes gaps, or undoes all levels of one escape, such as JSON in JSON in JSON."""
MAX_DECODED_CHARACTERS = 8_000
"""Characters that the digits of one text may encode, at all levels together."""
MIN_DECODED_LENGTH = 8
"""Shorter pieces of decoded digits are noise."""

_ESCAPE_PATTERN = re.compile(
    r"\\(?<!\\\\)\\*+(?:u\{([0-9a-f]{1,6})\}|(?-i:U)0000([0-9a-f]{4})|u([0-9a-f]{4})|x([0-9a-f]{2})"
    r"|([0-3][0-7]{2})|([a-tvwyz0-9\"'/]))"
    r"|%(?:25)*(?:u([0-9a-f]{4})|([0-9a-f]{2}))"
    r"|=(?:3D)*((?-i:[0-9A-F]{2}))"
    r"|&(?:amp;)*(?:#x([0-9a-f]{1,6})(?:;|(?=[!-$&-/:>-@G-\[\]-`g-~]))|#([0-9]{1,7})(?:;|(?=[!-$&-/:>-\[\]-~]))"
    r"|([a-z][a-z0-9]{1,30};))",
    re.IGNORECASE,
)
"""Escapes of JSON, C and Rust; of URLs; of HTML; and of quoted-printable."""
_OCTAL_GROUP, _PLAIN_GROUP, _DECIMAL_GROUP, _NAMED_GROUP = 5, 6, 11, 12
"""Numbers of groups of `_ESCAPE_PATTERN`; the others are hexadecimal."""
_ESCAPE_STARTS = frozenset("\\%&=")
_WHITE_LETTERS = frozenset("nrtfvbae0")
"""Letters behind a backslash that stand for a control character."""
_GAP_PATTERN = re.compile(
    r"\x1b?\[\d{0,3}(?:;\d{0,3}){0,5}m|\x1b\[[0-?]{0,20}[ -/]{0,3}[@-~]"
    r"|</?[a-z][a-z0-9]{0,9}(?:\s{0,4}[a-z-]{1,20}=[\"'][^\"'<>%&\\]{0,30}[\"']){0,4}\s{0,4}/?>"
    r"|=\r?\n(?![0-9A-F]{2})|[^!-~]+",
    re.IGNORECASE,
)
"""What wraps or marks a word: terminal codes, tags, soft breaks, white space, characters beyond ASCII."""
_STYLED_LETTERS = re.compile(r"[\uff01-\uff5e\U0001d400-\U0001d7ff]")
"""Wide letters, and those for formulas."""
_HEX_PREFIX = re.compile(r"0x(?=[0-9a-f]{2})", re.IGNORECASE)
_BASE64_DIGITS = frozenset(ascii_letters + digits + "+/-_")
_HEX_DIGITS = frozenset(hexdigits)
_NOT_BASE64, _NOT_HEX = (
    bytes(byte for byte in range(256) if chr(byte) not in kept) for kept in (_BASE64_DIGITS, _HEX_DIGITS)
)
_FROM_URL_SAFE = bytes.maketrans(b"-_", b"+/")
_PRINTABLE_PIECE = re.compile(
    rb"(?:[\t\n\r -~](?:\0{1,7}|(?:[\xc2-\xdf][\x80-\xbf]|[\xe0-\xef][\x80-\xbf]{2}|[\xf0-\xf4][\x80-\xbf]{3}){1,4})?){%d,}"
    % MIN_DECODED_LENGTH
)
"""With NUL, so that UTF-16 and UTF-32 count, and with a few other characters in UTF-8: a gap, such as a soft hyphen."""
_BLANK_CHARACTER = "\0"
Places: TypeAlias = tuple[Sequence[int], Sequence[int]]


class TooManyLayers(Exception):
    """A text has more layers of encoding than are undone."""


class View:
    """One reading of a text. *locate* returns where each character begins and ends in *parent*."""

    def __init__(self, text: str, parent: View | None = None, locate: Callable[[], Places] = lambda: ([], [])) -> None:
        self.text, self._parent, self._locate = text, parent, locate
        self._places: Places | None = None

    def span(self, first: int, last: int) -> tuple[int, int]:
        """Return the range of the original text that holds the characters *first* to *last* of this view."""
        if self._parent is None:
            return first, last + 1
        if self._places is None:
            self._places = self._locate()
        start, end = self._places[0][first], self._places[1][last] - 1
        return self._parent.span(min(start, end), max(start, end))

    def blank(self, spans: Iterable[tuple[int, int]]) -> None:
        """Replace the characters in *spans*, first and last of each, so that no view that is yet to come has them."""
        pieces, at = list[str](), 0
        for first, last in sorted(spans):
            if last >= at:
                start = max(first, at)
                pieces += [self.text[at:start], _BLANK_CHARACTER * (last + 1 - start)]
                at = last + 1
        self.text = "".join([*pieces, self.text[at:]])


def views_of(text: str) -> Iterator[View]:
    """Yield the readings of *text*. Raise `TooManyLayers` where they go beyond the limits."""
    starts, left = [View(text)], MAX_DECODED_CHARACTERS
    while starts:
        view = starts.pop()
        for plainer in _unescaped(view):
            yield plainer
            view = plainer
        inner = list(_decoded(view))
        left -= sum(len(each.text) for each in inner)
        if left < 0:
            raise TooManyLayers
        starts += inner


def _unescaped(view: View) -> Iterator[View]:
    """Yield *view*, and readings with ever fewer gaps and escapes; the last one has none.

    Gaps go first: an escape may itself be wrapped.
    """
    yield view
    if not view.text.isascii() and (plain := _replaced(view, _STYLED_LETTERS, _normalized)) is not None:
        view = plain
        yield view
    for _ in range(MAX_PASSES):
        other = _replaced(view, _GAP_PATTERN, _nothing)
        if other is None and not _ESCAPE_STARTS.isdisjoint(view.text):
            other = _replaced(view, _ESCAPE_PATTERN, _character)
        if other is None:
            return
        view = other
        yield view
    raise TooManyLayers


def _replaced(view: View, pattern: re.Pattern[str], replace: Callable[[re.Match[str]], str]) -> View | None:
    """Return *view* with the matches of *pattern* replaced; None where nothing changes."""
    source = view.text
    text = pattern.sub("" if replace is _nothing else replace, source)
    if text == source:
        return None

    def locate() -> Places:
        starts, ends = list[int](), list[int]()
        at = 0
        for found in pattern.finditer(source):
            start, end = found.span()
            starts += range(at, start)
            ends += range(at + 1, start + 1)
            size = len(replace(found))
            starts += (start,) * size
            ends += (end,) * size
            at = end
        starts += range(at, len(source))
        ends += range(at + 1, len(source) + 1)
        return starts, ends

    return View(text, view, locate)


def _nothing(_: re.Match[str]) -> str:
    return ""


def _normalized(found: re.Match[str]) -> str:
    return normalize("NFKC", found[0])


def _character(found: re.Match[str]) -> str:
    """Return the character that an escape stands for; the escape itself where there is none."""
    group = found.lastindex or _NAMED_GROUP
    value = found[group]
    if group == _PLAIN_GROUP:
        return "\n" if value in _WHITE_LETTERS else value
    if group == _NAMED_GROUP:
        return html5.get(value) or html5.get(value.lower()) or found[0]
    code = int(value, {_OCTAL_GROUP: 8, _DECIMAL_GROUP: 10}.get(group, 16))
    return chr(code) if code <= sys.maxunicode else found[0]


def _decoded(view: View) -> Iterator[View]:
    """Yield what the digits of *view* encode, whatever stands between, before and behind them, where it is readable."""
    yield from _from_digits(_only(view, _BASE64_DIGITS, _NOT_BASE64), 4, 6, _from_base64)
    plain = _replaced(view, _HEX_PREFIX, _nothing) if "0x" in view.text.lower() else None
    yield from _from_digits(_only(plain or view, _HEX_DIGITS, _NOT_HEX), 2, 4, a2b_hex)


def _only(view: View, kept: frozenset[str], others: bytes) -> View:
    """Return the characters of *view* in *kept*; *others* are all other bytes."""
    source = view.text

    def locate() -> Places:
        starts = list(compress(range(len(source)), map(kept.__contains__, source)))
        return starts, [at + 1 for at in starts]

    return View(source.encode("ascii", "ignore").translate(None, others).decode(), view, locate)


def _from_digits(view: View, size: int, bits: int, decode: Callable[[str], bytes]) -> Iterator[View]:
    """Yield what *view* encodes in groups of *size* digits of *bits* each, the first of which may lack some.

    Where the digits of a secret begin among others is unknown, and their groups with it.
    """
    text = view.text
    for padding in range(size):
        source = "A" * padding + text
        hidden = -(-padding * bits // 8)
        raw = decode(source + "A" * (-len(source) % size))[hidden : len(source) * bits // 8]
        pieces = [(found[0].decode("latin-1"), hidden + found.start()) for found in _PRINTABLE_PIECE.finditer(raw)]
        if not pieces:
            continue

        def locate(pieces: list[tuple[str, int]] = pieces, padding: int = padding) -> Places:
            bytes_ = [index for piece, start in pieces for index in range(start, start + len(piece) + 1)]
            return [8 * at // bits - padding for at in bytes_], [(8 * at + 7) // bits + 1 - padding for at in bytes_]

        yield View("\n".join(piece for piece, _ in pieces), view, locate)


def _from_base64(digits: str) -> bytes:
    return a2b_base64(digits.encode().translate(_FROM_URL_SAFE))
