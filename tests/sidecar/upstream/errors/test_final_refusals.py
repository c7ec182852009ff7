"""Refusals of accounts, mostly under 429: which of them end with a wait, and how long it is."""

from __future__ import annotations

import json
from typing import Any

import pytest
from upstream_errors import NOW, REQUEST, classified

from sidecar.upstream.errors.classify import from_object


def error(message: str, **fields: Any) -> dict[str, Any]:
    return {"error": {"message": message, **fields}}


def google(quota: str, value: str = "20", delay: str = "51s") -> dict[str, Any]:
    """Return Gemini's 429 (itcon-pty-au/stremio-ai-search#170) for the limit *quota* of *value*."""
    violation = {"quotaMetric": "generativelanguage.googleapis.com/requests", "quotaId": quota, "quotaValue": value}
    details = [
        {"@type": "type.googleapis.com/google.rpc.Help", "links": []},
        {"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": [violation]},
        {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": delay},
    ]
    words = f"You exceeded your current quota, please check your plan and billing details. \n* Quota exceeded, limit: {value}\nPlease retry in 51.6s."
    return error(words, code=429, status="RESOURCE_EXHAUSTED", details=details)


TOO_LARGE = "Request too large for gpt-4o in organization org-x on tokens per min (TPM): Limit 30000, Requested 31538. The input or output tokens must be reduced in order to run successfully. Visit https://platform.openai.com/account/rate-limits to learn more."
GROQ = "Request too large for model `llama-3.3-70b-versatile` in organization `org_01k` service tier `on_demand` on tokens per minute (TPM): Limit 12000, Requested 14137, please reduce your message size and try again. Need more tokens? Upgrade to Dev Tier today at https://console.groq.com/settings/billing"
GROQ_DAY = "Rate limit reached for model `llama-3.3-70b-versatile` in organization `org_01k` service tier `on_demand` on tokens per day (TPD): Limit 100000, Used 97050, Requested 3619. Please try again in 9m38.016s. Need more tokens? Upgrade to Dev Tier today at https://console.groq.com/settings/billing"
REACHED = "Rate limit reached for gpt-4o in organization org-x on tokens per min (TPM): Limit 30000, Used 29000, Requested 1500. Please try again in 1.2s. Visit https://platform.openai.com/account/rate-limits to learn more."
XAI = "Your team 16f2151a has either used all available credits or reached its monthly spending limit. To continue making API requests, please purchase more credits or raise your spending limit."
FREE_DAY = "Rate limit exceeded: free-models-per-day. Add 10 credits to unlock 1000 free model requests per day"
SUSPENDED = "Your account org-x <ak-x> is suspended due to insufficient balance, please recharge your account or check your plan and billing details"
ANTHROPIC = "This request would exceed your organization's rate limit of 30,000 input tokens per minute. For details, refer to: https://docs.anthropic.com/en/api/rate-limits; see the response headers for current usage. Please reduce the prompt length or the maximum tokens requested, or try again later."
AZURE = "Requests to the ChatCompletions_Create Operation under Azure OpenAI API version 2024-02-01 have exceeded token rate limit of your current OpenAI S0 pricing tier. Please retry after 26 seconds."
BALANCE_LOW = "Your credit balance is too low to access the Anthropic API. Please go to Plans & Billing to upgrade or purchase credits."
HEADERS = {"X-RateLimit-Limit": "50", "X-RateLimit-Remaining": "0", "X-RateLimit-Reset": str(int((NOW + 9000) * 1000))}
MOONSHOT_RAW = json.dumps({"error": {"message": SUSPENDED, "type": "exceeded_current_quota_error"}})


@pytest.mark.parametrize(
    ("status", "body", "kind", "wait"),
    [
        pytest.param(429, error(TOO_LARGE, type="tokens", code="rate_limit_exceeded"), "too_large", None, id="OpenAI, larger than the limit (TheR1D/shell_gpt#653)"),
        pytest.param(413, error(GROQ, type="tokens", code="rate_limit_exceeded"), "too_large", None, id="Groq, larger than the limit (continuedev/continue#10218)"),
        pytest.param(429, error("Tokens per minute: limit 1000, requested 3000"), "too_large", None, id="other words, larger than the limit"),
        pytest.param(429, error("The rate limit is 10,000 tokens a minute, and this request has 12,500 tokens; limit of 10,000"), "too_large", None, id="other words, with commas"),
        pytest.param(429, error("Request too large for this deployment"), "too_large", None, id="larger, without numbers"),
        pytest.param(429, error(REACHED, type="tokens", code="rate_limit_exceeded"), "rate", 1.2, id="OpenAI, used by others"),
        pytest.param(429, error("Limit 30000, Used 31000, Requested 1500"), "rate", None, id="used beyond the limit"),
        pytest.param(429, error(GROQ_DAY, type="tokens", code="rate_limit_exceeded"), "rate", 578.016, id="Groq, a day with a wait (continuedev/continue#10920)"),
        pytest.param(429, error("Rate limit reached on requests per day (RPD): Limit 200, Used 200, Requested 1."), "quota", None, id="a day without a wait"),
        pytest.param(429, error(FREE_DAY, code=429, metadata={"headers": HEADERS}), "rate", 9000, id="OpenRouter, a day with a reset (Gitlawb/openclaude#936)"),
        pytest.param(429, error("Rate limit exceeded: free-models-per-day-high-balance. ", type="rate_limit_error", code="429"), "quota", None, id="OpenRouter, a day (Gitlawb/openclaude#1549)"),
        pytest.param(429, error("Slow down", code=429, metadata={"limit_source": "openrouter_free_tier_daily"}), "quota", None, id="OpenRouter, by source (Avarok-Cybersecurity/atlas#543)"),
        pytest.param(429, google("GenerateRequestsPerDayPerProjectPerModel-FreeTier"), "quota", None, id="Gemini, a day"),
        pytest.param(429, [google("GenerateRequestsPerDayPerProjectPerModel-FreeTier")], "quota", None, id="Gemini, a day, in a list"),
        pytest.param(429, google("GenerateRequestsPerMinutePerProjectPerModel-FreeTier"), "rate", 51, id="Gemini, a minute"),
        pytest.param(429, [google("GenerateRequestsPerMinutePerProjectPerModel-FreeTier", delay="17s")], "rate", 17, id="Gemini, a minute, in a list"),
        pytest.param(429, google("GenerateContentInputTokensPerModelPerMinute-FreeTier", "0"), "quota", None, id="Gemini, no quota (google-gemini/gemini-cli#22486)"),
        pytest.param(429, error(SUSPENDED, type="exceeded_current_quota_error"), "quota", None, id="Moonshot (666ghj/BettaFish#524)"),
        pytest.param(429, error("Provider returned error", code=429, metadata={"raw": MOONSHOT_RAW}), "quota", None, id="behind a router (anomalyco/opencode#24462)"),
        pytest.param(429, {"code": "Some resource has been exhausted", "error": XAI}, "quota", None, id="xAI (continuedev/continue#10373)"),
        pytest.param(403, {"code": "denied", "error": XAI}, "quota", None, id="xAI, 403 (warpdotdev/warp#14863)"),
        pytest.param(400, error(BALANCE_LOW, type="invalid_request_error"), "quota", None, id="Anthropic, no credit"),
        pytest.param(400, error(f"Invalid value for user, which is: {BALANCE_LOW}"), "request", None, id="a client that is quoted"),
        pytest.param(403, error("user quota is not enough", code="insufficient_user_quota"), "quota", None, id="new-api"),
        pytest.param(429, error("Your account is not active", code="billing_not_active"), "quota", None, id="OpenAI, billing"),
        pytest.param(400, error("You have reached your specified API usage limits. You will regain access on 2025-08-01 at 00:00 UTC.", type="invalid_request_error"), "quota", None, id="Anthropic, usage limits (memory)"),
        pytest.param(403, error("The request failed because your account has an overdue balance.", code="AccountOverdueError", type="Forbidden"), "quota", None, id="Ark, overdue (memory)"),
        pytest.param(403, {"code": "denied", "error": "Your newly created team doesn't have any credits or licenses yet."}, "quota", None, id="xAI, no credits (memory)"),
        pytest.param(403, {"statusCode": 403, "message": "Out of call volume quota. Quota will be replenished in 06.10:00:00."}, "quota", None, id="Azure API Management (memory)"),
        pytest.param(429, {"errors": [{"message": "AiError: you have used up your daily free allocation of 10,000 neurons", "code": 4006}], "success": False}, "quota", None, id="Cloudflare, a day (memory)"),
        pytest.param(498, error("Flex tier capacity exceeded", type="internal_server_error", code="capacity_exceeded"), "overloaded", None, id="Groq, flex tier (documentation)"),
        pytest.param(429, error("Your account org-x request reached TPD rate limit, current:1500222, limit:1500000"), "quota", None, id="Moonshot, a day"),
        pytest.param(429, error("Your account org-x request reached max request: 3, please try again after 1 seconds"), "rate", 1, id="Moonshot, requests (harry0703/MoneyPrinterTurbo#339)"),
        pytest.param(429, error(ANTHROPIC, type="rate_limit_error"), "rate", None, id="Anthropic (stagewise-io/stagewise#927)"),
        pytest.param(429, error(AZURE, code="429"), "rate", 26, id="Azure"),
        pytest.param(429, error("received 61 calls in the last minute, max 60"), "rate", None, id="calls, not tokens"),
        pytest.param(429, error("Rate limit exceeded (0 left)"), "rate", None, id="nothing left is no limit of zero"),
        pytest.param(503, error("The model is overloaded. Please try again in 5s", status="UNAVAILABLE"), "overloaded", 5, id="overloaded, with a wait"),
        pytest.param(400, error("Bad date, please try again in 5s"), "request", None, id="no wait for a refused request"),
    ],
)  # fmt: skip
def test_limit_is_classified(status: int, body: Any, kind: str, wait: float | None) -> None:
    """A limit is a `rate` with its wait, unless no wait within a call helps: `too_large` and `quota` are final."""
    found = classified(status, body)

    assert (found.kind, found.retry_after) == (kind, None if wait is None else pytest.approx(wait))


def test_error_object_in_a_stream_has_the_same_wait() -> None:
    """An error object under a 200 names its wait like an error response."""
    found = from_object(google("GenerateRequestsPerMinutePerProjectPerModel-FreeTier", delay="17s"), REQUEST, now=NOW)

    assert (found.kind, found.retry_after) == ("rate", 17)


def test_header_precedes_the_error_object() -> None:
    """`Retry-After` comes before the error object, and this before the headers of limits."""
    body = google("GenerateRequestsPerMinutePerProjectPerModel-FreeTier", delay="17s")

    assert classified(429, body, {"retry-after": "3"}).retry_after == 3
    assert classified(429, body, {"x-ratelimit-reset-requests": "90s"}).retry_after == 17
    assert classified(429, error("busy"), {"x-ratelimit-reset-requests": "90s"}).retry_after == 90
