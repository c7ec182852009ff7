"""The rule for fields that could choose another model, server or price, on bodies alone."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.wire.request.documented_fields import DOCUMENTED_FIELDS, FieldKind
from sidecar.wire.request.known_fields import DocumentedPart
from sidecar.wire.request.routing_fields import (
    MAX_FIELD_NAME_LENGTH,
    MAX_JUDGED_BYTES,
    MAX_JUDGED_VALUES,
    SETTING_WORDS,
    RoutingField,
    check_model_name,
    check_routing,
    check_tier,
    is_routing_name,
)

NUMBERS = st.recursive(st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False), st.lists, max_leaves=20)
MIXED = st.recursive(
    NUMBERS | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=20
)


def names_something(value: Any) -> bool:
    """Whether *value* has an object, or text other than switches and levels."""
    if isinstance(value, list):
        return any(map(names_something, value))
    return isinstance(value, dict) or (isinstance(value, str) and value.lower() not in SETTING_WORDS)


def is_refused(body: dict[str, Any]) -> bool:
    """Whether the rule refuses *body*."""
    try:
        check_routing(body)
    except RoutingField:
        return True
    return False


@given(st.text(min_size=1, max_size=20).filter(lambda name: name not in DOCUMENTED_FIELDS), MIXED)
def test_undocumented_field_cannot_hold_a_name(name: str, value: Any) -> None:
    """An undocumented field passes only if it is empty, or without text and objects under a name that is not of routing."""
    is_empty = value is None or value == []
    assert is_refused({name: value}) == (not is_empty and (is_routing_name(name) or names_something(value)))


@given(NUMBERS)
def test_numbers_pass_under_a_harmless_name(value: Any) -> None:
    """Numbers, switches, null and lists of them pass in an undocumented field."""
    check_routing({"new_penalty": value})


@pytest.mark.parametrize(
    "name",
    [
        "fallbacks",
        "Fallback_Model",
        "apiBase",
        "api-base",
        "BASE_URL",
        "routing_strategy",
        "extra.headers",
        "my_lora",
        "a tier",
    ],
)
def test_routing_names_are_found_in_any_spelling(name: str) -> None:
    """A name of a routing option is found in any case, with any separators, and inside a longer name."""
    assert is_routing_name(name)
    with pytest.raises(RoutingField):
        check_routing({name: True})


@pytest.mark.parametrize(
    "name", ["top_k", "stage", "keyword_count", "frontier", "thinking", "breakfast_count", "keep_alive"]
)
def test_other_names_are_not(name: str) -> None:
    """A name that only shares letters with a routing option is none."""
    assert not is_routing_name(name)


OBJECTS = [name for name, shape in DOCUMENTED_FIELDS.items() if shape not in (FieldKind.SETTING, FieldKind.CONTENT)]


@pytest.mark.parametrize("name", OBJECTS)
def test_text_that_may_be_an_object_is_refused(name: str) -> None:
    """Text in place of a documented object passes only if it cannot be an object or a list in JSON."""
    check_routing({name: "auto"})
    for text in ('{"model": "dear"}', ' ["dear"]'):
        assert is_refused({name: text})
        assert is_refused({name: msgspec.Raw(msgspec.json.encode(text))})
        assert DocumentedPart({name: text}).body == {}
        assert DocumentedPart({name: msgspec.Raw(msgspec.json.encode(text))}).body == {}


@pytest.mark.parametrize("value", [{}, True, [], None, {"a": 1}])
def test_tool_that_describes_no_function_is_refused(value: object) -> None:
    """A tool without type, function and name is one that a server runs, whatever its value."""
    assert is_refused({"tools": [{"googleSearch": value}]})
    assert not is_refused({"tools": [{"type": None, "function": {"name": "f"}}, {"name": "g"}]})


@pytest.mark.parametrize(
    "name", ["cheap-1/../dear", "../dear", "cheap-1\\..\\dear", "dear?-mini", "dear#-mini", "a%2f..%2fb"]
)
def test_name_that_leads_a_url_elsewhere_is_refused(name: str) -> None:
    """A name that changes the path of a URL it is written into is refused, unless the operator has configured it."""
    with pytest.raises(RoutingField, match="URL"):
        check_model_name(name, "model", ("cheap-*",))
    check_model_name(name, "model", ("cheap-*", name))


@pytest.mark.parametrize(
    "name", ["meta-llama/Llama-3.1-8B", "qwen3:8b", "a..b", "./models/x.gguf", "arn:aws:x/y", "a@2026"]
)
def test_plain_names_pass(name: str) -> None:
    """Names with slashes, colons, dots and versions pass."""
    check_model_name(name, "model", ())


@pytest.mark.parametrize(
    "body",
    [
        {f"a{at}": 1 for at in range(3_000)},
        {"a" * (MAX_FIELD_NAME_LENGTH + 1): 1},
        {"a": [0] * (MAX_JUDGED_VALUES + 1)},
        {"a": [[0] * 1_000] * 20},
        {"stop": ["a"] * (MAX_JUDGED_VALUES + 1)},
        {"tools": [{"function": {}}] * (MAX_JUDGED_VALUES + 1)},
        {"metadata": {f"a{at}": 1 for at in range(3_000)}},
        {"options": {f"a{at}": 1 for at in range(3_000)}},
        {"a-" * 120 + str(at): 1 for at in range(250)},
        {"metadata": {"a-" * 120 + str(at): 1 for at in range(250)}},
        {"tools": [{"type": "function", "name": "f", "function": {}}] * 4_500},
    ],
    ids=[
        "names",
        "long name",
        "numbers",
        "lists",
        "words",
        "tools",
        "labels",
        "options",
        "long names",
        "long labels",
        "fields of tools",
    ],
)
def test_body_beyond_the_limits_is_refused(body: dict[str, Any]) -> None:
    """A body with more than can be checked in a few milliseconds is refused."""
    with pytest.raises(RoutingField):
        check_routing(body)


def test_undecoded_field_is_read_where_it_must_be() -> None:
    """A field that is not decoded yet is decoded in place where its content decides, and stays as it is otherwise."""
    body: dict[str, Any] = {"guided_json": msgspec.Raw(b'{"model": 1}'), "top_k": msgspec.Raw(b"[1]")}
    check_routing(body)
    assert body == {"guided_json": msgspec.Raw(b'{"model": 1}'), "top_k": [1]}
    with pytest.raises(RoutingField, match="tools"):
        check_routing({"tools": msgspec.Raw(b'[{"type": "function", "type": "mcp", "function": {}}]')})


@pytest.mark.parametrize(
    "data",
    [
        b'"' + b"a" * MAX_JUDGED_BYTES + b'"',
        b"[" + b"1," * MAX_JUDGED_VALUES + b"1]",
        b"[",
        b"[" * 5_000 + b"]" * 5_000,
    ],
)
def test_unreadable_undecoded_field_is_refused(data: bytes) -> None:
    """A field that is not decoded yet is refused if it is too large to decode, or no JSON."""
    with pytest.raises(RoutingField, match="'top_k'"):
        check_routing({"top_k": msgspec.Raw(data)})


@pytest.mark.parametrize("tier", [None, "auto", "Default", "flex", "on_demand"])
def test_tiers_at_list_price_pass(tier: object) -> None:
    """A tier that costs at most the list price passes."""
    check_tier({"service_tier": tier})


@pytest.mark.parametrize("tier", ["priority", "FAST", "new", 1, ["auto"], {}])
def test_other_tiers_do_not(tier: object) -> None:
    """A tier of another price, or one that is not known, is refused."""
    with pytest.raises(RoutingField):
        check_tier({"service_tier": tier})
