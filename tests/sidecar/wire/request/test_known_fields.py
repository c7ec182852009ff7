"""The documented part of a body, for `fields = "known"`."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from routing_bodies import EVASIONS, LEGITIMATE

from sidecar.wire.request.documented_fields import DOCUMENTED_FIELDS, FieldKind
from sidecar.wire.request.json_body import BadRequest
from sidecar.wire.request.known_fields import DocumentedPart
from sidecar.wire.request.routing_fields import MAX_JUDGED_BYTES

SAMPLES = st.sampled_from([*EVASIONS.values(), *(each.fields for each in LEGITIMATE.values())])


@given(st.lists(SAMPLES, max_size=4))
def test_documented_part_is_stable_and_leaves_the_body(samples: list[dict[str, Any]]) -> None:
    """The documented part has documented names alone, is the part of itself, and the body is not changed."""
    body = {name: value for fields in samples for name, value in fields.items()}
    before = json.dumps(body)
    part = DocumentedPart(body)
    assert part.body.keys() <= DOCUMENTED_FIELDS.keys()
    assert bool(part.dropped) == (json.dumps(part.body) != json.dumps(body)) == bool(part.note())
    again = DocumentedPart(part.body)
    assert (again.body, again.dropped) == (part.body, 0)
    assert json.dumps(body) == before


@pytest.mark.parametrize(
    ("body", "part"),
    [
        ({"messages": [{"role": "user", "content": "a", "x": 1}, {"role": "user"}]}, {"messages": [{"role": "user", "content": "a"}, {"role": "user"}]}),
        ({"tools": [{"googleSearch": {}}], "tool_choice": "auto", "parallel_tool_calls": True}, {}),
        ({"tools": [{"type": "function", "function": {"x": 1}, "y": 1}]}, {"tools": [{"type": "function", "function": {"x": 1}}]}),
        ({"temperature": {"x": 1}, "stop": [["a"]], "top_k": [1]}, {"top_k": [1]}),
        ({"metadata": {"a": "b", "max_tokens": "9", "n": 2, "x": {"Best-Of": 2, "y": 1}}}, {"metadata": {"a": "b", "x": {"y": 1}}}),
        ({"reasoning": "high", "options": [{"top_k": 1}]}, {"reasoning": "high"}),
        ({"guided_json": msgspec.Raw(b"{}"), "top_k": msgspec.Raw(b"[1]"), "stop": msgspec.Raw(b"[")}, {"guided_json": msgspec.Raw(b"{}"), "top_k": [1]}),
        ({"stop": msgspec.Raw(b'"' + b"a" * MAX_JUDGED_BYTES + b'"'), "seed": msgspec.Raw(b"1")}, {"seed": 1}),
    ],
    ids=", ".join,
)  # fmt: skip
def test_nested_names_are_dropped(body: dict[str, Any], part: dict[str, Any]) -> None:
    """Names inside documented fields are dropped too, and a field of another form than the documented one."""
    assert DocumentedPart(body).body == part


def test_fields_of_policies_stay() -> None:
    """With the client's body, only values that it still has are judged."""
    client = {"a": [1], "b": 1, "options": {"x": 1}, "stream_options": {"x": 1}}
    body = {**client, "b": 2, "c": 3, "options": {"x": 2}, "stream_options": {"x": 1, "include_usage": True}}
    part = DocumentedPart(body, client)
    assert part.body == {"b": 2, "c": 3, "options": {"x": 2}, "stream_options": {"include_usage": True}}
    assert part.dropped == 2


def test_note_shows_no_text_of_clients() -> None:
    """The note names up to five dropped fields with the letters of field names, and counts the others."""
    fields = {"sk-abc": 1, "AKIA77": 1, "two words": 1, **dict.fromkeys(map("field_{}".format, "abcdefg"), 1)}
    note = "dropped fields that are not documented: field_a, field_b, field_c, field_d, field_e, 5 more"
    assert DocumentedPart(fields).note() == note
    assert DocumentedPart({"1": 1, "2": 2}).note() == "dropped fields that are not documented: 2"
    assert DocumentedPart({"model": "m"}).note() == ""


@pytest.mark.parametrize(
    "body",
    [
        {str(at): 1 for at in range(9_000)},
        {"messages": [{"x": 1}] * 9_000},
        {"tools": [{}] * 20_000},
        {"stop": [1] * 20_000},
        {"metadata": {"x": [1] * 20_000}},
        {"metadata": {str(at): 1 for at in range(3_000)}},
        {"metadata": {"a-" * 120 + str(at): 1 for at in range(250)}},
        {"tools": [{"type": "function", "name": "f", "function": {}}] * 4_500},
    ],
    ids=["fields", "messages", "tools", "list", "values", "labels", "long labels", "fields of tools"],
)
def test_body_beyond_the_limits_is_refused(body: dict[str, Any]) -> None:
    """A body with more undocumented names than can be dropped in a few milliseconds is refused."""
    with pytest.raises(BadRequest):
        DocumentedPart(body)


def test_listed_fields_are_no_routing_names_of_objects() -> None:
    """Each documented field has one form, and no list of names is empty."""
    for shape in DOCUMENTED_FIELDS.values():
        assert isinstance(shape, FieldKind) or shape
