"""Find the token counts in an error text, and what each of them counts, by the nouns and verbs beside it.

Servers word the same refusal in dozens of ways, but put a noun beside each number: "12 in the messages", "at most 4096
completion tokens", "max_model_len=4096".  The time is linear in the length of the text: each pattern is bounded.
"""

from __future__ import annotations

import re
from enum import Enum
from typing import NamedTuple

MAX_LIMIT_TEXT_LENGTH = 4_096
"""Characters of an error text that are read."""
MAX_NUMBERS = 32
"""Numbers of an error text that are read."""
CLAUSE_LENGTH = 160
"""Characters before a number that are searched for what it counts."""
MAX_INHERITED_LENGTH = 48
"""Characters between two numbers of one list, such as a range."""

OUTPUT_FIELD = r"max_?(?:(?:new|completion|output|gen)_?)?tok(?:en)?s(?:_to_sample)?|n_predict|num_predict"
"""Names of fields for the ceiling of an answer, in lower case."""
_NOUN_WORDS = re.compile(
    rf"(?P<output>\b(?:{OUTPUT_FIELD}|max(?:imum)?[ -](?:new[ -]|output[ -]|completion[ -])?tokens|completions?|outputs?|answers?)\b)"
    r"|(?P<context>\b(?:context|n_ctx|window)\w*|max_model_len|max_seq_len|max_total_tokens|max_num_tokens"
    r"|\b(?:model|sequence)[ _]len(?:gth)?)"
    r"|(?P<prompt>\b(?:prompts?|inputs?(?! (?:should|validation))|messages?(?!\[|\.\w)|functions|tools|query|conversation)\b"
    r"|n_prompt_tokens|n_keep|prompt_tokens|input_tokens)"
)
_NOUN_BEFORE = re.compile(
    rf"(?:{_NOUN_WORDS.pattern})(?: (?:length|tokens?|count|size|value|of|is|limit))*[\s`'\"(:=]*\Z"
)
"""A noun directly before a number: `max_tokens=16384`, `prompt length (12)`."""
_LINK_WORDS = "tokens?|in|for|from|of|the|your|text|new|which|is|are|maximum|max|allowed|number|value|supported|model"
_NOUN_AFTER = re.compile(
    rf"[\s`'\",]*(?:(?:{_LINK_WORDS})[\s`'\",]+){{0,8}}(?:{_NOUN_WORDS.pattern})"
    r"(?!(?: (?:length|tokens?|size|limit|is|of)){0,3}[\s`'\"]{0,3}[:=]?\s{0,3}[0-9])"
)
"""A noun that a number belongs to: `12 in the messages`, `8192, which is the maximum allowed number of output tokens`.

A noun directly before another number belongs to that one.
"""
_SUM_WORDS = re.compile(
    rf"\bsum of\b|\b(?:inputs?|prompt|messages?)\b[^.;:]{{0,40}}(?:\+|\bplus\b|\band\b)[^.;:]{{0,30}}\b(?:{OUTPUT_FIELD}|completion|output)\b"
)
"""A prompt and an answer together, which a context limits."""
_SENT_WORDS = re.compile(r"\b(?:requested|provided|given|got|received|resulted|contains?|has|sent)\b")
_USED_WORDS = re.compile(r"\b(?:used|current|remaining|left|already)\b")
_LIMIT_WORDS = re.compile(
    r"\b(?:limit|max(?:imum)?|at most|support(?:s|ed)?|only|allowed|allows|affords?|range|than|within|exceeds?|exceeded)\b"
    r"|<=?|>=?|\bshould be\b|\bmust be\b"
)
_TOKEN_NUMBER = re.compile(
    r"(?<![\w.$/-])(?<!\w\[)(?<![0-9]:)(?<!by )(?P<digits>[0-9]{1,3}(?:,[0-9]{3}){1,3}|[0-9]{1,9})(?:\.0)?(?![\w%]|[.,][0-9]|-[0-9])(?P<exclusive> ?\(exclusive\))?"
)
_OTHER_UNIT = re.compile(
    r"[\s-]*(?:char(?:acter)?s?|bytes?|[kmg]i?b|seconds?|secs?|s|ms|minutes?|hours?|days?|images?|requests?|messages?|items?"
    r"|strings?|times|credits?|free)\b"
)
_SENTENCE_END = re.compile(r"[.!?;](?=\s)|\n")
_COUNT_DIGITS = "([0-9]{1,9})"
_PROMPT_PLUS_OUTPUT = re.compile(
    rf"(?<![0-9]){_COUNT_DIGITS}\s{{0,3}}\+\s{{0,3}}{_COUNT_DIGITS}\s{{0,3}}>=?\s{{0,3}}{_COUNT_DIGITS}"
)
_OUTPUT_OVER_ROOM = re.compile(
    rf"(?<![0-9]){_COUNT_DIGITS}\s{{0,3}}>=?\s{{0,3}}{_COUNT_DIGITS}\s{{0,3}}-\s{{0,3}}{_COUNT_DIGITS}"
)
_ABOVE_NUMBER = re.compile(r"(?:\s\w{1,10})?\s{0,3}>=?\s{0,3}\Z")


class Noun(Enum):
    """What a number counts: tokens of the answer, of the prompt, of both together, or not known."""

    OUTPUT = "output"
    PROMPT = "prompt"
    CONTEXT = "context"
    UNKNOWN = ""


class Part(Enum):
    """The part of a number in a refusal: the limit, what the request has, or what others have used of the limit."""

    LIMIT = "limit"
    SENT = "sent"
    USED = "used"
    UNKNOWN = ""


class TokenNumber(NamedTuple):
    """A number in an error text; *sure*: its noun is directly beside it, and not that of an earlier number."""

    value: int
    noun: Noun
    part: Part
    sure: bool = True


def noun_of(word: re.Match[str]) -> Noun:
    """Return what the noun found by a pattern of this module counts."""
    return next(noun for noun in (Noun.OUTPUT, Noun.CONTEXT, Noun.PROMPT) if word[noun.value])


def nouns_in(text: str) -> frozenset[Noun]:
    """Return what the nouns in *text*, in lower case, count."""
    return frozenset(noun_of(word) for word in _NOUN_WORDS.finditer(text))


def token_numbers(text: str) -> list[TokenNumber]:
    """Return the numbers in *text*, in lower case, that may count tokens: no more than 32, in order."""
    found: list[TokenNumber] = []
    by_formula = _by_formula(text)
    start = last_end = 0
    for at, number in enumerate(_TOKEN_NUMBER.finditer(text)):
        if at == MAX_NUMBERS:
            break
        if _OTHER_UNIT.match(text, number.end()):
            start = number.end()
            continue
        clause = text[max(start, number.start() - CLAUSE_LENGTH) : number.start()]
        for end in _SENTENCE_END.finditer(clause):
            start = max(start, number.start() - len(clause) + end.end())
        clause = text[max(start, number.start() - CLAUSE_LENGTH) : number.start()]
        earlier = found[-1] if found and len(clause) <= MAX_INHERITED_LENGTH and start == last_end else None
        after = _NOUN_AFTER.match(text, number.end())
        noun, sure = _noun(clause, after, earlier)
        part = _part(clause, earlier)
        if (known := by_formula.get(number.start())) is not None:
            noun, part = known
        value = int(number["digits"].replace(",", "")) - (number["exclusive"] is not None)
        found.append(TokenNumber(value, noun, part, sure))
        start = last_end = number.end() if after is None else after.end()
    return found


def _by_formula(text: str) -> dict[int, tuple[Noun, Part]]:
    """Return noun and part of numbers in `180000 + 32000 > 200000` and `16384 > 4096 - 12`, by their position."""
    known: dict[int, tuple[Noun, Part]] = {}
    sent, limit = Part.SENT, Part.LIMIT
    for formula in _PROMPT_PLUS_OUTPUT.finditer(text):
        roles = ((Noun.PROMPT, sent), (Noun.OUTPUT, sent), (Noun.CONTEXT, limit))
        known.update((formula.start(at + 1), role) for at, role in enumerate(roles))
    for formula in _OUTPUT_OVER_ROOM.finditer(text):
        roles = ((Noun.OUTPUT, sent), (Noun.CONTEXT, limit), (Noun.UNKNOWN, Part.UNKNOWN))
        known.update((formula.start(at + 1), role) for at, role in enumerate(roles))
    return known


def _noun(clause: str, after: re.Match[str] | None, earlier: TokenNumber | None) -> tuple[Noun, bool]:
    """Return what a number behind *clause* counts, and whether that is sure."""
    if (direct := _NOUN_BEFORE.search(clause, max(0, len(clause) - 60))) is not None:
        return noun_of(direct), True
    if after is not None:
        return noun_of(after), True
    if _SUM_WORDS.search(clause):
        return Noun.CONTEXT, True
    words = list(_NOUN_WORDS.finditer(clause))
    if words:
        return noun_of(words[-1]), True
    if earlier is not None and not _SENT_WORDS.search(clause) and not _USED_WORDS.search(clause):
        return earlier.noun, False
    return Noun.UNKNOWN, False


def _part(clause: str, earlier: TokenNumber | None) -> Part:
    """Return the part of a number behind *clause*: by the nearest verb or comparison."""
    if earlier is not None and _ABOVE_NUMBER.fullmatch(clause):
        return Part.LIMIT
    nearest, part = -1, Part.UNKNOWN
    for pattern, each in ((_LIMIT_WORDS, Part.LIMIT), (_SENT_WORDS, Part.SENT), (_USED_WORDS, Part.USED)):
        for word in pattern.finditer(clause):
            if word.start() >= nearest:
                nearest, part = word.start(), each
    return part if part is not Part.UNKNOWN or earlier is None else earlier.part
