"""Upstream's words, made fit for a stranger: no keys, no hosts, no paths, no traces, bounded.

Whatever the text, the work is linear in it: each pattern is bounded, or never looks at a character twice.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Sequence
from functools import lru_cache

from .hostnames import mask_hosts

MOST = 500
MASK = "[redacted]"
PAGE = "The upstream answered with a page instead of an API error."
DUMMY = 8
"""Secrets below this length are words like `EMPTY` for servers that want none: taken as they are."""

_PAGE = re.compile(r"<(?:!doctype|html|head|body)\b", re.IGNORECASE)
_MARKUP = re.compile(r"[\s\ufeff]*<(?:[!?]|[a-z][a-z0-9:]{0,20}(?:\s[^>]{0,500})?>(?s:.{0,8000})</)", re.IGNORECASE)
_TRACE = re.compile(
    r"Traceback \(most recent call last\)|File \\?\"[^\"\n]{0,300}\", line \d|goroutine \d{1,9} \[|panicked at\b"
    r"|\b(?:stack ?trace|stack backtrace|panic):"
    r"|(?:[\r\n]|\\[nr])(?:\s|\\[nrt]){0,40}at\s{1,9}(?:\S{0,200}[.(/:<]\S|\S{1,100}\s\()"
    r"|\bat\s{1,4}(?=[\w$<>/]{1,100}\.)[\w$.<>/]{1,200}\("
    r"|\bat\s{1,4}\S{1,200}:\d{1,7}:\d{1,7}\b|\s\([^\s()]{1,200}:\d{1,7}:\d{1,7}\)|\bmain\.\w{1,60}\(0x",
    re.IGNORECASE,
)
_MASKED = (
    re.compile(r"\b[a-z][a-z0-9+.-]{1,20}://[^\s\"'<>]+", re.IGNORECASE),
    re.compile(r"\b(?:sk|pk|rk|gsk|xai|hf|key|ghp|AIza)[-_][A-Za-z0-9*_\-.]{6,}"),
    re.compile(r"\bAIza[A-Za-z0-9_\-]{10,}"),
    re.compile(r"\b(?:bearer|basic)\s{1,8}[A-Za-z0-9+/=._~\-]{6,}", re.IGNORECASE),
    re.compile(
        r"\b(?:api[-_ ]?key|token|secret|password|authorization)[\"']?\s{0,8}[:=]\s{0,8}[\"']?[^\s\"',;]{4,}",
        re.IGNORECASE,
    ),
    re.compile(r"\b[A-Za-z]:\\[\w\\.@+ -]+|\\\\[\w.-]{1,100}\\[\w\\.@+$-]+"),
    re.compile(r"(?:(?<![\w/])|(?<=\\[nrt]))/(?:[\w.@+-]+/)+[\w.@+-]*"),
)


def redact(text: str, secrets: Sequence[str] = ()) -> str:
    """Return *text* without *secrets* and what looks like one, at most 500 characters of it.

    Keys, URLs, host names, addresses, file paths, stack traces and control characters go; plain sentences stay as they are.
    """
    text = text[: 16 * MOST]
    if _PAGE.search(text) or _MARKUP.match(text):
        return PAGE
    for secret in secrets:
        if secret:
            text = _written(secret).sub(MASK, text)
    if trace := _TRACE.search(text):
        text = text[: trace.start()]
    text = "".join(char if char.isprintable() else " " for char in text).strip()
    for pattern in _MASKED:
        text = pattern.sub(MASK, text)
    text = mask_hosts(text, MASK)
    return text if len(text) <= MOST else text[: MOST - 1] + "…"


@lru_cache(maxsize=256)
def _written(secret: str) -> re.Pattern[str]:
    """Return what finds *secret* in any case, percent-encoded in whole or in part, or within something in base64."""
    if len(secret) < DUMMY:
        return re.compile(re.escape(secret))
    forms = ["".join(_character(char) for char in secret)]
    raw = secret.encode()
    for before, skipped in (
        (0, 0),
        (1, 2),
        (2, 3),
    ):  # where a secret begins within three bytes, and what it shares a digit with
        digits = b64encode(bytes(before) + raw).decode()[skipped : (before + len(raw)) * 8 // 6]
        forms += [re.escape(digits), re.escape(digits.replace("+", "-").replace("/", "_"))]
    return re.compile("|".join(forms), re.IGNORECASE)


def _character(char: str) -> str:
    encoded = {"".join(f"%{byte:02x}" for byte in form.encode()) for form in (char, char.lower(), char.upper())}
    return f"(?:{'|'.join([re.escape(char), *sorted(encoded)])})"
