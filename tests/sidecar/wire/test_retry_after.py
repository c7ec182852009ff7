"""Read how long an upstream asks clients to wait, and whether they should retry."""

from __future__ import annotations

import json
import time
from email.utils import formatdate
from typing import Any

import httpx
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from policies import Retry, RetryClassifier, UpstreamError
from policies.testing import make_call
from sidecar.upstream.errors.classify import from_status
from sidecar.wire.retry_after import wait_asked, wait_in_error

REQUEST = httpx.Request("POST", "http://up.example/v1/chat/completions")
NOW = 1_800_000_000.0


def refusal(status: int, error: dict[str, Any], headers: dict[str, str]) -> UpstreamError:
    body = json.dumps({"error": {"message": "m", **error}}).encode()
    return from_status(status, httpx.Headers(headers), body, REQUEST, now=NOW)


@pytest.mark.parametrize(
    ("headers", "wait"),
    [
        ({"retry-after-ms": "250", "retry-after": "9"}, 0.25),
        ({"x-ms-retry-after-ms": "1500"}, 1.5),
        ({"retry-after": "2.5"}, 2.5),
        ({"retry-after": "-3"}, None),
        ({"retry-after": "0"}, None),
        ({"retry-after-ms": "0", "retry-after": "9"}, 9),
        ({"retry-after": str(NOW + 30)}, 30),
        ({"retry-after": time.asctime(time.gmtime(NOW + 30))}, 30),
        ({"retry-after": formatdate(NOW - 1, usegmt=True)}, None),
        ({"retry-after": formatdate(NOW + 30, usegmt=True), "date": formatdate(NOW + 40, usegmt=True)}, None),
        ({"retry-after": formatdate(NOW + 30, usegmt=True)}, 30),
        ({"retry-after": formatdate(NOW + 30, usegmt=True), "date": formatdate(NOW + 10, usegmt=True)}, 20),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "1e9"}, None),
        ({"x-ratelimit-reset-requests": "6m0s"}, 360),
        ({"x-ratelimit-reset-tokens": "20ms"}, 0.02),
        ({"x-ratelimit-reset-tokens": "1h2m3.5s"}, 3723.5),
        ({"x-ratelimit-reset": str(int((NOW + 5) * 1000))}, 5),
        ({"x-ratelimit-reset": str(NOW + 5)}, 5),
        ({"x-ratelimit-reset": str(NOW - 5)}, None),
        ({"x-ratelimit-reset-tokens": "0s"}, None),
        ({"x-ratelimit-reset-requests": "12ms", "x-ratelimit-reset-tokens": "15s"}, 15),
        ({"x-ratelimit-reset-requests": "15s", "x-ratelimit-reset-tokens": "soon", "ratelimit": "a;t=9"}, 15),
        ({"retry-after": "2", "x-ratelimit-reset-tokens": "15s"}, 2),
        ({"ratelimit": '"default";r=0;t=17'}, 17),
        ({"x-ratelimit-reset-tokens": ""}, None),
        ({}, None),
    ],
)
def test_first_header_with_a_positive_wait_wins(headers: dict[str, str], wait: float | None) -> None:
    """The first header with a positive wait wins, else the longest reset time; past times are ignored."""
    assert wait_asked(headers, NOW, hints=True) == (None if wait is None else pytest.approx(wait))


def test_reset_times_count_for_limits_only() -> None:
    """The reset time of a limit is a wait only if a limit refused the call."""
    hints = {"x-ratelimit-reset-tokens": "6m0s"}
    assert refusal(429, {}, hints).retry_after == 360
    assert refusal(500, {}, hints).retry_after is None
    assert refusal(429, {"code": "insufficient_quota"}, hints).retry_after is None
    assert refusal(503, {}, hints | {"retry-after": "3"}).retry_after == 3


@pytest.mark.parametrize("zone", ["UTC0", "XXX-5", "YYY+8"])
def test_date_without_a_zone_is_utc(zone: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A date without a zone is in UTC, in any local time zone."""
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        asked = {"retry-after": "Sun Nov  6 08:49:37 1994", "date": "Sun, 06 Nov 1994 08:49:07 GMT"}
        assert wait_asked(asked, NOW, hints=False) == 30
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize(
    ("status", "error", "again"),
    [
        (400, {"code": "content_filter"}, False),
        (401, {"code": "invalid_api_key"}, False),
        (404, {"code": "model_not_found"}, False),
        (429, {"code": "insufficient_quota"}, False),
        (402, {}, True),
        (401, {"type": "invalid_request_error"}, True),
        (400, {}, True),
    ],
)
def test_should_retry_overrides_a_status(status: int, error: dict[str, str], again: bool) -> None:  # noqa: FBT001  # a column of the table
    """`x-should-retry: true` overrides a status, but not a code that is known to be final."""
    broken = refusal(status, error, {"x-should-retry": "true"})
    verdict = RetryClassifier().retry(make_call("hi"), broken.failure())

    assert isinstance(verdict, Retry) is again


@given(
    st.dictionaries(
        st.sampled_from(["retry-after", "retry-after-ms", "date", "ratelimit", "x-ratelimit-reset"]),
        st.text(max_size=40),
    )
)
@example({"retry-after": "0\x1f"})
def test_waits_never_raise(headers: dict[str, str]) -> None:
    """No header value raises, and every wait is positive."""
    wait = wait_asked(headers, NOW, hints=True)
    assert wait is None or wait > 0


def retry_info(delay: object) -> dict[str, Any]:
    return {"details": [{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": delay}]}


@pytest.mark.parametrize(
    ("error", "text", "wait"),
    [
        (retry_info("17s"), "", 17),
        (retry_info("17.202848161s"), "", 17.202848161),
        (retry_info("0s"), "", None),
        (retry_info("-3s"), "", None),
        (retry_info("9999999s"), "", None),
        (retry_info(17), "", None),
        (retry_info("soon"), "", None),
        ({"details": [None, "x", {"@type": "google.rpc.Help", "retryDelay": "5s"}]}, "", None),
        ({"details": "17s"}, "", None),
        ({"details": [{}] * 100 + retry_info("17s")["details"]}, "", None),
        ({"metadata": {"headers": {"Retry-After": "4"}}}, "", 4),
        ({"metadata": {"headers": {"X-RateLimit-Reset": str(int((NOW + 60) * 1000))}}}, "", 60),
        ({"metadata": {"headers": {"X-RateLimit-Reset": 5, "Retry-After": None}}}, "", None),
        ({"metadata": {"headers": {str(at): "x" for at in range(100)} | {"Retry-After": "4"}}}, "", None),
        ({}, "Please try again in 20s. Visit", 20),
        ({}, "Please try again in 1.2s.", 1.2),
        ({}, "Please try again in 6m0s.", 360),
        ({}, "Please try again in 886ms.", 0.886),
        ({}, "Please try again in 1h12m3.5s", 4323.5),
        ({}, "Please retry after 26 seconds.", 26),
        ({}, "please try again after 1 seconds", 1),
        ({}, "Retry in 2 minutes", 120),
        ({}, "retry after 500 milliseconds", 0.5),
        ({}, "Please retry in 25.465784708s.", 25.465784708),
        ({}, "try again in 8 days", None),
        ({}, "try again in 1 day", 86_400),
        ({}, "try again in 20", None),
        ({}, "try again in 20x", None),
        ({}, "try again in 99999999999s", None),
        ({}, "x" * 4096 + " try again in 20s", None),
        (retry_info("17s"), "try again in 20s", 17),
    ],
)
def test_wait_of_an_error_object_is_read(error: dict[str, Any], text: str, wait: float | None) -> None:
    """Google's `RetryInfo`, quoted headers and the words of the message name a wait, of seven days at most."""
    assert wait_in_error(error, text, NOW) == (None if wait is None else pytest.approx(wait))
