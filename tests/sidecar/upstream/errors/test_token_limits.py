"""Token limits in error texts of real servers: which ceiling they accept, and which texts mean a prompt that is too long."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from token_refusals import CEILING_REFUSALS, OTHER_REFUSALS, OVERFLOWS, CeilingRefusal, Overflow
from upstream_errors import REQUEST, classified

from sidecar.upstream.errors.classify import from_object
from sidecar.upstream.errors.error_body import refusal_text
from sidecar.upstream.errors.token_limits import Allowance, TokenLimits
from sidecar.upstream.errors.token_numbers import MAX_LIMIT_TEXT_LENGTH, MAX_NUMBERS, token_numbers


def body_of(text: str, fields: Mapping[str, Any] = {}) -> dict[str, Any]:
    """Return the body of a refusal with *text*; *fields* are further fields of its error object."""
    return {"error": {"message": text, **fields}}


def read(refusal: CeilingRefusal | Overflow) -> TokenLimits:
    return TokenLimits(refusal_text(json.dumps(body_of(refusal.text, refusal.fields)).encode()))


@pytest.mark.parametrize("refusal", CEILING_REFUSALS, ids=lambda each: each.server)
def test_named_ceiling_is_read(refusal: CeilingRefusal) -> None:
    """The number that a server accepts is read from its refusal: the model's own maximum, or what the prompt leaves."""
    expected = Allowance(refusal.ceiling, refusal.lasting, refusal.context, refusal.of_context, refusal.at_most)

    assert read(refusal).allowance(refusal.sent) == expected


@pytest.mark.parametrize("refusal", CEILING_REFUSALS, ids=lambda each: each.server)
def test_accepted_ceiling_is_not_lowered(refusal: CeilingRefusal) -> None:
    """A refusal that names a larger number than the ceiling that was sent names no lower one."""
    allowed = read(refusal).allowance(2)

    assert allowed is None or allowed.ceiling < 2


@pytest.mark.parametrize("overflow", OVERFLOWS, ids=lambda each: each.server)
def test_overflow_is_recognised(overflow: Overflow) -> None:
    """A prompt that is too long is `context`, whatever the server: as an error response, and as an object in a stream."""
    body = body_of(overflow.text, overflow.fields)

    assert classified(overflow.status, body).kind == "context"
    assert from_object({"code": overflow.status, **body["error"]}, REQUEST).kind == "context"


@pytest.mark.parametrize("overflow", OVERFLOWS, ids=lambda each: each.server)
@pytest.mark.parametrize("status", [400, 413, 422, 500])
def test_overflow_is_recognised_under_each_status(overflow: Overflow, status: int) -> None:
    """Servers send an overflow under 400, 413, 422 or 500."""
    fields = {key: value for key, value in overflow.fields.items() if not str(value).isdigit()}

    assert classified(status, body_of(overflow.text, fields)).kind == "context"


@pytest.mark.parametrize(
    "overflow", [each for each in OVERFLOWS if any(char.isdigit() for char in each.text)], ids=lambda each: each.server
)
@pytest.mark.parametrize("status", [401, 403, 404, 429, 503])
def test_overflow_is_not_believed_under_other_statuses(overflow: Overflow, status: int) -> None:
    """A client that is quoted in another failure cannot turn it into `context`."""
    assert classified(status, body_of(overflow.text)).kind != "context"


@pytest.mark.parametrize(("status", "text"), OTHER_REFUSALS)
def test_other_refusal_is_no_overflow(status: int, text: str) -> None:
    """A refusal of something else stays `request`, also where its text quotes a client that wrote about overflows."""
    assert classified(status, body_of(text)).kind == "request"


@pytest.mark.parametrize(
    "text",
    [
        "Failed to generate completion after 3 attempts",
        "temperature must be <= 2. Given: 900",
        "top_k must be <= 100, got 5000",
        "worker 7 lost its context",
        "The response took longer than 30 seconds",
        "Invalid 'max_output_tokens': integer below minimum value. Expected a value >= 16, but got 5 instead.",
        "Could not finish the message because max_tokens was reached. Please try again with higher max_tokens.",
        "`max_tokens` must be greater than `thinking.budget_tokens`",
        "You requested up to 5000 tokens, but can only afford 0. To increase, visit https://example.org/8192",
        "Invalid request: 'This model supports at most 4 completion tokens'",
    ],
)
def test_text_without_a_ceiling_is_no_reason_to_lower_it(text: str) -> None:
    """A number of something else, and a ceiling that is too low, are no reason for a lower one."""
    limits = TokenLimits(text)

    assert limits.allowance(5 if "got 5 " in text else 5000) is None
    assert not limits.blames_ceiling


@pytest.mark.parametrize("overflow", OVERFLOWS, ids=lambda each: each.server)
def test_ceiling_is_not_blamed_for_a_counted_prompt(overflow: Overflow) -> None:
    """Where the server counts a prompt beyond its limit, no ceiling is accepted."""
    limits = read(overflow)

    if limits.prompt_overflows:
        allowed = limits.allowance(64)
        assert allowed is None or allowed.ceiling == 0


@given(st.text(max_size=400), st.integers(1, 2**31))
def test_any_text_is_read(text: str, ceiling: int) -> None:
    """Any text is read without an error, and names a ceiling below the refused one, or none."""
    limits = TokenLimits(text)
    allowed = limits.allowance(ceiling)

    assert allowed is None or 0 <= allowed.ceiling < ceiling
    assert isinstance(limits.is_overflow, bool)


WORDS = ["max_tokens", "context", "prompt", "limit", "requested", "12", "4096", "16384", "0", ">", "+", "-", "=", "tokens", ",", ".", "'", "(", "exceeds"]  # fmt: skip


@given(st.lists(st.sampled_from(WORDS), max_size=60), st.integers(1, 20_000))
def test_any_order_of_known_words_is_read(words: list[str], ceiling: int) -> None:
    """Known words in any order name a ceiling below the refused one, or none."""
    allowed = TokenLimits(" ".join(words)).allowance(ceiling)

    assert allowed is None or 0 <= allowed.ceiling < ceiling


def test_text_and_numbers_are_bounded() -> None:
    """Only the first 4,096 characters and 32 numbers of a text are read."""
    text = (
        "x " * (MAX_LIMIT_TEXT_LENGTH // 2)
        + "max_tokens is too large. This model supports at most 4096 completion tokens"
    )

    assert TokenLimits(text).allowance(16384) is None
    assert len(token_numbers("prompt 5 " * 1000)) == MAX_NUMBERS
