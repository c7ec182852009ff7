"""Check requests: what a server may accept passes as sent, numbers with several readings get one."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest

from policies.testing import make_call
from sidecar.wire.request.json_body import BadRequest
from sidecar.wire.request.openai_request import (
    MAX_FIELDS,
    MAX_ITEMS,
    MAX_MODEL_ID_LENGTH,
    MAX_MODELS,
    MAX_USER_LENGTH,
    check_openai,
    openai_steps,
)

HI = [{"role": "user", "content": "hi"}]
CALLS = [{"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]
BIG = 2**53 - 1


def checked(body: dict[str, Any]) -> dict[str, Any]:
    """Return *body* as it goes on to the policies."""
    check_openai(body)
    return body


@pytest.mark.parametrize(
    "message",
    [
        {"role": "tool", "tool_call_id": "c1", "content": None},
        {"role": "tool", "tool_call_id": "c1"},
        {"role": "tool", "tool_call_id": "c1", "content": {"celsius": 3}},
        {"role": "tool", "tool_call_id": "c1", "content": 3},
        {"role": "user", "content": []},
        {"role": "user", "content": None},
        {"role": "user", "content": {"type": "text", "text": "hi"}},
        {"role": "user", "content": ["hi", {"text": "hi"}, {"image_url": {"url": "u"}}, None, 1, {}, [], {"type": 1}]},
        {"role": "user", "content": [{"type": "text", "text": None}, {"type": "text"}, {"type": "thing", "x": [1]}]},
        {"role": "assistant", "content": "", "tool_calls": CALLS},
        {"role": "assistant", "content": [], "tool_calls": CALLS, "reasoning_content": None},
        {"role": "assistant", "content": [{"type": "thinking", "thinking": "t"}], "function_call": None},
        {"role": "assistant"},
        {"role": "control", "content": "thinking"},
        {"role": "ipython", "content": "3"},
        {"role": "model", "content": "hi"},
        {"role": "latest_reminder", "content": "hi"},
        {"role": "USER", "content": "hi"},
        {"role": "", "content": "hi"},
        {"role": None, "content": "hi"},
        {"content": "hi"},
        {"role": "user", "content": "hi", "prefix": True, "name": None, "weight": 0.5, "cache_control": {"x": [1]}},
        {"role": "user", "content": "a\0b"},
        {},
    ],
    ids=repr,
)
def test_message_of_any_form_passes(message: dict[str, Any]) -> None:
    """A message passes as sent, whatever its role, content and parts; upstream decides about it."""
    body = {"messages": [message]}
    assert checked(copy.deepcopy(body)) == body


@pytest.mark.parametrize(
    "fields",
    [
        {"max_tokens": -1},
        {"max_tokens": 0},
        {"max_tokens": None},
        {"max_completion_tokens": None, "max_tokens": None},
        {"n_predict": -2},
        {"max_tokens": True},
        {"max_tokens": "inf"},
        {"max_tokens": {}},
        {"max_tokens": -1.5},
        {"n": None},
        {"n": 0},
        {"n": True},
        {"stream": None},
        {"stop": None},
        {"stream_options": None},
        {"stream_options": {"include_usage": None, "continuous_usage_stats": True, "x": 1}},
        {"stream_options": {"include_usage": "maybe"}},
        {"model": None},
        {"model": ""},
        {"models": None},
        {"user": 42},
        {"user": {"id": 1}},
        {"tools": None, "tool_choice": None, "functions": [], "response_format": None, "logit_bias": []},
        {"temperature": "0.5", "seed": -1, "x": {"y": [1e300, 10**40]}, "x\0": 1},
        {"provider": {"sort": "price"}, "reasoning": {"max_tokens": 10}, "extra_body": {"google": {}}, "safe_prompt": True},
    ],
    ids=repr,
)  # fmt: skip
def test_field_of_any_form_passes(fields: dict[str, Any]) -> None:
    """A field that no limit depends on, or that counts as absent, passes as sent."""
    body = {"messages": HI} | fields
    assert checked(copy.deepcopy(body)) == body


@pytest.mark.parametrize(
    ("sent", "written"),
    [
        ({"max_tokens": 100.0}, {"max_tokens": 100}),
        ({"max_tokens": 100.5}, {"max_tokens": 101}),
        ({"max_tokens": " 100 "}, {"max_tokens": 100}),
        ({"max_tokens": "100.0"}, {"max_tokens": 100}),
        ({"max_tokens": 1e300}, {"max_tokens": BIG}),
        ({"max_tokens": 2**63 - 1}, {"max_tokens": BIG}),
        ({"max_tokens": -1, "max_completion_tokens": 100}, {"max_tokens": 100, "max_completion_tokens": 100}),
        ({"max_tokens": 100, "max_completion_tokens": None}, {"max_tokens": 100, "max_completion_tokens": None}),
        ({"max_tokens": 100, "n_predict": "no"}, {"max_tokens": 100, "n_predict": 100}),
        ({"max_tokens": 100, "max_new_tokens": 5}, {"max_tokens": 5, "max_new_tokens": 5}),
        ({"n": 2.0, "best_of": "3"}, {"n": 2, "best_of": 3}),
        ({"n": 1.5}, {"n": 2}),
        ({"stream": 1}, {"stream": True}),
        ({"stream": "True"}, {"stream": True}),
        ({"stream": "off"}, {"stream": False}),
        ({"stream": 0.0}, {"stream": False}),
        ({"stream_options": {"include_usage": "true"}}, {"stream_options": {"include_usage": True}}),
        ({"stream_options": {"include_usage": 0}}, {"stream_options": {"include_usage": False}}),
        ({"stream_options": []}, {}),
        ({"stream_options": "x"}, {}),
    ],
    ids=repr,
)
def test_value_with_several_readings_gets_one(sent: dict[str, Any], written: dict[str, Any]) -> None:
    """A value that servers read differently is written as the one that is counted: an integer, the lowest ceiling."""
    body = checked({"messages": HI} | sent)
    del body["messages"]
    assert repr(body) == repr(written)


@pytest.mark.parametrize(
    ("body", "ceiling", "written"),
    [
        ({"max_tokens": -1}, None, {"max_tokens": 9}),
        ({"max_tokens": 0}, None, {"max_tokens": 9}),
        ({"max_tokens": None}, None, {"max_tokens": 9}),
        ({"max_completion_tokens": None}, None, {"max_completion_tokens": None, "max_tokens": 9}),
        ({"n_predict": -1}, None, {"n_predict": 9, "max_tokens": 9}),
        ({"max_tokens": "no", "max_new_tokens": -1}, None, {"max_tokens": 9, "max_new_tokens": 9}),
        ({"max_tokens": True}, None, {"max_tokens": 9}),
        ({"max_completion_tokens": 50.0}, 50, {"max_completion_tokens": 9}),
        ({"max_tokens": -1, "n_predict": 50}, 50, {"max_tokens": 9, "n_predict": 9}),
    ],
    ids=repr,
)
def test_ceiling_of_a_policy_replaces_every_other(
    body: dict[str, Any], ceiling: int | None, written: dict[str, Any]
) -> None:
    """-1, 0 and null are no ceiling, and one that a policy sets leaves no field that a server could obey instead."""
    call = make_call(body=checked({"messages": HI} | body))
    assert call.max_tokens == ceiling
    call.max_tokens = 9
    assert {field: call.body[field] for field in call.body if "token" in field or field == "n_predict"} == written
    assert call.ceiling_is_ours is (ceiling is None)


@pytest.mark.parametrize(("number", "counted"), [(None, 1), (0, 1), (True, 1), (False, 1), (2.0, 2), ("3", 3)])
def test_number_of_answers_is_at_least_one(number: object, counted: int) -> None:
    """Null and 0 answers count as one, in what is generated and in what is returned."""
    call = make_call(body=checked({"messages": HI, "n": number}))
    assert (call.choices_generated, call.choices_returned) == (counted, counted)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": {}}, "messages"),
        ({"messages": ["hi"]}, "messages[0]"),
        ({"messages": [*HI, None]}, "messages[1]"),
        ({"messages": [{"role": 1}]}, "messages[0].role"),
        ({"messages": [{"role": ["user"]}]}, "messages[0].role"),
        ({"messages": HI, "n": 129}, "n"),
        ({"messages": HI, "best_of": -1}, "best_of"),
        ({"messages": HI, "n_cmpl": []}, "n_cmpl"),
        ({"messages": HI, "stream": 2}, "stream"),
        ({"messages": HI, "model": 7}, "model"),
        ({"messages": HI, "model": "a\0"}, "model"),
        ({"messages": HI, "models": ["a", 7]}, "models[1]"),
        ({"messages": HI, "Max_tokens": 7}, "Max_tokens"),
        ({"messages": HI, "max_tokens\0": 7}, "max_tokens\0"),
        ({"messages": [{"content": {"TEXT": "x"}}]}, "messages[0].content.TEXT"),
    ],
    ids=repr,
)
def test_body_that_cannot_be_governed_is_refused(body: dict[str, Any], param: str) -> None:
    """A body without messages, or with a field that servers may read as something that is not counted, is refused."""
    with pytest.raises(BadRequest) as refused:
        check_openai(body)
    assert refused.value.param == param


NAME, PART = "m" * MAX_MODEL_ID_LENGTH, {"type": "text", "text": "a"}


def numbered(many: int) -> dict[str, Any]:
    return {f"x{at}": 0 for at in range(many)}


@pytest.mark.parametrize(
    "body",
    [
        {"models": [NAME] * MAX_MODELS, "model": NAME},
        {"user": "u" * MAX_USER_LENGTH},
        {"messages": HI * MAX_ITEMS},
        {"messages": [{"role": "user", "content": [PART] * (MAX_ITEMS - 1)}]},
        {"messages": [{"role": "user", "content": [PART]}] * (MAX_ITEMS // 2)},
        numbered(MAX_FIELDS - 1),
        {"messages": [numbered(MAX_FIELDS)]},
        {"messages": [{"content": [numbered(MAX_FIELDS)]}]},
        {"stream_options": numbered(MAX_FIELDS)},
        {"metadata": numbered(2 * MAX_FIELDS), "tools": [numbered(2 * MAX_FIELDS)]},
    ],
    ids=lambda body: repr(body)[:40],
)
def test_largest_body_passes(body: dict[str, Any]) -> None:
    """A body at its limits passes as sent."""
    body = {"messages": HI, **body}
    assert checked(copy.deepcopy(body)) == body


@pytest.mark.parametrize(
    ("body", "param", "limit"),
    [
        ({"models": ["m"] * (MAX_MODELS + 1)}, "models", "'models' has 17 names; send at most 16."),
        ({"models": ["m", NAME + "m"]}, "models[1]", "'models[1]' has 257 characters; a model's name has at most 256."),
        ({"model": NAME + "m"}, "model", "'model' has 257 characters; a model's name has at most 256."),
        ({"user": "u" * (MAX_USER_LENGTH + 1)}, "user", "'user' has 16385 characters; send at most 16384."),
        ({"messages": HI * (MAX_ITEMS + 1)}, "messages", "more than 10000 messages and parts in all."),
        ({"messages": [{"content": [PART] * MAX_ITEMS}]}, "messages", "more than 10000 messages and parts in all."),
        ({"messages": [{"content": [1]}] * 5_001}, "messages", "more than 10000 messages and parts in all."),
        (numbered(MAX_FIELDS), None, "The body has 1001 fields; send at most 1000."),
        ({"messages": [*HI, numbered(1_001)]}, "messages[1]", "'messages[1]' has 1001 fields; send at most 1000."),
        ({"messages": [{"content": [1, numbered(1_001)]}]}, "messages[0].content[1]", "send at most 1000."),
        ({"messages": [{"content": numbered(1_001)}]}, "messages[0].content", "send at most 1000."),
        ({"stream_options": numbered(1_001)}, "stream_options", "'stream_options' has 1001 fields; send at most 1000."),
        ({"stream": "t" * 1_000_000}, "stream", "'stream' must be true or false."),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_body_beyond_a_limit_is_refused(body: dict[str, Any], param: str | None, limit: str) -> None:
    """What policies would read too often is refused; the message names the limit, and the field."""
    with pytest.raises(BadRequest) as refused:
        check_openai({"messages": HI, **body})
    assert refused.value.message.endswith(limit)
    assert refused.value.param == param


@pytest.mark.parametrize("key", ["x" * 10**6, "\u0149" * 10**6, "x\0model", "\0model", "modelx", "\ufb03" * 22])
def test_long_key_is_no_other_spelling(key: str) -> None:
    """A key that is longer than each checked field, up to a NUL, is not another spelling of one."""
    body = {"messages": HI, key: 1}
    assert checked(dict(body)) == body


def test_shown_key_is_short() -> None:
    """The refusal of another spelling shows the beginning of a long key."""
    with pytest.raises(BadRequest, match="must be spelt 'model'") as refused:
        check_openai({"messages": HI, "MODEL\0" + "x" * 10**6: 1})
    assert len(refused.value.message) < 300


@pytest.mark.parametrize(
    "messages",
    [
        HI * MAX_ITEMS,
        [{"content": [{"x": 1, "y": 2}] * (MAX_ITEMS - 1)}],
        [{"role": "user", "x": 1}] * MAX_ITEMS,
    ],
    ids=["messages", "parts", "fields"],
)
def test_many_messages_are_checked_in_steps(messages: list[Any]) -> None:
    """Many messages, parts or fields are checked in several steps, and all are counted."""
    ends: list[int] = []

    def counted() -> Iterator[None]:
        ends.append((yield from openai_steps({"messages": messages})))

    assert len(list(counted())) >= 3
    assert ends == [MAX_ITEMS]
