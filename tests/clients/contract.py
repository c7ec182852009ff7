"""Where the sidecar's contract makes a difference, case by case and with the reason, and what must hold then."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from case import INTERRUPTED, SERVER, VENDOR, Case
from sides import Client, Outcome, Side

SIDECAR_ATTEMPTS = 3
"""Attempts of the sidecar for one request of a client, `retry.attempts` of the shipped configuration."""
CLIENT_ATTEMPTS = 3
"""Attempts of a client with a retry loop of its own."""
FAILURE_EVENTS = ("error", "response.failed")
ADDED_TO_ERRORS = re.compile(r""", ['"]code['"]: ['"]upstream_error['"]|, ['"]request_id['"]: ['"][A-Za-z0-9_]+['"]""")
"""What the sidecar adds to an error of the Messages API, in JSON and in the repr of a dict."""


def equal(direct: Any, through: Any) -> bool:
    """Whether an application saw the same.

    `"usage": null` is ignored: OpenAI puts it into each chunk of a stream whose usage is asked for, which the sidecar
    does, and events pass unchanged but for the last one with the usage.
    """
    return bool(without_null_usage(direct) == without_null_usage(through))


def without_null_usage(value: Any) -> Any:
    if isinstance(value, dict):
        kept = {name: each for name, each in value.items() if (name, each) != ("usage", None)}
        return {name: without_null_usage(each) for name, each in kept.items()}
    return [without_null_usage(each) for each in value] if isinstance(value, list) else value


def contains(through: Any, direct: Any) -> bool:
    """Whether *through* has all that *direct* has; a text may be the repr of an object with further fields."""
    if isinstance(direct, dict):
        return isinstance(through, dict) and all(contains(through.get(name), each) for name, each in direct.items())
    if isinstance(direct, str) and VENDOR["message"] in direct:
        return isinstance(through, str) and VENDOR["message"] in through
    return direct is None or bool(direct == through)


def text_of(seen: dict[str, Any]) -> dict[str, Any]:
    """Return what was seen before the end of a stream."""
    ends = ("error", "finish", "usage")
    return {name: each for name, each in without_null_usage(seen).items() if name not in ends}


def error_has_all_fields(direct: Side, through: Side, case: Case) -> bool:
    return contains(through.outcomes[case.name].seen, direct.outcomes[case.name].seen)


def recovers(direct: Side, through: Side, case: Case) -> bool:
    return equal(direct.outcomes["stream"].seen, through.outcomes[case.name].seen)


def is_interrupted(direct: Side, through: Side, case: Case) -> bool:
    before, after = direct.outcomes[case.name].seen, through.outcomes[case.name].seen
    return text_of(before) == text_of(after) and INTERRUPTED in after.get("error", {}).get("message", "")


def is_same_failure(direct: Side, through: Side, case: Case) -> bool:
    """Whether the application received the same before the failure, and upstream's message is in the error."""
    before, after = (received_before(side.outcomes[case.name].seen) for side in (direct, through))
    return equal(before, after) and has_error(through, case, SERVER["message"])


def received_before(seen: dict[str, Any]) -> dict[str, Any]:
    """Return what was seen before the event of a failure, of which the answer that has failed is a part."""
    kept = {name: each for name, each in seen.items() if name not in ("error", "answer", "text")}
    for name, events in kept.items():
        if name in ("events", "kinds"):
            kinds = [event["type"] if isinstance(event, dict) else event for event in events]
            kept[name] = [event for event, kind in zip(events, kinds, strict=True) if kind not in FAILURE_EVENTS]
    return kept


def has_error(side: Side, case: Case, text: str) -> bool:
    return text in str(side.outcomes[case.name].seen.get("error"))


def is_same_error(direct: Side, through: Side, case: Case) -> bool:
    """Whether an error of the Messages API is the same but for the code and the request's id."""
    before, after = (side.outcomes[case.name].seen for side in (direct, through))
    return ADDED_TO_ERRORS.sub("", json.dumps(before)) == ADDED_TO_ERRORS.sub("", json.dumps(after))


@dataclass(frozen=True)
class Difference:
    """A difference that the contract asks for: in favour of the application, and never in what it received before."""

    reason: str
    holds: Callable[[Side, Side, Case], bool]


DIFFERENCES = {
    "error of another vendor": Difference(
        "OpenAI's four fields are always there; upstream's own fields keep their values (DESIGN 1.4)",
        error_has_all_fields,
    ),
    "error, then a stream": Difference(
        "an error before the first output is retried by the sidecar; most clients raise it (DESIGN rule 4)", recovers
    ),
    "failed answer": Difference(
        "a response that has failed is an error, and is repeated before the first output (DESIGN rule 4)",
        is_same_failure,
    ),
    "failed in a stream": Difference(
        "an error that OpenAI's SDKs raise; some clients take the part before `response.failed` for all (DESIGN rule 6)",
        is_same_failure,
    ),
    "error event in a stream": Difference(
        "an error that OpenAI's SDKs raise; some clients take the part before `error` for all (DESIGN rule 6)",
        is_same_failure,
    ),
    "error of Messages": Difference(
        "the sidecar adds its code to an error, and its own id of the request, which its log has", is_same_error
    ),
    "stream that is cut": Difference(
        "an error object instead of the HTTP library's own exception (DESIGN rule 6)", is_interrupted
    ),
    "stream that ends early": Difference(
        "an error where most clients take the part of an answer for all of it (DESIGN rule 6)", is_interrupted
    ),
}
"""By the name of the case, or by its `differs`; all other cases are equal."""


@dataclass(frozen=True)
class Requests:
    """Another number of requests at upstream."""

    reason: str
    allowed: Callable[[Client, int, int], bool]


def not_more(client: Client, direct: int, through: int) -> bool:
    return through <= direct


def as_attempts_multiply(client: Client, direct: int, through: int) -> bool:
    return through <= direct * (SIDECAR_ATTEMPTS if client.retries_itself else 1)


def one_more(client: Client, direct: int, through: int) -> bool:
    return direct <= through == 2


def repeats(client: Client, direct: int, through: int) -> bool:
    """Whether each attempt of the client became one of the sidecar's, which the AI SDK then repeats as a failure."""
    return direct <= through <= SIDECAR_ATTEMPTS * (CLIENT_ATTEMPTS if client.retries_itself else 1)


def none(client: Client, direct: int, through: int) -> bool:
    return through == 0


REQUESTS = {
    "start": Requests("the sidecar answers `HEAD /` itself: it costs nothing", none),
    "failed answer": Requests("the sidecar repeats what clients show as an answer", repeats),
    "quota spent": Requests("a spent quota is final: `x-should-retry: false` stops clients that read it", not_more),
    "unavailable to the end": Requests(
        "the sidecar makes the attempts; the AI SDK and LlamaIndex repeat the call without a look at `x-should-retry`, "
        "which multiplies the attempts until the retry budget is empty",
        as_attempts_multiply,
    ),
    "error, then a stream": Requests("the sidecar repeats what most clients raise", one_more),
}
"""By the name of the case; in all other cases the numbers are equal."""


def expected_request(sent: dict[str, Any]) -> dict[str, Any]:
    """Return what the sidecar sends upstream for the request *sent*: it asks for the usage of a stream where that is optional."""
    body = sent["body"]
    if not body or not body.get("stream") or "/completions" not in sent["line"]:
        return sent
    return sent | {"body": body | {"stream_options": (body.get("stream_options") or {}) | {"include_usage": True}}}


def verdict(case: Case, direct: Side, through: Side) -> str:
    """Return `equal`, `by contract` or `different`."""
    before, after = direct.outcomes[case.name], through.outcomes[case.name]
    if equal(before.seen, after.seen):
        return "equal"
    found = [DIFFERENCES[name] for name in (case.name, case.differs) if name in DIFFERENCES]
    return "by contract" if any(each.holds(direct, through, case) for each in found) else "different"


def requests_differ(client: Client, case: Case, direct: Outcome, through: Outcome) -> str:
    """Return what is wrong with the requests at upstream, empty if nothing is."""
    counts = len(direct.requests), len(through.requests)
    rule = REQUESTS.get(case.name)
    allowed = rule.allowed(client, *counts) if rule else counts[0] == counts[1]
    if not allowed or not (rule or all(counts)):
        return f"{counts[0]} requests direct, {counts[1]} through the sidecar"
    expected = [expected_request(each) for each in direct.requests]
    for at, request in enumerate(through.requests):
        same = request in expected if rule else request == expected[at]
        if not same:
            return f"direct {direct.requests}, through the sidecar {request}"
    return ""
