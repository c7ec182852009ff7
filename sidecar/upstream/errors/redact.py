"""Redact upstream's error texts for clients: no keys, hosts, paths or stack traces, at most 2,000 characters.

The time is linear in the length of any text: each pattern is bounded or reads no character twice.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from .encoded_text import TooManyLayers
from .hostnames import mask_hosts
from .opaque_words import mask_opaque_words
from .secret_values import NO_SECRETS, Secrets

MAX_TEXT_LENGTH = 2_000
MAX_READ_LENGTH = 4_000
"""Characters of one error that are read."""
REDACTED_MARK = "[redacted]"
PAGE_MESSAGE = "The upstream answered with a page instead of an API error."
ENCODED_MESSAGE = "The upstream's error text is encoded too often to be shown."
_TEXT_SEPARATOR = "\n" * 9
"""Stands between texts that are searched together: more white space than any pattern crosses."""

_HTML_TAG = re.compile(r"<(?:!doctype|html|head|body)\b", re.IGNORECASE)
_LEADING_MARKUP = re.compile(
    r"[\s\ufeff]*<(?:[!?]|[a-z][a-z0-9:]{0,20}(?:\s[^>]{0,500})?>(?s:.{0,8000})</)", re.IGNORECASE
)
_STACK_TRACES = (
    (
        ("traceback", "line", "goroutine", "panic", "trace:", "main."),
        re.compile(
            r"Traceback \(most recent call last\)|File \\?\"[^\"\n]{0,300}\", line \d|goroutine \d{1,9} \[|panicked at\b"
            r"|\b(?:stack ?trace|stack backtrace|panic):|\bmain\.\w{1,60}\(0x",
            re.IGNORECASE,
        ),
    ),
    (
        ("at ", "at\t", "at\n"),
        re.compile(
            r"\bat\s{1,4}(?:(?=[\w$<>/]{1,100}\.)[\w$.<>/]{1,200}\(|\S{1,200}:\d{1,7}:\d{1,7}\b)", re.IGNORECASE
        ),
    ),
    (("(",), re.compile(r"\s\([^\s()]{1,200}:\d{1,7}:\d{1,7}\)")),
)
"""Texts of which one stands in each match, and the pattern."""
_TRACE_FRAME = re.compile(r"at(?:(?<=\sat)|(?<=\\[nrt]at))\s{1,9}(?:\S{0,200}[.(/:<]\S|\S{1,100}\s\()")
"""A line of a stack trace, if only white space stands between it and a line break, which may be escaped."""
_LINE_START = re.compile(r"(?:[\r\n]|\\[nr])(?:\s|\\[nrt])*+\Z")
MAX_INDENT = 80
_ESCAPED_SLASH = r"(?:\\{0,4}/|\\{1,4}u002f|%2f)"
"""A slash, also as JSON in JSON and percent-encoding have it; OpenRouter quotes a provider's JSON as a string."""
_SLASH_FORMS = ("/", "%2f", "u002f")
_MASKED_PATTERNS = (
    (_SLASH_FORMS, re.compile(rf"\b[a-z][a-z0-9+.-]{{1,20}}:{_ESCAPED_SLASH}{{2}}[^\s\"'<>]+", re.IGNORECASE)),
    (("-", "_"), re.compile(r"\b(?:sk|pk|rk|gsk|xai|hf|key|ghp|AIza)[-_][A-Za-z0-9*_\-.]{6,}")),
    (("aiza",), re.compile(r"\bAIza[A-Za-z0-9_\-]{10,}")),
    (("bearer", "basic"), re.compile(r"\b(?:bearer|basic)\s{1,8}[A-Za-z0-9+/=._~\-]{6,}", re.IGNORECASE)),
    (
        ("key", "token", "secret", "password", "authorization"),
        re.compile(
            r"\b(?:api[-_ ]?key|token|secret|password|authorization)\\{0,4}[\"']?\s{0,8}[:=]\s{0,8}\\{0,4}[\"']?[^\s\"',;]{4,}",
            re.IGNORECASE,
        ),
    ),
    (("\\",), re.compile(r"\b[A-Za-z]:\\[\w\\.@+ -]+|\\\\[\w.-]{1,100}\\[\w\\.@+$-]+")),
    (
        _SLASH_FORMS,
        re.compile(
            rf"(?:(?<![\w/])|(?<=\\[nrt])){_ESCAPED_SLASH}(?:[\w.@+-]+{_ESCAPED_SLASH})+[\w.@+-]*", re.IGNORECASE
        ),
    ),
)
"""Texts of which one stands in each match, and the pattern.  To look for the former takes a hundredth of the time."""


def redact(text: str, secrets: Secrets = NO_SECRETS) -> str:
    """Return *text* with *secrets* and anything like a secret masked, cut to 2,000 characters.

    Keys, URLs, host names, addresses and file paths are masked, stack traces and control characters removed, and an HTML
    page is replaced.  Plain sentences are unchanged.
    """
    return redact_all([text[:MAX_READ_LENGTH]], secrets)[0]


def redact_all(texts: Sequence[str], secrets: Secrets = NO_SECRETS) -> list[str]:
    """Return *texts*, the parts of one error, redacted as by `redact`; a secret may be split over several of them.

    The caller bounds their length: `MAX_READ_LENGTH` in all.
    """
    if not texts:
        return []
    try:
        spans = secrets.spans("\n".join(texts))
    except TooManyLayers:
        return [ENCODED_MESSAGE] * len(texts)
    masked = _masked(texts, spans) if spans else texts
    shown = [PAGE_MESSAGE if _is_page(text) else each for text, each in zip(texts, masked, strict=True)]
    if _trace_start("\n\0\n".join(shown)) is not None:
        shown = [text[: _trace_start(text)] for text in shown]
    joined = _TEXT_SEPARATOR.join(map(_printable, shown))
    lowered = joined.lower()
    for parts, pattern in _MASKED_PATTERNS:
        if any(part in lowered for part in parts):
            joined = pattern.sub(REDACTED_MARK, joined)
    joined = mask_opaque_words(mask_hosts(joined, REDACTED_MARK), REDACTED_MARK)
    return [_cut(text) for text in joined.split(_TEXT_SEPARATOR)]


def _is_page(text: str) -> bool:
    return "<" in text and (_HTML_TAG.search(text) or _LEADING_MARKUP.match(text)) is not None


def _masked(texts: Sequence[str], spans: Sequence[tuple[int, int]]) -> Iterator[str]:
    """Yield *texts* with a mark for the parts of each in *spans*, ranges of all texts with a character between them."""
    start, at = 0, 0
    for text in texts:
        end, read, pieces = start + len(text), start, []
        while at < len(spans) and spans[at][0] < end:
            first, last = max(spans[at][0], start), min(spans[at][1], end)
            pieces += [text[read - start : first - start], REDACTED_MARK]
            read = last
            if spans[at][1] > end:
                break
            at += 1
        yield "".join([*pieces, text[read - start :]])
        start = end + 1
        while at < len(spans) and spans[at][1] <= start:
            at += 1


def _trace_start(text: str) -> int | None:
    """Return where the first stack trace in *text* starts; None without one."""
    lowered, first = text.lower(), len(text)
    for parts, pattern in _STACK_TRACES:
        if any(part in lowered for part in parts) and (found := pattern.search(text)):
            first = min(first, found.start())
    for frame in _TRACE_FRAME.finditer(text):
        if frame.start() > first:
            break
        if line := _LINE_START.search(text, max(0, frame.start() - MAX_INDENT), frame.start()):
            return min(first, line.start())
    return first if first < len(text) else None


def _printable(text: str) -> str:
    """Return *text* without control characters and line breaks."""
    return (text if text.isprintable() else "".join(char if char.isprintable() else " " for char in text)).strip()


def _cut(text: str) -> str:
    return text if len(text) <= MAX_TEXT_LENGTH else text[: MAX_TEXT_LENGTH - 1] + "…"
