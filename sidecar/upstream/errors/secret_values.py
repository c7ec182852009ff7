"""Find secrets in a text, also parts of them, and however the text is wrapped, escaped or encoded.

Letters and digits count, in any case: between them a text may have anything else.  Every run of `RUN_LENGTH` of them that also
stands in a secret is found.  So neither a cut nor a gap in a secret leaves more than seven in a row, which are 42 bits of a
random key; keys in use have 128 or more.  Shorter runs also occur in ordinary words.
"""

from __future__ import annotations

import re
from base64 import b64decode, b64encode
from collections.abc import Iterable, Iterator
from functools import cached_property
from itertools import compress
from string import ascii_letters, digits

from .encoded_text import TooManyLayers, View, views_of

RUN_LENGTH, PART_STEP = 8, 4
"""Letters and digits of a run; each run has a part of `PART_STEP + 1` that begins at a multiple of `PART_STEP`."""
MIN_SECRET_LENGTH = 8
"""Shorter secrets are words such as `EMPTY` or `x`, for servers without keys: only the whole word is masked."""
MAX_CLIENT_SECRET_LENGTH = 2_048
"""Characters of a client's key that are compared."""
MAX_ENCODED_LENGTH = 256
"""Characters of a secret whose base64 and hexadecimal digits are compared as well."""

_AUTH_SCHEME = re.compile(r"(?:bearer|basic|token|api-?key)\s+(?=\S)", re.IGNORECASE)
_LETTER_GROUP = re.compile(r"[A-Za-z0-9]+")
_WORD_GROUP = re.compile(r"(?=[A-Za-z]{1,19}\Z)(?:[a-z]+|[A-Z]+|[a-z]*(?:[A-Z][a-z]{2,})+)")
"""A group of a secret that may be words: no digits, fewer than 20 letters, and upper case only where a word begins."""
_PLAIN_SENTENCE = re.compile(r"[A-Za-z]+(?: [A-Za-z]+)+")
_ALNUM_CHARACTERS = frozenset(ascii_letters + digits)
_LOWER_CASE = bytes(range(256)).lower()
_NOT_ALNUM = bytes(set(range(256)) - set((ascii_letters + digits).encode()))
_NOT_VISIBLE = bytes(set(range(256)) - set(range(33, 127)))


class Secrets:
    """The secrets *values* of one owner, prepared for searches at the first one. *longest* is compared of each."""

    def __init__(self, values: Iterable[str] = (), *, longest: int | None = None) -> None:
        found = (value for each in values for value in _expanded(each))
        self.values = tuple(dict.fromkeys(value[:longest] for value in found if value))

    def __repr__(self) -> str:
        return f"<Secrets: {len(self.values)}>"

    def plus(self, values: Iterable[str]) -> Secrets:
        """Return these secrets and *values*, the keys of a client."""
        others = Secrets(values, longest=MAX_CLIENT_SECRET_LENGTH)
        if not others.values:
            return self
        both = Secrets()
        both.values = self.values + others.values
        both._patterns = self._patterns.plus(others._patterns)
        return both

    @cached_property
    def _patterns(self) -> _Patterns:
        return _Patterns(self.values)

    def spans(self, text: str) -> list[tuple[int, int]]:
        """Return the ranges of *text* that hold secrets, in order and apart.

        Raise `TooManyLayers` for a text that is encoded too often to be searched.
        """
        if not self.values:
            return []
        patterns, before, whole = self._patterns, b"\0", None
        found = [each.span() for pattern in patterns.words for each in pattern.finditer(text)]
        for view in views_of(text):
            whole = whole or view
            found += patterns.literal_spans(view)
            folded = _folded(view.text)
            if folded != before:  # not a view that differs in white space alone
                found += patterns.spans(view, folded)
            before = folded
        if whole is not None:
            found += _spans(whole, patterns.encoded.spans(_folded(whole.text)))  # in another case than they decode in
        return _merged(found)

    def may_be_in(self, text: str) -> bool:
        """Whether *text* holds a part of a secret, or has too many layers of encoding to be searched."""
        try:
            return bool(self.spans(text))
        except TooManyLayers:
            return True

    def are_in(self, text: str) -> bool:
        """Whether *text*, which has no escapes, holds a part of a secret.  A microsecond: called once for each answer."""
        folded, patterns = _folded(text), self._patterns
        pieces = [folded[at : at + PART_STEP + 1] for at in range(0, len(folded) - PART_STEP, PART_STEP)]
        for runs in (patterns.plain, patterns.encoded):
            if not runs.parts.isdisjoint(pieces) and next(runs.spans(folded), None) is not None:
                return True
        return text in self.values or (bool(patterns.phrases) and any(each in folded for each in patterns.phrases))


NO_SECRETS = Secrets()


class _Runs:
    """Runs of letters and digits: `known` ones, those of them that are `distinctive` because they are no words, and `parts` of them."""

    def __init__(self) -> None:
        self.known, self.distinctive, self.parts = set[bytes](), set[bytes](), set[bytes]()

    def add(self, folded: bytes, words: set[int]) -> bool:
        """Add the runs of *folded*, in which *words* are the places of words; return whether one of them is distinctive."""
        starts = range(len(folded) - RUN_LENGTH + 1)
        distinctive = [at for at in starts if not words.issuperset(range(at, at + RUN_LENGTH))] if words else starts
        if distinctive:
            self.distinctive.update(folded[at : at + RUN_LENGTH] for at in distinctive)
            self.known.update(folded[at : at + RUN_LENGTH] for at in starts)
            self.parts.update(folded[at : at + PART_STEP + 1] for at in range(len(folded) - PART_STEP))
        return bool(distinctive)

    def include(self, other: _Runs) -> None:
        """Add the runs of *other*."""
        self.known |= other.known
        self.distinctive |= other.distinctive
        self.parts |= other.parts

    def spans(self, folded: bytes) -> Iterator[tuple[int, int]]:
        """Yield the ranges of *folded* with distinctive runs and the known ones beside them.  Linear: no range is read twice."""
        end, parts, known = 0, self.parts, self.known
        for at in range(0, len(folded) - PART_STEP, PART_STEP):
            if folded[at : at + PART_STEP + 1] not in parts or at + PART_STEP < end:
                continue
            for found in range(at, max(-1, at - PART_STEP), -1):
                if folded[found : found + RUN_LENGTH] in self.distinctive:
                    break
            else:
                continue
            first = last = found
            while first > end and folded[first - 1 : first - 1 + RUN_LENGTH] in known:
                first -= 1
            while folded[last + 1 : last + 1 + RUN_LENGTH] in known:
                last += 1
            end = last + RUN_LENGTH
            yield first, end


class _Patterns:
    """What is searched for *values*.

    `plain` are runs of the secrets, `encoded` those of their base64 and hexadecimal digits.  `phrases` are secrets of words alone.
    `literals` have few letters and digits; `words` are short.
    """

    def __init__(self, values: Iterable[str]) -> None:
        self.plain, self.encoded = _Runs(), _Runs()
        self.phrases, self.literals = list[bytes](), list[bytes]()
        self.words: list[re.Pattern[str]] = []
        for value in values:
            self._add(value)

    def plus(self, other: _Patterns) -> _Patterns:
        """Return what is searched for both."""
        both = _Patterns(())
        for each in (self, other):
            both.plain.include(each.plain)
            both.encoded.include(each.encoded)
            both.phrases += each.phrases
            both.literals += each.literals
            both.words += each.words
        return both

    def _add(self, value: str) -> None:
        folded = _folded(value)
        if len(value) < MIN_SECRET_LENGTH:
            self.words.append(re.compile(rf"(?<![^\W_]){re.escape(value)}(?![^\W_])"))
        elif len(folded) < RUN_LENGTH:
            self.literals.append(_visible(value))
        elif not self.plain.add(folded, _word_letters(value)):
            self.phrases.append(folded)
        raw = value.encode()
        if MIN_SECRET_LENGTH <= len(raw) <= MAX_ENCODED_LENGTH:
            self.encoded.add(_folded(raw.hex()), set())
            # A secret can start at each of three offsets in base64; its first and last digits may be shared with others.
            for before, skipped in ((0, 0), (1, 2), (2, 3)):
                encoded = b64encode(bytes(before) + raw).decode()[skipped : (before + len(raw)) * 8 // 6]
                self.encoded.add(_folded(encoded), set())

    def spans(self, view: View, folded: bytes) -> list[tuple[int, int]]:
        """Return the ranges of the original text whose letters and digits in *view*, *folded*, hold secrets."""
        return _spans(view, (*self.plain.spans(folded), *self._phrase_spans(view, folded)))

    def _phrase_spans(self, view: View, folded: bytes) -> Iterator[tuple[int, int]]:
        """Yield the ranges of *folded* that are secrets of words, but not where a sentence has these words."""
        for phrase in self.phrases:
            at, indexes = folded.find(phrase), list[int]()
            while at >= 0:
                end = at + len(phrase)
                indexes = indexes or _indexes(view.text)
                if not _PLAIN_SENTENCE.fullmatch(view.text, indexes[at], indexes[end - 1] + 1):
                    yield at, end
                at = folded.find(phrase, end)
            for size in range(len(phrase) - 1, RUN_LENGTH - 1, -1):
                if folded.endswith(phrase[:size]):  # cut
                    yield len(folded) - size, len(folded)
                    break

    def literal_spans(self, view: View) -> Iterator[tuple[int, int]]:
        """Yield the ranges of the original text that hold secrets of few letters and digits."""
        visible = _visible(view.text) if self.literals else b""
        for literal in self.literals:
            at, indexes = visible.find(literal), list[int]()
            while at >= 0:
                end = at + len(literal)
                indexes = indexes or [at for at, char in enumerate(view.text) if "!" <= char <= "~"]
                yield view.span(indexes[at], indexes[end - 1])
                at = visible.find(literal, end)


def _spans(view: View, found: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return the ranges of the original text for those of letters and digits of *view*, which are then blank."""
    if not (found := list(found)):
        return []
    indexes = _indexes(view.text)
    places = [(indexes[first], indexes[end - 1]) for first, end in found]
    spans = [view.span(first, last) for first, last in places]
    view.blank(places)
    return spans


def _indexes(text: str) -> list[int]:
    """Return the places of the letters and digits of *text*."""
    return list(compress(range(len(text)), map(_ALNUM_CHARACTERS.__contains__, text)))


def _expanded(value: str) -> Iterator[str]:
    """Yield *value*, the value of a header or a password; of a scheme and credentials, the latter and what they encode."""
    scheme = _AUTH_SCHEME.match(value)
    credentials = value[scheme.end() :].strip() if scheme else value
    yield credentials
    if scheme and scheme[0].lower().startswith("basic"):
        try:
            yield b64decode(credentials).decode("utf-8", "replace").partition(":")[2]
        except ValueError:
            return


def _folded(text: str) -> bytes:
    """Return the letters and digits of *text* in lower case."""
    return text.encode("ascii", "ignore").translate(_LOWER_CASE, _NOT_ALNUM)


def _visible(text: str) -> bytes:
    """Return the characters of *text* without white space, in lower case."""
    return text.encode("ascii", "ignore").translate(_LOWER_CASE, _NOT_VISIBLE)


def _word_letters(value: str) -> set[int]:
    """Return the places, among the letters and digits of *value*, of those that are words."""
    found, at = set[int](), 0
    for group in _LETTER_GROUP.findall(value):
        if _WORD_GROUP.fullmatch(group):
            found.update(range(at, at + len(group)))
        at += len(group)
    return found


def _merged(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return *spans* in order, those that touch as one."""
    merged: list[tuple[int, int]] = []
    for start, end in sorted(spans):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged
