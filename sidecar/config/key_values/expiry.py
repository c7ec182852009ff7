"""Read `not_after` of a key: a TOML date, or a date-time with an offset."""

from __future__ import annotations

import math
import re
from datetime import UTC, date, datetime

NO_EXPIRY = math.inf
"""The last moment of a key without a date."""
SECONDS_PER_DAY = 86_400
_UNIX_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DATE_TEXT = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_TIME_TEXT = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d{1,6})?([Zz]|[+-]\d\d:\d\d)", re.ASCII)
_DATE_EXAMPLES = "write a date like 2026-12-31 or a date-time like 2026-12-31T18:00:00Z"


def last_moment(value: object) -> float:
    """Return the last time at which a key with `not_after` = *value* is valid, in seconds since 1970.

    A date is valid to its end in UTC; None is `NO_EXPIRY`. Raises `ValueError` with a message `problem; cure`.
    """
    if value is None:
        return NO_EXPIRY
    if isinstance(value, datetime):
        if value.tzinfo is None:
            msg = f"the date-time {value.isoformat()} has no offset from UTC; add it, such as {value.isoformat()}Z"
            raise ValueError(msg)
        return (value - _UNIX_EPOCH).total_seconds()
    if isinstance(value, date):
        end = (value.toordinal() - _UNIX_EPOCH.toordinal() + 1) * SECONDS_PER_DAY
        return math.nextafter(float(end), 0.0)
    msg = f"invalid value {str(value)[:60]!r}: expected a date or date-time without quotes; {_DATE_EXAMPLES}"
    raise ValueError(msg)


def read_date(text: str) -> date | datetime:
    """Return the date or date-time in *text*, as TOML writes it. Raises `ValueError` with a message `problem; cure`."""
    try:
        if _DATE_TEXT.fullmatch(text):
            return date.fromisoformat(text)
        if _TIME_TEXT.fullmatch(text):
            return datetime.fromisoformat(text.upper())
    except ValueError:
        pass
    msg = f"invalid value {text[:60]!r}: expected a date, or a date-time with an offset; {_DATE_EXAMPLES}"
    raise ValueError(msg)
