"""Redact upstream's error texts for clients: no keys, hosts, paths or stack traces, at most 2,000 characters.

The time is linear in the length of any text: each pattern is bounded or reads no character twice.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Sequence
from functools import lru_cache
from html import escape

from .hostnames import mask_hosts

MAX_TEXT_LENGTH = 2_000
MAX_READ_LENGTH = 8_000
"""Characters of a text that are read; the slowest one of this length takes about 12 ms."""
REDACTED_MARK = "[redacted]"
PAGE_MESSAGE = "The upstream answered with a page instead of an API error."
MIN_SECRET_LENGTH = 8
"""Shorter secrets are words such as `EMPTY` or `x`, for servers without keys: only the whole word is masked."""

_HTML_TAG = re.compile(r"<(?:!doctype|html|head|body)\b", re.IGNORECASE)
_LEADING_MARKUP = re.compile(
    r"[\s\ufeff]*<(?:[!?]|[a-z][a-z0-9:]{0,20}(?:\s[^>]{0,500})?>(?s:.{0,8000})</)", re.IGNORECASE
)
_STACK_TRACE = re.compile(
    r"Traceback \(most recent call last\)|File \\?\"[^\"\n]{0,300}\", line \d|goroutine \d{1,9} \[|panicked at\b"
    r"|\b(?:stack ?trace|stack backtrace|panic):"
    r"|(?:[\r\n]|\\[nr])(?:\s|\\[nrt]){0,40}at\s{1,9}(?:\S{0,200}[.(/:<]\S|\S{1,100}\s\()"
    r"|\bat\s{1,4}(?=[\w$<>/]{1,100}\.)[\w$.<>/]{1,200}\("
    r"|\bat\s{1,4}\S{1,200}:\d{1,7}:\d{1,7}\b|\s\([^\s()]{1,200}:\d{1,7}:\d{1,7}\)|\bmain\.\w{1,60}\(0x",
    re.IGNORECASE,
)
_ESCAPED_SLASH = r"(?:\\{0,4}/|\\{1,4}u002f|%2f)"
"""A slash, also as JSON in JSON and percent-encoding have it; OpenRouter quotes a provider's JSON as a string."""
_MASKED_PATTERNS = (
    re.compile(rf"\b[a-z][a-z0-9+.-]{{1,20}}:{_ESCAPED_SLASH}{{2}}[^\s\"'<>]+", re.IGNORECASE),
    re.compile(r"\b(?:sk|pk|rk|gsk|xai|hf|key|ghp|AIza)[-_][A-Za-z0-9*_\-.]{6,}"),
    re.compile(r"\bAIza[A-Za-z0-9_\-]{10,}"),
    re.compile(r"\b(?:bearer|basic)\s{1,8}[A-Za-z0-9+/=._~\-]{6,}", re.IGNORECASE),
    re.compile(
        r"\b(?:api[-_ ]?key|token|secret|password|authorization)\\{0,4}[\"']?\s{0,8}[:=]\s{0,8}\\{0,4}[\"']?[^\s\"',;]{4,}",
        re.IGNORECASE,
    ),
    re.compile(r"\b[A-Za-z]:\\[\w\\.@+ -]+|\\\\[\w.-]{1,100}\\[\w\\.@+$-]+"),
    re.compile(rf"(?:(?<![\w/])|(?<=\\[nrt])){_ESCAPED_SLASH}(?:[\w.@+-]+{_ESCAPED_SLASH})+[\w.@+-]*", re.IGNORECASE),
)


def redact(text: str, secrets: Sequence[str] = ()) -> str:
    """Return *text* with *secrets* and anything like a secret masked, cut to 2,000 characters.

    Keys, URLs, host names, addresses and file paths are masked, stack traces and control characters removed, and an HTML
    page is replaced.  Plain sentences are unchanged.
    """
    text = text[:MAX_READ_LENGTH]
    if _HTML_TAG.search(text) or _LEADING_MARKUP.match(text):
        return PAGE_MESSAGE
    for secret in secrets:
        if secret:
            text = _spellings(secret).sub(REDACTED_MARK, text)
    if trace := _STACK_TRACE.search(text):
        text = text[: trace.start()]
    text = "".join(char if char.isprintable() else " " for char in text).strip()
    for pattern in _MASKED_PATTERNS:
        text = pattern.sub(REDACTED_MARK, text)
    text = mask_hosts(text, REDACTED_MARK)
    return text if len(text) <= MAX_TEXT_LENGTH else text[: MAX_TEXT_LENGTH - 1] + "…"


@lru_cache(maxsize=256)
def _spellings(secret: str) -> re.Pattern[str]:
    """Return a pattern for *secret* in any case, escaped as in JSON, HTML or URLs in whole or in part, or inside base64."""
    if len(secret) < MIN_SECRET_LENGTH:
        return re.compile(rf"(?<![^\W_]){re.escape(secret)}(?![^\W_])")
    forms = ["".join(_character_forms(char) for char in secret)]
    raw = secret.encode()
    # A secret can start at each of three offsets in base64; its first and last digits may be shared with other bytes.
    for before, skipped in ((0, 0), (1, 2), (2, 3)):
        digits = b64encode(bytes(before) + raw).decode()[skipped : (before + len(raw)) * 8 // 6]
        forms += [re.escape(digits), re.escape(digits.replace("+", "-").replace("/", "_"))]
    return re.compile("|".join(forms), re.IGNORECASE)


def _character_forms(char: str) -> str:
    forms = (char, char.lower(), char.upper())
    encoded = {"".join(f"%{byte:02x}" for byte in form.encode()) for form in forms}
    in_json = {rf"u{ord(form):04x}" for form in forms if len(form) == 1}
    in_html = {f"&#(?:0{{0,4}}{ord(form)}|x0{{0,4}}{ord(form):x});" for form in forms if len(form) == 1}
    in_html |= {escaped for form in forms if (escaped := escape(form)) != form}
    plain = rf"\\{{0,8}}(?:{'|'.join([re.escape(char), *sorted(in_json)])})"
    return f"(?:{'|'.join([plain, *sorted(encoded | in_html)])})"
