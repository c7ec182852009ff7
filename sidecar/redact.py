"""Upstream's words, made fit for a stranger: no keys, no hosts, no paths, no traces, bounded."""

from __future__ import annotations

import re
from collections.abc import Sequence

MOST = 500
MASK = "[redacted]"
PAGE = "The upstream answered with a page instead of an API error."

_TRACE = re.compile(r"Traceback \(most recent call last\).*|File \"[^\"]*\", line \d+.*|\n\s+at .*", re.DOTALL)
_HTML = re.compile(r"^\s*<(!doctype|html|head|body)\b", re.IGNORECASE)
_MASKED = (
    re.compile(r"\b[a-z][a-z0-9+.-]{1,20}://[^\s\"'<>]+", re.IGNORECASE),
    re.compile(r"\b(?:sk|pk|rk|gsk|xai|hf|key|ghp|AIza)[-_][A-Za-z0-9*_\-.]{6,}"),
    re.compile(r"\bAIza[A-Za-z0-9_\-]{10,}"),
    re.compile(r"\b(?:bearer|basic)\s+[A-Za-z0-9+/=._~\-]{6,}", re.IGNORECASE),
    re.compile(
        r"\b(?:api[-_ ]?key|token|secret|password|authorization)[\"']?\s*[:=]\s*[\"']?[^\s\"',;]{4,}", re.IGNORECASE
    ),
    re.compile(r"\b(?=[A-Za-z0-9_\-]*\d)(?=[A-Za-z0-9_\-]*[A-Za-z])[A-Za-z0-9_\-]{32,}\b"),
    re.compile(r"\b\d{1,3}(?:\.\d{1,3}){3}(?::\d{1,5})?\b"),
    re.compile(r"\[[0-9a-f]*:[0-9a-f:.]+\](?::\d{1,5})?", re.IGNORECASE),
    re.compile(
        r"\b[a-z0-9-]+(?:\.[a-z0-9-]+)*\.(?:com|net|org|io|ai|dev|local|internal|svc|lan|cloud|app|co)\b(?::\d{1,5})?",
        re.IGNORECASE,
    ),
    re.compile(r"\b[a-z0-9.-]+:\d{2,5}\b(?![.\d])", re.IGNORECASE),
    re.compile(r"(?<![\w/])/(?:[\w.@+-]+/)+[\w.@+-]*"),
    re.compile(r"\b[A-Za-z]:\\[\w\\.@+ -]+"),
)


def redact(text: str, secrets: Sequence[str] = ()) -> str:
    """Return *text* without *secrets* and what looks like one, at most 500 characters of it.

    Keys, URLs, host names, addresses, file paths, stack traces and control characters go; plain sentences stay as they are.
    """
    if _HTML.match(text):
        return PAGE
    text = text[: 16 * MOST]
    for secret in secrets:
        if secret:
            text = text.replace(secret, MASK)
    text = _TRACE.sub("", text)
    for pattern in _MASKED:
        text = pattern.sub(MASK, text)
    text = "".join(char if char.isprintable() else " " for char in text).strip()
    return text if len(text) <= MOST else text[: MOST - 1] + "…"
