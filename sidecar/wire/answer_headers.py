"""Headers of an upstream's answer that its client gets: upstream's request id, and how long upstream took.

The list is short on purpose.  A vendor's support asks for the request id, and processing times are the upstream's share of
a latency.  Other headers name accounts (`openai-organization`), places (`cf-ray`, `x-ms-region`) or limits of the
sidecar's own key (`x-ratelimit-*`), which is shared by all clients.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from .limit_headers import Header

UPSTREAM_REQUEST_ID = b"x-upstream-request-id"
"""The client's name of upstream's request id: `x-request-id` is the sidecar's own."""
REQUEST_ID_NAMES = (b"x-request-id", b"request-id", b"apim-request-id")
"""Names of request ids, the preferred one first: most servers, Anthropic, Azure."""
TIMING_NAMES = (
    b"openai-processing-ms",
    b"openai-version",
    b"x-envoy-upstream-service-time",
    b"fireworks-server-processing-time",
)
"""Passed on under their own names: OpenAI; gateways on Envoy such as those of OpenAI, Azure and Mistral; Fireworks."""

_PASSED_NAMES = frozenset((*REQUEST_ID_NAMES, *TIMING_NAMES))
_PRINTABLE_ID = re.compile(rb"[!-~]{1,128}")
_NUMBER_OR_DATE = re.compile(rb"[0-9.-]{1,32}")


def passed_headers(fields: Iterable[Header], secrets: Sequence[str] = ()) -> Sequence[Header]:
    """Return the headers for the client of an answer with the header *fields*, names in lower case; once per attempt.

    The first value of a repeated header counts.  Times that are not a number are dropped.  So are request ids that are not
    printable ASCII, have spaces or more than 128 characters, or contain one of *secrets*.
    """
    found = [field for field in fields if field[0] in _PASSED_NAMES]
    if not found:
        return ()
    values = dict(reversed(found))
    headers = []
    for name in REQUEST_ID_NAMES:
        if (
            (value := values.get(name)) is not None
            and _PRINTABLE_ID.fullmatch(value)
            and not _holds_secret(value, secrets)
        ):
            headers.append((UPSTREAM_REQUEST_ID, value))
            break
    times = [(name, values[name]) for name in TIMING_NAMES if name in values]
    return headers + [each for each in times if _NUMBER_OR_DATE.fullmatch(each[1])]


def _holds_secret(value: bytes, secrets: Sequence[str]) -> bool:
    text = value.decode("ascii").lower()
    return any(secret.lower() in text for secret in secrets)
