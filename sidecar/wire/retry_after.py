"""Read how long an upstream asks clients to wait: in headers, in an error object, or in its words."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Any

_DECIMAL_NUMBER = re.compile(r"[ \t]*-?\d{1,15}(\.\d{1,9})?[ \t]*", re.ASCII)
_RESET_DURATION = re.compile(
    r"(?:(\d{1,6})h)?(?:(\d{1,6})m(?!s))?(?:(\d{1,9}(?:\.\d{1,9})?)s)?(?:(\d{1,9}(?:\.\d{1,9})?)ms)?"
)
_WAIT_IN_WORDS = re.compile(
    r"\b(?:try(?: it)? again|retry|retrying|wait)(?: your request| the request)? (?:in|after|for)(?: about| at least)? "
    r"(?:(?P<amount>\d{1,9}(?:\.\d{1,9})?) ?(?P<unit>milliseconds?|seconds?|secs?|minutes?|mins?|hours?|days?)\b"
    r"|(?P<duration>(?:\d{1,9}(?:\.\d{1,9})?(?:h|ms|m|s)){1,4})(?!\w))",
    re.IGNORECASE,
)
"""OpenAI and Groq: "Please try again in 12m3.5s", Azure: "Please retry after 26 seconds", Gemini: "Please retry in 17.2s"."""
_SECONDS_BY_UNIT = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
MAX_BODY_WAIT_SECONDS = 7 * 86_400.0
"""A longer wait in an error object is a mistake, such as a point in time read as a duration."""
MAX_BODY_ENTRIES, MAX_TEXT_LENGTH = 32, 4_096
"""Entries of a list or an object, and characters of a text, that are read."""
_RATELIMIT_T = re.compile(r";\s*t\s*=\s*(\d{1,9})")
FIRST_TIMESTAMP, FIRST_TIMESTAMP_MS = 1e9, 1e12
"""Numbers from here on are points in time since 1970, in seconds or milliseconds, and not durations."""


def wait_asked(headers: Mapping[str, str], now: float, *, hints: bool) -> float | None:
    """Return the seconds that an answer asks to wait; None without a header that asks for a positive time.

    *headers* are looked up by lower-case names, *now* is in seconds since 1970.  A date is compared with the answer's own
    `date`, so clock skew does not matter.  The first match wins: milliseconds, Azure's milliseconds, seconds or date.
    With *hints*, which only count where a limit refused the call, the longest time until a limit resets comes last.
    Zero and past times are ignored, so that retries do not follow each other immediately.
    """
    for name, read in _WAIT_HEADERS:
        value = headers.get(name)
        if value is not None and (wait := read(value, headers, now)) is not None and wait > 0:
            return wait
    if not hints:
        return None
    resets = [read(value, headers, now) for name, read in _RESET_HEADERS if (value := headers.get(name)) is not None]
    return max((wait for wait in resets if wait is not None and wait > 0), default=None)


def wait_in_error(error: Mapping[str, Any], text: str, now: float) -> float | None:
    """Return the seconds that the object *error* asks to wait; None if it names none, or more than seven days.

    The first match wins: Google's `RetryInfo.retryDelay` (google.rpc.error_details), the headers of a provider that
    OpenRouter quotes, and the words of *text*, such as "Please try again in 6m0s".
    """
    waits = (_google_delay(error.get("details")), _quoted_headers(error.get("metadata"), now), _wait_in_words(text))
    return next((wait for wait in waits if wait is not None and 0 < wait <= MAX_BODY_WAIT_SECONDS), None)


def _google_delay(details: object) -> float | None:
    for detail in details[:MAX_BODY_ENTRIES] if isinstance(details, list) else ():
        if isinstance(detail, dict) and str(detail.get("@type", "")).endswith("google.rpc.RetryInfo"):
            delay = detail.get("retryDelay")
            if isinstance(delay, str) and (match := _RESET_DURATION.fullmatch(delay.strip())) and any(match.groups()):
                return _seconds(match)
    return None


def _quoted_headers(metadata: object, now: float) -> float | None:
    headers = metadata.get("headers") if isinstance(metadata, dict) else None
    if not isinstance(headers, dict) or len(headers) > MAX_BODY_ENTRIES:
        return None
    named = {str(name).lower(): value for name, value in headers.items() if isinstance(value, str)}
    return wait_asked(named, now, hints=True)


def _wait_in_words(text: str) -> float | None:
    found = _WAIT_IN_WORDS.search(text[:MAX_TEXT_LENGTH])
    if found is None:
        return None
    if found["amount"] is not None:
        unit = found["unit"].lower()
        return float(found["amount"]) * (0.001 if unit.startswith("milli") else _SECONDS_BY_UNIT[unit[0]])
    duration = _RESET_DURATION.match(found["duration"])
    return _seconds(duration) if duration is not None and any(duration.groups()) else None


def _number(value: str) -> float | None:
    return float(value) if _DECIMAL_NUMBER.fullmatch(value) else None


def _until(number: float, now: float) -> float:
    if number < FIRST_TIMESTAMP:
        return number
    return (number / 1000 if number >= FIRST_TIMESTAMP_MS else number) - now


def _milliseconds(value: str, _headers: Mapping[str, str], _now: float) -> float | None:
    number = _number(value)
    return None if number is None else number / 1000


def _seconds_or_date(value: str, headers: Mapping[str, str], now: float) -> float | None:
    if (number := _number(value)) is not None:
        return _until(number, now)
    moment, sent = _date(value), _date(headers.get("date", ""))
    return None if moment is None else moment - (now if sent is None else sent)


def _date(value: str) -> float | None:
    try:
        moment = parsedate_to_datetime(value)
        # HTTP dates are in UTC (RFC 9110, 5.6.7); the asctime form has no zone.
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (TypeError, ValueError, OverflowError, IndexError):
        return None


def _reset(value: str, _headers: Mapping[str, str], now: float) -> float | None:
    if (number := _number(value)) is not None:
        return _until(number, now)
    match = _RESET_DURATION.fullmatch(value.strip())
    if match is None or not any(match.groups()):
        return None
    return _seconds(match)


def _seconds(duration: re.Match[str]) -> float:
    hours, minutes, seconds, millis = (float(group or 0) for group in duration.groups())
    return hours * 3600 + minutes * 60 + seconds + millis / 1000


def _ietf(value: str, _headers: Mapping[str, str], _now: float) -> float | None:
    waits = [float(t) for t in _RATELIMIT_T.findall(value)]
    return max(waits, default=None)


_Reader = Callable[[str, Mapping[str, str], float], float | None]
_WAIT_HEADERS: tuple[tuple[str, _Reader], ...] = (
    ("retry-after-ms", _milliseconds),
    ("x-ms-retry-after-ms", _milliseconds),
    ("retry-after", _seconds_or_date),
)
_RESET_HEADERS: tuple[tuple[str, _Reader], ...] = (
    ("x-ratelimit-reset-requests", _reset),
    ("x-ratelimit-reset-tokens", _reset),
    ("x-ratelimit-reset", _reset),
    ("ratelimit", _ietf),
)
