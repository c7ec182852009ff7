"""Requests and errors of the Messages API."""

from __future__ import annotations

import json
from typing import Any

import pytest

from policies.testing import make_call
from sidecar.wire.messages.message_errors import message_error
from sidecar.wire.messages.request_check import with_fitting_thinking
from sidecar.wire.operations.messages import MESSAGES_API, MESSAGES_REQUEST
from sidecar.wire.request.json_body import BadRequest
from sidecar.wire.request.known_fields import DocumentedPart
from sidecar.wire.request.routing_fields import RoutingField, check_routing, check_tier

HELLO: dict[str, Any] = {"model": "m", "max_tokens": 64, "messages": [{"role": "user", "content": "hi"}]}


def body_of(**fields: Any) -> dict[str, Any]:
    copied: dict[str, Any] = json.loads(json.dumps(HELLO | fields))
    return copied


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"messages": ["hi"]}, "messages[0]"),
        ({"Max_Tokens": 5}, "Max_Tokens"),
        ({"SYSTEM": "s"}, "SYSTEM"),
        ({"Metadata": {}}, "Metadata"),
        ({"metadata": {"User_id": "u"}}, "metadata.User_id"),
        ({"metadata": {"user_id": "u" * 20_000}}, "metadata.user_id"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "Text": "x"}]}]}, "messages[0].content[0].Text"),
        ({"messages": [{"role": "user", "content": [{"type": "document", "Source": {}}]}]}, "messages[0].Source"),
        ({"messages": [{"role": "user", "content": [{"type": "tool_result", "content": [{"type": "text", "TEXT": "x"}]}]}]}, "messages[0].TEXT"),
        ({"messages": [{"role": "user", "content": [{"type": "document", "source": {"type": "text", "Data": "x"}}]}]}, "messages[0].source.Data"),
        ({"system": [{"type": "text", "Text": "x"}]}, "system.Text"),
        ({"n": 2}, "n"),
        ({"best_of": "3"}, "best_of"),
        ({"model": 5}, "model"),
        ({"stream": "maybe"}, "stream"),
        ({"messages": [{"role": "user", "content": [{"type": "tool_result", "content": [{"type": "text", "text": "x"}] * 10_001}]}]}, "messages"),
    ],
)  # fmt: skip
def test_bodies_that_cannot_be_governed_are_refused(fields: dict[str, Any], param: str) -> None:
    """Wrong types, other spellings of governed names at each depth, several answers, and too many parts are refused."""
    with pytest.raises(BadRequest) as caught:
        MESSAGES_API.check(body_of(**fields))
    assert caught.value.param == param


@pytest.mark.parametrize(
    ("fields", "sent"),
    [
        ({"max_tokens": "64"}, 64),
        ({"max_tokens": 64.0}, 64),
        ({"max_tokens": None, "max_completion_tokens": 9}, 9),
        ({"max_tokens": 64, "n_predict": 9}, 9),
        ({"max_tokens": None}, None),
        ({"max_tokens": -1}, -1),
        ({"max_tokens": 0}, 0),
    ],
)
def test_ceiling_is_written_where_servers_read_it(fields: dict[str, Any], sent: int | None) -> None:
    """The ceiling that limits read is the one in `max_tokens`, whatever other fields say."""
    body = body_of(**fields)
    assert MESSAGES_API.check(body) == 1
    assert body.get("max_tokens") == sent


def test_what_clients_send_passes_unchanged() -> None:
    """The requests of Claude Code and of the SDK are accepted as they are, on both ways of checking."""
    body = body_of(
        system=[{"type": "text", "text": "s", "cache_control": {"type": "ephemeral"}}],
        metadata={"user_id": '{"device_id": "d"}'},
        thinking={"type": "adaptive"},
        tools=[{"name": "t", "input_schema": {"type": "object"}, "eager_input_streaming": True}, {"type": "bash_20250124", "name": "bash"}],
        tool_choice={"type": "auto"},
        stop_sequences=["x"],
        context_management={"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
        stream=True,
        new_field={"a": 1},
        messages=[{"role": "user", "content": "hi"}, {"role": "assistant", "content": [{"type": "tool_use", "id": "t", "name": "t", "input": {}}]}, {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": [{"type": "text", "text": "x"}]}]}],
    )  # fmt: skip
    before = json.dumps(body)
    with pytest.raises(StopIteration) as end:
        next(MESSAGES_API.check_steps(body))
    assert end.value.value == 7
    assert json.dumps(body) == before


def test_policies_read_the_request() -> None:
    """System prompt, conversation, user and ceiling are where the API has them."""
    call = make_call(
        operation=MESSAGES_REQUEST,
        messages=[{"role": "user", "content": "question"}],
        body={"system": [{"type": "text", "text": "rules"}], "metadata": {"user_id": "u1"}, "max_tokens": 64},
    )
    assert (call.text, call.user, call.max_tokens) == ("rules question", "u1", 64)
    assert call.messages == [{"role": "user", "content": "question"}]
    call.max_tokens = 32
    assert (call.body["max_tokens"], call.ceiling_was_lowered) == (32, True)


@pytest.mark.parametrize(
    ("ceiling", "thinking", "expected"),
    [
        (5_000, {"type": "enabled", "budget_tokens": 4_000}, {"type": "enabled", "budget_tokens": 4_000}),
        (3_000, {"type": "enabled", "budget_tokens": 4_000}, {"type": "enabled", "budget_tokens": 1_500}),
        (1_500, {"type": "enabled", "budget_tokens": 4_000}, {"type": "enabled", "budget_tokens": 1_024}),
        (1_024, {"type": "enabled", "budget_tokens": 4_000}, {"type": "disabled"}),
        (100, {"type": "adaptive"}, {"type": "adaptive"}),
        (100, {"budget_tokens": "4000"}, {"budget_tokens": "4000"}),
        (100, None, None),
    ],
)
def test_budget_of_thinking_fits_a_lowered_ceiling(ceiling: int, thinking: Any, expected: Any) -> None:
    """Anthropic refuses a budget of thinking that is not below `max_tokens`, so both are lowered."""
    assert with_fitting_thinking({"max_tokens": ceiling, "thinking": thinking})["thinking"] == expected


@pytest.mark.parametrize(
    "field",
    [
        {"fallbacks": [{"model": "dear"}]},
        {"mcp_servers": [{"type": "url", "url": "https://example.org", "name": "n"}]},
        {"container": {"id": "c", "skills": []}},
        {"container": "c"},
        {"inference_geo": "us"},
        {"workspace_id": "w"},
        {"tools": [{"type": "web_search_20250305", "name": "web_search"}]},
        {"tools": [{"type": "advisor_20260301", "name": "advisor", "model": "dear"}]},
        {"tools": [{"type": "code_execution_20250825", "name": "code_execution"}]},
        {"metadata": {"model": "dear"}},
        {"output_config": {"model": "dear"}},
    ],
)
def test_fields_that_choose_a_model_a_server_or_a_price(field: dict[str, Any]) -> None:
    """Such fields are refused where limits depend on the model, and not forwarded with `fields = "known"`."""
    with pytest.raises(RoutingField):
        check_routing(body_of(**field), MESSAGES_API.fields)
    (name,) = field
    kept = DocumentedPart(body_of(**field), fields=MESSAGES_API.fields).body
    assert not kept.get(name)


@pytest.mark.parametrize(
    "fields",
    [
        {"system": "s", "stop_sequences": ["a"], "top_k": 5, "metadata": {"user_id": '{"a": "b"}'}},
        {"thinking": {"type": "enabled", "budget_tokens": 2_000}, "tool_choice": {"type": "tool", "name": "t"}},
        {"output_config": {"effort": "low", "format": {"type": "json_schema", "schema": {"model": {"type": "string"}}}}},
        {"context_management": {"edits": [{"type": "clear_tool_uses_20250919", "trigger": {"type": "input_tokens", "value": 9}}]}},
        {"tools": [{"name": "t", "description": "d", "input_schema": {"type": "object"}, "cache_control": {"type": "ephemeral"}, "input_examples": [{"a": 1}]}]},
        {"tools": [{"type": "text_editor_20250728", "name": "str_replace_based_edit_tool", "max_characters": 10_000}]},
        {"tools": [{"type": "computer_20250124", "name": "computer", "display_width_px": 9, "display_height_px": 9}]},
    ],
)  # fmt: skip
def test_documented_fields_pass(fields: dict[str, Any]) -> None:
    """Documented fields of the API contradict no rule for models, and are forwarded with `fields = "known"`."""
    check_routing(body_of(**fields), MESSAGES_API.fields)
    assert DocumentedPart(body_of(**fields), fields=MESSAGES_API.fields).body == body_of(**fields)


@pytest.mark.parametrize("field", [{"speed": "fast"}, {"speed": "FAST"}, {"service_tier": "priority"}])
def test_dearer_processing_is_refused_where_prices_count(field: dict[str, Any]) -> None:
    """The fast mode costs more than the price of the model."""
    with pytest.raises(RoutingField):
        check_tier(body_of(**field))
    check_tier(body_of(speed="standard", service_tier="standard_only"))


@pytest.mark.parametrize(
    ("status", "kind", "expected"),
    [
        (400, "invalid_request_error", "invalid_request_error"),
        (401, "authentication_error", "authentication_error"),
        (403, "permission_error", "permission_error"),
        (404, "invalid_request_error", "not_found_error"),
        (405, "invalid_request_error", "invalid_request_error"),
        (413, "invalid_request_error", "request_too_large"),
        (429, "insufficient_quota", "rate_limit_error"),
        (429, "requests", "rate_limit_error"),
        (500, "server_error", "api_error"),
        (502, "upstream_error", "api_error"),
        (503, "overloaded_error", "overloaded_error"),
        (503, "server_error", "overloaded_error"),
        (504, "upstream_error", "timeout_error"),
        (529, "overloaded_error", "overloaded_error"),
        (500, "overloaded_error", "overloaded_error"),
        (418, None, "invalid_request_error"),
        (400, ["list"], "invalid_request_error"),
    ],
)
def test_error_has_a_type_of_the_api(status: int, kind: Any, expected: str) -> None:
    """The type is one of Anthropic's, by the status where upstream's is general or unknown; other fields stay."""
    error = {"message": "no", "type": kind, "param": None, "code": "c", "policy": "rate", "request_id": "r1"}
    assert json.loads(message_error(status, error)) == {
        "type": "error",
        "error": {"message": "no", "type": expected, "code": "c", "policy": "rate"},
        "request_id": "r1",
    }
