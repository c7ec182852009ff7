"""Write the numbers of a request that servers read in several ways as one plain number, or refuse them.

Servers differ in what they accept as a number (sources: pydantic's lax mode in vLLM and SGLang, `json_value` of llama.cpp,
`*int` of Ollama in Go):

- Python servers read `100.0` and `"100"` as 100, and `true` as 1.
- llama.cpp reads 100.5 as 100, and a string as no limit.
- llama.cpp, Ollama and LM Studio read -1 as no limit.
- Go refuses all but integers.

So a ceiling that is not a positive integer is replaced by the number that it denotes. If it denotes none, it is forwarded
and counts as no ceiling, which is the largest that any server reads in it.
"""

from __future__ import annotations

import math
import re
from typing import Any

from policies.api.call import LIMIT_FIELDS, MANY_FIELDS

from .json_body import BadRequest

MAX_SAFE_INTEGER = 2**53 - 1
"""A larger ceiling is no limit at any server. Above it, floats do not hold every integer."""
MAX_REQUESTED_CHOICES = 128
_DECIMAL_NUMBER = re.compile(r"\s{0,9}\+?(\d{1,15})(?:\.0{0,15})?\s{0,9}", re.ASCII)
_CEILING_NAMES = frozenset(LIMIT_FIELDS)
_TRUE_WORDS = frozenset({"true", "t", "yes", "y", "on", "1"})
_FALSE_WORDS = frozenset({"false", "f", "no", "n", "off", "0"})
"""What pydantic reads as booleans, in any case."""
LONGEST_SWITCH_WORD = 5


def settle_ceilings(body: dict[str, Any]) -> None:
    """Write the lowest ceiling in *body* as an integer into each field for ceilings that is not null.

    Without a positive number in any of them, nothing is changed. All other values (-1, 0, null, booleans, other types)
    count as no ceiling; a ceiling that a policy sets later replaces them.
    """
    sent = [field for field in LIMIT_FIELDS if body.get(field) is not None]
    numbers = [number for field in sent if (number := positive_number(body[field])) is not None]
    if numbers:
        lowest = min(*numbers, MAX_SAFE_INTEGER)
        for field in sent:
            body[field] = lowest


def add_ceiling(body: dict[str, Any], field: str) -> None:
    """Write the ceiling of *body*, after `settle_ceilings`, into *field* too, the one that all servers of its API obey.

    Servers ignore fields that they do not know: under another name alone, a ceiling would not limit the answer.
    """
    if body.get(field) is None and not _CEILING_NAMES.isdisjoint(body):
        numbers = [limit for name in LIMIT_FIELDS if type(limit := body.get(name)) is int and limit > 0]
        if numbers:
            body[field] = min(numbers)


def settle_choices(body: dict[str, Any]) -> None:
    """Write the numbers of requested answers in *body* as integers; null and 0 stay, and count as 1.

    Raises `BadRequest` for more than 128, and for values that a server may read as an unknown number. These are lists,
    objects, strings that are not decimal, and negative numbers, which are large when read as unsigned.
    """
    for field in MANY_FIELDS:
        value = body.get(field)
        if value is None or isinstance(value, bool) or value == 0:
            continue
        number = positive_number(value)
        if number is None or number > MAX_REQUESTED_CHOICES:
            msg = f"'{field}' must be an integer from 1 to {MAX_REQUESTED_CHOICES}."
            raise BadRequest(msg, field)
        body[field] = number


def as_switch(value: object) -> bool | None:
    """Return what servers read in *value* as true or false; None where they differ."""
    if isinstance(value, str):
        word = value.lower() if len(value) <= LONGEST_SWITCH_WORD else ""
        return True if word in _TRUE_WORDS else False if word in _FALSE_WORDS else None
    return bool(value) if isinstance(value, int | float) and value in (0, 1) else None


def positive_number(value: object) -> int | None:
    """Return the positive number that *value* denotes, rounded up; None for anything else."""
    if type(value) is int:
        return value if value > 0 else None
    if type(value) is float:
        return math.ceil(value) if value > 0 else None
    if type(value) is str and (digits := _DECIMAL_NUMBER.fullmatch(value)) is not None:
        return int(digits[1]) or None
    return None
