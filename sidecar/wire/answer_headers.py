"""Headers of an upstream's answer that its client gets: upstream's request id, and how long upstream took.

The list is short on purpose.  A vendor's support asks for the request id, and processing times are the upstream's share of
a latency.  Other headers name accounts (`openai-organization`), places (`cf-ray`, `x-ms-region`) or limits of the
sidecar's own key (`x-ratelimit-*`), which is shared by all clients.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from operator import itemgetter

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

_NAME_OF = itemgetter(0)
_PASSED_NAMES = frozenset((*REQUEST_ID_NAMES, *TIMING_NAMES))
_PLAIN_ID = re.compile(rb"(?=.{1,128}\Z)[A-Za-z0-9._:/|@+~-]+={0,2}")
"""UUIDs, words with a prefix, base64; nothing that escapes could be in."""
_NUMBER_OR_DATE = re.compile(rb"[0-9.-]{1,32}")


def passed_headers(fields: Sequence[Header], holds_secret: Callable[[str], bool]) -> Sequence[Header]:
    """Return the headers for the client of an answer with the header *fields*, names in lower case; once per attempt.

    The first value of a repeated header counts.  Times that are not a number are dropped.  So are request ids of more than
    128 characters, with other characters than identifiers have, or for which *holds_secret* is true.
    """
    if _PASSED_NAMES.isdisjoint(map(_NAME_OF, fields)):
        return ()
    values = {name: value for name, value in reversed(fields) if name in _PASSED_NAMES}
    headers = []
    for name in REQUEST_ID_NAMES:
        if (
            (value := values.get(name)) is not None
            and _PLAIN_ID.fullmatch(value)
            and not holds_secret(value.decode("ascii"))
        ):
            headers.append((UPSTREAM_REQUEST_ID, value))
            break
    times = [(name, values[name]) for name in TIMING_NAMES if name in values]
    return headers + [each for each in times if _NUMBER_OR_DATE.fullmatch(each[1])]
