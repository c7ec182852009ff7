"""Errors as clients receive them: status, code, message and headers, in the format of each path."""

from __future__ import annotations

import json

import pytest

from policies.api.rejection import Rejection
from sidecar.downstream.client_errors import (
    chat_body,
    chat_event,
    chat_status,
    draining,
    error_for_rejection,
)
from sidecar.downstream.refusal_form import OPENAI_REFUSALS, ChatNestRefusals


def test_rejection_keeps_its_code_and_details() -> None:
    """A rejection by a policy has its own code and details, and its wait rounded up."""
    fault = error_for_rejection(Rejection(429, "busy", "later", retry_after=1.2001, details={"policy": "q"}))

    assert json.loads(chat_body(fault)) == {"error": "later", "code": "busy", "policy": "q"}
    assert fault.headers == [(b"retry-after", b"2"), (b"retry-after-ms", b"1201")]
    assert error_for_rejection(Rejection(403, "no", "no")).headers == [(b"x-should-retry", b"false")]
    assert chat_status(error_for_rejection(Rejection(400, "request_too_large", "x"))) == 429
    assert draining().headers[0] == (b"retry-after", b"1")


BUDGET = Rejection(429, "budget_exceeded", "precise", retry_after=2.3, final=False, details={"case": "held", "held": 7})


def test_chat_body_keeps_the_fixed_text_beside_the_precise_one() -> None:
    """On /api/chat a limit has Chat Nest's own text in `error`; its case and its precise message are beside it."""
    body = json.loads(chat_body(error_for_rejection(BUDGET)))
    assert body["error"] == "Daily AI budget exceeded. Try again tomorrow."
    assert (body["code"], body["case"], body["held"], body["detail"]) == ("budget_exceeded", "held", 7, "precise")


def test_chat_event_has_the_precise_message() -> None:
    """An `error` event has the precise message and the fields of the refusal, because the client shows the message."""
    event = json.loads(chat_event(error_for_rejection(BUDGET)).decode().split("data: ")[1])
    assert event == {"message": "precise", "code": "budget_exceeded", "retryable": True, "case": "held", "held": 7}


@pytest.mark.parametrize("status", [400, 401, 403, 413, 415, 422, 429, 451, 405, 500, 502, 503, 504, 200])
def test_only_a_final_status_becomes_an_event(status: int) -> None:
    """As an event, a 4xx has status 200 and no headers that are about its status; a 405 and a 5xx stay as they are."""
    error = error_for_rejection(Rejection(status, "c", "m", retry_after=0.0101))
    plain, event = ChatNestRefusals(as_events=False).encoded(error), ChatNestRefusals(as_events=True).encoded(error)
    assert (plain.status, plain.body) == (status, b'{"error":"m","code":"c"}')
    if status in (405, 500, 502, 503, 504, 200):
        assert event == plain
    else:
        assert (event.status, dict(event.headers)[b"content-type"]) == (200, b"text/event-stream")
        assert b"x-should-retry" not in dict(event.headers)
        assert json.loads(event.body.decode().split("data: ")[1])["retry_after"] == 0.011


def test_forms_agree_on_the_fault() -> None:
    """OpenAI's form and both of Chat Nest's have the same code and fields."""
    error = error_for_rejection(BUDGET)
    openai_form = json.loads(OPENAI_REFUSALS.encoded(error).body)["error"]
    assert (openai_form["code"], openai_form["message"], openai_form["held"]) == ("budget_exceeded", "precise", 7)
    assert (b"retry-after", b"3") in OPENAI_REFUSALS.encoded(error).headers
