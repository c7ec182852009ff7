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
        patterns, before = self._patterns, b"\0"
        found = [each.span() for pattern in patterns.words for each in pattern.finditer(text)]
        for view in views_of(text):
            found += patterns.literal_spans(view)
            folded = _folded(view.text)
            if folded != before:  # not a view that differs in white space alone
                found += patterns.spans(view, folded)
            before = folded
        return _merged(found)

    def may_be_in(self, text: str) -> bool:
        """Whether *text* holds a part of a secret, or is encoded too often to tell."""
        try:
            return bool(self.spans(text))
        except TooManyLayers:
            return True

    def are_in(self, text: str) -> bool:
        """Whether *text*, which has no escapes, holds a part of a secret.  A microsecond: called once for each answer."""
        folded, patterns = _folded(text), self._patterns
        pieces = [folded[at : at + PART_STEP + 1] for at in range(0, len(folded) - PART_STEP, PART_STEP)]
        if not patterns.parts.isdisjoint(pieces) and next(patterns.run_spans(folded), None) is not None:
            return True
        return text in self.values or (bool(patterns.phrases) and any(each in folded for each in patterns.phrases))


NO_SECRETS = Secrets()


class _Patterns:
    """What is searched for *values*.

    `runs` are all runs of the secrets, `telling` those that are no words, `parts` the parts of either.  `phrases` are secrets of
    words alone.  `literals` have few letters and digits; `words` are short.
    """

    def __init__(self, values: Iterable[str]) -> None:
        self.runs, self.telling, self.parts = set[bytes](), set[bytes](), set[bytes]()
        self.phrases, self.literals = list[bytes](), list[bytes]()
        self.words: list[re.Pattern[str]] = []
        for value in values:
            self._add(value)

    def plus(self, other: _Patterns) -> _Patterns:
        """Return what is searched for both."""
        both = _Patterns(())
        for name, own in vars(self).items():
            theirs = getattr(other, name)
            setattr(both, name, own + theirs if isinstance(own, list) else own | theirs)
        return both

    def _add(self, value: str) -> None:
        folded = _folded(value)
        if len(value) < MIN_SECRET_LENGTH:
            self.words.append(re.compile(rf"(?<![^\W_]){re.escape(value)}(?![^\W_])"))
        elif len(folded) < RUN_LENGTH:
            self.literals.append(_visible(value))
        else:
            self._add_runs(folded, _word_letters(value))
        raw = value.encode()
        if MIN_SECRET_LENGTH <= len(raw) <= MAX_ENCODED_LENGTH:
            self._add_runs(_folded(raw.hex()), set())
            # A secret can start at each of three offsets in base64; its first and last digits may be shared with others.
            for before, skipped in ((0, 0), (1, 2), (2, 3)):
                encoded = b64encode(bytes(before) + raw).decode()[skipped : (before + len(raw)) * 8 // 6]
                self._add_runs(_folded(encoded), set())

    def _add_runs(self, folded: bytes, words: set[int]) -> None:
        starts = range(len(folded) - RUN_LENGTH + 1)
        telling = [at for at in starts if not words.issuperset(range(at, at + RUN_LENGTH))] if words else starts
        if words and not telling:
            self.phrases.append(folded)
            return
        self.telling.update(folded[at : at + RUN_LENGTH] for at in telling)
        self.runs.update(folded[at : at + RUN_LENGTH] for at in starts)
        self.parts.update(folded[at : at + PART_STEP + 1] for at in range(len(folded) - PART_STEP))

    def spans(self, view: View, folded: bytes) -> Iterator[tuple[int, int]]:
        """Yield the ranges of the original text whose letters and digits in *view*, *folded*, hold secrets."""
        found = [*self.run_spans(folded), *self._phrase_spans(view, folded)]
        if not found:
            return
        indexes = list(compress(range(len(view.text)), map(_ALNUM_CHARACTERS.__contains__, view.text)))
        for first, end in found:
            yield view.span(indexes[first], indexes[end - 1])
        view.blank([(indexes[first], indexes[end - 1]) for first, end in found])

    def run_spans(self, folded: bytes) -> Iterator[tuple[int, int]]:
        """Yield the ranges of *folded* that are parts of secrets.  Linear: no range is read twice."""
        end, parts, runs = 0, self.parts, self.runs
        for at in range(0, len(folded) - PART_STEP, PART_STEP):
            if folded[at : at + PART_STEP + 1] not in parts or at + PART_STEP < end:
                continue
            for found in range(at, max(-1, at - PART_STEP), -1):
                if folded[found : found + RUN_LENGTH] in self.telling:
                    break
            else:
                continue
            first = last = found
            while first > end and folded[first - 1 : first - 1 + RUN_LENGTH] in runs:
                first -= 1
            while folded[last + 1 : last + 1 + RUN_LENGTH] in runs:
                last += 1
            end = last + RUN_LENGTH
            yield first, end

    def _phrase_spans(self, view: View, folded: bytes) -> Iterator[tuple[int, int]]:
        """Yield the ranges of *folded* that are secrets of words, but not where a sentence has these words."""
        for phrase in self.phrases:
            at, indexes = folded.find(phrase), list[int]()
            while at >= 0:
                end = at + len(phrase)
                indexes = indexes or list(
                    compress(range(len(view.text)), map(_ALNUM_CHARACTERS.__contains__, view.text))
                )
                if not _PLAIN_SENTENCE.fullmatch(view.text, indexes[at], indexes[end - 1] + 1):
                    yield at, end
                at = folded.find(phrase, end)
            cut = next(
                (size for size in range(len(phrase) - 1, RUN_LENGTH - 1, -1) if folded.endswith(phrase[:size])), 0
            )
            if cut:
                yield len(folded) - cut, len(folded)

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
