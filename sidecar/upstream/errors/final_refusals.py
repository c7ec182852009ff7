"""Recognise refusals that a repeat of the same request cannot change.

They are: no credit, no quota for the day, a request that is larger than a whole limit.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from .token_limits import TokenLimits
from .token_numbers import MAX_LIMIT_TEXT_LENGTH

MAX_CODE_LENGTH, MAX_DETAILS = 64, 16
"""Characters of a code, and entries of Google's lists, that are read."""
QUOTA_STATUSES = frozenset({402, 403, 429})
"""Statuses under which words about an account are believed anywhere in the text."""
MAX_OWN_WORDS_LENGTH = 24
"""Characters at the start of a text that are the server's own words under any status; quotations come after them."""
TEXT_PARAM_PREFIXES = ("messages", "input", "prompt")

_CONTEXT_CODE = re.compile(
    r"context.{0,20}(?:exceed|length|window|size|limit|overflow)|exceed.{0,10}context"
    r"|(?:prompt|input).{0,20}(?:too_?long|exceed)|^tokens_limit_reached$"
)
_QUOTA_CODE = re.compile(
    r"insufficient.{0,12}(?:quota|balance|credit|fund)|(?:not_enough|no|out_of)_(?:balance|credits?|funds)|current_quota"
    r"|(?:credits?|balance).{0,12}(?:exhausted|depleted)|(?:spend|spending|billing)(?:_hard)?_(?:limit|cap)|billing_not_active|arrear|overdue"
)
_REFUSED_CODE = re.compile(
    r"invalid_prompt|data_residency_mismatch|bio_policy|misalignment_policy_violation|image_content_policy_violation"
    r"|invalid_(?:base64_)?image\w{0,20}|invalid_image_mode|image_(?:too_large|too_small|parse_error|file_\w{1,20})"
    r"|(?:unsupported|empty)_image\w{0,20}|failed_to_download_image"
)
"""Codes of a failed response that blame the request (`types/responses/response_error.py` of openai 3.54.0)."""
_TOO_MUCH_TEXT = frozenset({"string_above_max_length", "array_above_max_length"})
_MONEY_WORDS = r"(?:credits?|credit balance|account balance|balance|funds)"
_NO_CREDIT = re.compile(
    rf"\b(?:insufficient|not enough|ran out of|out of|no remaining|used all (?:of )?(?:your |the |its )?(?:available )?)\s?{_MONEY_WORDS}\b"
    rf"|\b{_MONEY_WORDS} (?:is|are|has been|have been) (?:too low|insufficient|exhausted|depleted|used up|negative)\b"
    r"|\b(?:reached|exceeded|hit) (?:its|your|the)(?: \w{1,12}){0,2} (?:spend|spending|usage|billing) (?:limit|cap)s?\b"
    rf"|\b(?:doesn't|does not|don't|do not) have any {_MONEY_WORDS}\b|\bout of call volume quota\b"
    r"|\baccount is (?:suspended|not active|deactivated|in arrears)\b"
)


def kind_of_code(code: str, error: Mapping[str, Any]) -> str | None:
    """Return the kind that a *code* in lower case stands for at any server: `context`, `quota` or `request`; else None.

    Codes are the server's own words: they quote no client.
    """
    code = code[:MAX_CODE_LENGTH]
    if code in _TOO_MUCH_TEXT:
        param = error.get("param")
        is_prompt = isinstance(param, str) and param.startswith(TEXT_PARAM_PREFIXES) and not param.endswith("name")
        return "context" if is_prompt else None
    if _CONTEXT_CODE.search(code):
        return "context"
    if _REFUSED_CODE.fullmatch(code):
        return "request"
    return "quota" if _QUOTA_CODE.search(code) else None


def has_no_credit(text: str, status: int) -> bool:
    """Whether *text*, under *status*, says that the account has no credit left."""
    found = _NO_CREDIT.search(text[:MAX_LIMIT_TEXT_LENGTH].lower())
    return found is not None and (status in QUOTA_STATUSES or found.start() <= MAX_OWN_WORDS_LENGTH)


def kind_of_limit(error: Mapping[str, Any], limits: TokenLimits, *, is_rate: bool) -> str | None:
    """Return the kind of a limit for which a call cannot wait; None for any other.

    *is_rate*: the status is 429.  `too_large`: the request alone is larger than the whole limit.  `quota`: the limit is
    zero, or Google names one per day; its `RetryInfo` is too short then.
    """
    if not is_rate and not limits.names_rate:
        return None
    if limits.has_no_quota or any(map(_is_daily_or_zero, _violations(error))):
        return "quota"
    return "too_large" if limits.exceeds_rate else None


def _violations(error: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the violations in Google's `QuotaFailure`."""
    details = error.get("details")
    found = (
        [each.get("violations") for each in details[:MAX_DETAILS] if isinstance(each, dict)]
        if isinstance(details, list)
        else []
    )
    return [
        each
        for violations in found
        if isinstance(violations, list)
        for each in violations[:MAX_DETAILS]
        if isinstance(each, dict)
    ]


def _is_daily_or_zero(violation: Mapping[str, Any]) -> bool:
    quota = violation.get("quotaId")
    return (isinstance(quota, str) and "perday" in quota.lower()) or str(violation.get("quotaValue")) == "0"
