"""What a request refers to: the ids that are read, and the forms that are refused."""

from __future__ import annotations

from typing import Any

import pytest

from sidecar.wire.request.json_body import BadRequest
from sidecar.wire.stored.references import MAX_REFERENCED_ITEMS, References, is_stored_id, references_of


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({}, References()),
        ({"previous_response_id": None, "conversation": None, "input": "hi"}, References()),
        ({"previous_response_id": ""}, References()),
        ({"previous_response_id": "resp_1"}, References("resp_1")),
        ({"conversation": "conv_1"}, References("", "conv_1")),
        ({"conversation": {"id": "conv_1"}}, References("", "conv_1")),
        ({"conversation": {}}, References()),
        ({"previous_response_id": "resp_bGl0ZWxsbTo=", "conversation": "c"}, References("resp_bGl0ZWxsbTo=", "c")),
        ({"input": [{"type": "item_reference", "id": "msg_1"}, {"id": "rs_2"}, {"type": None, "id": "rs_2"}]}, References(items=("msg_1", "rs_2"))),
        ({"input": [{"role": "user", "content": "x", "id": "msg_1"}, {"type": "message", "id": "a b", "content": "x"}, "x", 3]}, References()),
        ({"input": {"type": "item_reference", "id": "msg_1"}}, References(items=("msg_1",))),
        ({"instructions": [{"id": "msg_1"}]}, References(items=("msg_1",))),
        ({"input": [{"type": "image_generation_call", "id": "ig_1", "status": "completed"}]}, References(items=("ig_1",))),
        ({"input": [{"type": "image_generation_call", "id": "ig_1", "result": "QUJD"}]}, References()),
        ({"input": [{"type": "reasoning", "id": "rs_1", "summary": [{"text": "x"}]}]}, References(items=("rs_1",))),
        ({"input": [{"type": "reasoning", "id": "rs_1", "summary": [], "content": [], "encrypted_content": None}]}, References(items=("rs_1",))),
        ({"input": [{"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "gAAA"}]}, References()),
        ({"input": [{"type": "reasoning", "id": "rs_1", "content": [{"type": "reasoning_text", "text": "x"}]}]}, References()),
        ({"input": [{"type": "message", "id": "msg_1"}, {"type": "web_search_call", "id": "ws_1", "status": "completed"}]}, References(items=("msg_1", "ws_1"))),
        ({"input": [{"type": "compaction_trigger", "id": "c_1"}, {"type": "message", "id": "m", "role": "assistant", "content": []}]}, References()),
        ({"prompt_cache_options": {"mode": "explicit", "comparison_response_id": "resp_1"}}, References(compared="resp_1")),
    ],
)  # fmt: skip
def test_references_are_read(body: dict[str, Any], expected: References) -> None:
    """An earlier response, a conversation in either form, and references to items, which may lack a type."""
    assert references_of(body) == expected


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"previous_response_id": 7}, "previous_response_id"),
        ({"previous_response_id": ["resp_1"]}, "previous_response_id"),
        ({"previous_response_id": "../resp_1"}, "previous_response_id"),
        ({"previous_response_id": "x" * 513}, "previous_response_id"),
        ({"previous_response_id": "resp_1\n"}, "previous_response_id"),
        ({"conversation": {"id": 7}}, "conversation.id"),
        ({"conversation": {"ID": "conv_1"}}, "conversation.ID"),
        ({"conversation": True}, "conversation"),
        ({"Previous_Response_Id": "resp_1"}, "Previous_Response_Id"),
        ({"conversation\0x": "conv_1"}, "conversation\0x"),
        ({"INPUT": []}, "INPUT"),
        ({"prompt_cache_options": {"Comparison_Response_Id": "resp_1"}}, "prompt_cache_options.Comparison_Response_Id"),
        ({"prompt_cache_options": {"comparison_response_id": 7}}, "prompt_cache_options.comparison_response_id"),
        ({"input": [{"type": "item_reference"}]}, "input[0].id"),
        ({"input": [{}, {"type": "item_reference", "id": "a/b"}]}, "input[1].id"),
        ({"input": [{"type": "message", "Type": "item_reference", "id": "a"}]}, "input[0].Type"),
        ({"input": ["x"] * 10_001}, "input"),
        ({"input": [{"id": f"i{at}"} for at in range(MAX_REFERENCED_ITEMS + 1)]}, "input"),
    ],
)
def test_other_forms_are_refused(body: dict[str, Any], param: str) -> None:
    """Other types, ids that no server makes, other spellings, and too many items are refused with the name of the field."""
    with pytest.raises(BadRequest) as refused:
        references_of(body)
    assert refused.value.param == param


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a%2Fb", "a b", "a?b", "a#b", "a\\b", "é", None, 3])
def test_strange_ids_are_none(name: object) -> None:
    """An id has no character that could lead a path elsewhere."""
    assert not is_stored_id(name)
