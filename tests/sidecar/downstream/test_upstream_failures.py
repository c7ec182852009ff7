"""Failures of upstreams as clients receive them: status, object, whether to retry, in the format of each path."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from upstream_errors import NOW, REQUEST, classified, error_body

from policies.api.failure import GiveUpReason
from policies.api.upstream import UpstreamError
from sidecar.downstream.client_errors import ClientError, chat_event, openai_body, openai_error
from sidecar.downstream.upstream_failures import deadline_passed, error_for_upstream
from sidecar.upstream.errors.classify import (
    empty,
    from_exception,
    from_object,
    from_status,
    interrupted,
    timed_out,
    unavailable,
)
from sidecar.wire.operations.chat_completions import CHAT_COMPLETIONS

RATE = {
    "message": "Limit 3, Used 3. Try again in 20s.",
    "type": "requests",
    "param": None,
    "code": "rate_limit_exceeded",
}


def envelope(fault: ClientError) -> dict[str, Any]:
    """Return the error object of the response on `/v1`, which that of the event equals."""
    found: dict[str, Any] = json.loads(openai_body(fault))["error"]
    events = CHAT_COMPLETIONS.error_events(openai_error(fault), fault.status, b"")
    assert json.loads(events.decode().partition("\n\n")[0].removeprefix("data: ")) == {"error": found}
    return found


def event(fault: ClientError) -> dict[str, Any]:
    """Return the data of Chat Nest's `error` event."""
    found: dict[str, Any] = json.loads(chat_event(fault).decode().split("data: ")[1])
    return found


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (from_exception(httpx.ConnectError("x"), REQUEST, sent=True), 502, "upstream_unavailable"),
        (from_exception(httpx.ReadTimeout("x"), REQUEST, sent=True), 504, "upstream_timeout"),
        (empty(REQUEST, None), 502, "upstream_error"),
        (interrupted(REQUEST, "cut"), 502, "stream_interrupted"),
        (classified(500, b"Internal Server Error"), 500, "upstream_error"),
        (classified(500, b'"Internal Server Error"'), 500, "upstream_error"),
        (classified(502, b"<html>Bad Gateway</html>"), 502, "upstream_error"),
        (classified(599), 599, "upstream_error"),
        (classified(600), 502, "upstream_error"),
        (classified(999), 502, "upstream_error"),
    ],
)
def test_failure_without_an_object_has_our_own(error: UpstreamError, status: int, code: str) -> None:
    """Where upstream sent no error object, each format has the sidecar's own message and code."""
    fault = error_for_upstream(error)

    shown = envelope(fault)
    assert (fault.status, shown["code"], shown["type"], shown["param"]) == (status, code, "upstream_error", None)
    assert set(shown) == {"message", "type", "param", "code"}
    assert event(fault) == {"message": shown["message"], "code": code, "retryable": True}
    assert not any(word in shown["message"] for word in ("Internal", "Gateway", "html"))


@pytest.mark.parametrize(
    "sent",
    [
        RATE,
        {"message": "m", "type": "server_error", "param": None, "code": None},
        {"message": "m", "code": 429, "metadata": {"raw": "slow", "provider_name": "P"}},
        {"message": "m", "type": "exceed_context_size_error", "code": 400, "n_prompt_tokens": 900, "n_ctx": 512},
    ],
)
@pytest.mark.parametrize("status", [200, 400, 429, 500])
def test_object_of_upstream_is_shown_on_v1(sent: dict[str, Any], status: int) -> None:
    """On `/v1` the object has all fields of upstream's, and ours only where it has none, in responses and in streams."""
    error = from_object(sent, REQUEST) if status == httpx.codes.OK else classified(status, {"error": sent})
    shown = envelope(error_for_upstream(error))

    assert shown == {"type": "upstream_error", "param": None, "code": "upstream_error"} | sent
    assert next(iter(shown)) == "message"


def test_chat_events_keep_our_own_words() -> None:
    """Chat Nest's events have the sidecar's message and code; upstream's only for a wrong or too long request."""
    rate = event(error_for_upstream(classified(429, {"error": RATE})))
    wrong = event(
        error_for_upstream(classified(400, error_body(message="n is too big", code="integer_above_max_value")))
    )
    odd = event(error_for_upstream(classified(400, error_body(message="no", code="A sentence."))))

    assert rate == {
        "message": "The model is busy. Please try again in a moment.",
        "code": "upstream_error",
        "retryable": True,
    }
    assert wrong == {"message": "n is too big", "code": "integer_above_max_value", "retryable": False}
    assert (odd["message"], odd["code"]) == ("no", "upstream_error")


@pytest.mark.parametrize(
    ("headers", "sent"),
    [
        ({"retry-after": "7"}, [(b"retry-after", b"7"), (b"retry-after-ms", b"7000")]),
        ({"retry-after-ms": "250"}, [(b"retry-after", b"1"), (b"retry-after-ms", b"250")]),
        ({"retry-after": "600"}, [(b"retry-after", b"600"), (b"retry-after-ms", b"600000")]),
        ({}, []),
    ],
)
def test_retry_after_of_upstream_reaches_the_client(headers: dict[str, str], sent: list[tuple[bytes, bytes]]) -> None:
    """Upstream's wait reaches the client; where retries are spent, in whole seconds only, beside `x-should-retry: false`."""
    for status in (429, 503, 529):
        error = classified(status, error_body(message="Loading model"), headers)
        assert error_for_upstream(error).headers == sent
        error.give_up_reason = "spent"
        assert error_for_upstream(error).headers == [*sent[:1], (b"x-should-retry", b"false")]


@pytest.mark.parametrize(
    ("reason", "final", "retryable"), [("spent", True, True), ("declined", False, True), ("useless", True, False)]
)
def test_reason_decides_about_retries(reason: GiveUpReason, *, final: bool, retryable: bool) -> None:
    """SDKs must not retry after `spent` and `useless`; Chat Nest's user may try again unless it is useless."""
    error = classified(503)
    error.give_up_reason = reason
    fault = error_for_upstream(error)

    assert ((b"x-should-retry", b"false") in fault.headers, event(fault)["retryable"]) == (final, retryable)


@pytest.mark.parametrize(
    ("error", "final"),
    [
        (classified(400), True),
        (classified(401), True),
        (classified(403), True),
        (classified(429, error_body(code="insufficient_quota")), True),
        (classified(400, error_body(code="context_length_exceeded")), True),
        (classified(503, b"", {"x-should-retry": "false"}), True),
        (classified(402, b"", {"x-should-retry": "true"}), False),
        (classified(429), False),
        (timed_out("idle_timeout", REQUEST), False),
        (interrupted(REQUEST, "cut"), False),
        (unavailable(3.0, REQUEST), False),
    ],
)
def test_unrepeated_failure_is_final_only_if_useless(error: UpstreamError, *, final: bool) -> None:
    """A failure that was not repeated forbids retries only where no repeat can help."""
    assert ((b"x-should-retry", b"false") in error_for_upstream(error).headers) is final


def test_wait_of_a_spent_quota_is_shown() -> None:
    """A spent quota is final, and tells when it ends where upstream did; a wait of a wrong request is dropped."""
    quota = error_for_upstream(classified(429, error_body(code="insufficient_quota"), {"retry-after": "3600"}))
    wrong = error_for_upstream(classified(400, error_body(), {"retry-after": "3600"}))

    assert quota.headers == [(b"retry-after", b"3600"), (b"x-should-retry", b"false")]
    assert wrong.headers == [(b"x-should-retry", b"false")]


def test_deadline_permits_a_retry() -> None:
    """An answer that the deadline ended was not repeated, so its client may retry."""
    fault = deadline_passed(28)

    assert (fault.headers, fault.status, event(fault)["retryable"]) == ([], 504, True)


KEY_REFUSALS = [
    (401, error_body(message="Incorrect API key provided: sk-12****wxyz.", code="invalid_api_key", type="x")),
    (401, b""),
    (403, error_body(message="Your API key has no permission for this resource.", type="permission_error")),
    (400, error_body(message="API key not valid. Please pass a valid API key.", code=400, status="INVALID_ARGUMENT")),
    (400, {"code": "Client specified an invalid argument", "error": "Incorrect API key provided: xa***cd."}),
]


@pytest.mark.parametrize(("status", "body"), KEY_REFUSALS)
def test_refusal_of_our_key_does_not_blame_the_client(status: int, body: Any) -> None:
    """A refusal of the sidecar's key is a 502 without upstream's words: the client's key is not at fault."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    error = from_status(status, httpx.Headers(), raw, REQUEST, own_key=True, now=NOW)
    fault = error_for_upstream(error)
    shown = envelope(fault)

    assert (error.kind, fault.status) == ("auth", 502)
    assert shown == {
        "message": "The model refused the service's credentials.",
        "type": "upstream_error",
        "param": None,
        "code": "upstream_error",
    }
    assert event(fault)["code"] == "upstream_error"
    assert (b"x-should-retry", b"false") in fault.headers


@pytest.mark.parametrize(("status", "body"), KEY_REFUSALS)
def test_refusal_of_the_clients_key_reaches_it(status: int, body: Any) -> None:
    """A refusal of a key that the client sent keeps upstream's status and object."""
    error = classified(status, body)
    fault = error_for_upstream(error)

    assert (error.kind, fault.status) == ("auth", status)
    if body:
        sent = body["error"] if isinstance(body["error"], dict) else body
        assert envelope(fault)["code"] == sent.get("code", "upstream_error")


def test_refused_permission_is_shown() -> None:
    """A 403 about the request, such as a moderation, reaches the client also where the sidecar has the key."""
    sent = {"message": "Flagged.", "code": 403, "metadata": {"reasons": ["violence"], "flagged_input": "..."}}
    error = from_status(403, httpx.Headers(), json.dumps({"error": sent}).encode(), REQUEST, own_key=True, now=NOW)
    fault = error_for_upstream(error)

    assert (fault.status, envelope(fault)["metadata"]) == (403, sent["metadata"])
    assert from_object({"message": "m", "code": 401}, REQUEST, own_key=True).is_private
