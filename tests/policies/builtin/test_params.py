"""The policy `params`: which fields it changes, and what it leaves to clients and other policies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies import Budget, Call, MaxTokens, Params, Policy, Rejection
from policies.api.requests.request_form import MODELS_REQUEST, PRICED_RELAY_REQUEST, RequestForm
from policies.builtin.params_checks import CEILING_FIELDS, GOVERNED_FIELDS
from policies.testing import ScriptedUpstream, make_call, make_services, serve

pytestmark = pytest.mark.anyio

RESPONSES_REQUEST = RequestForm(
    name="responses", ceiling_field="max_output_tokens", turns_field="max_tool_calls", conversation_field="messages"
)


async def changed(policy: Params, body: dict[str, Any], **more: Any) -> tuple[dict[str, Any], list[str]]:
    """Return the fields of *body* after *policy*, and the notes."""
    call = make_call("hi", body=body, **more)
    await policy.admit(call)
    return {name: value for name, value in call.body.items() if name not in ("model", "messages", "stream")}, call.notes


@pytest.mark.parametrize(
    ("options", "body", "after", "note"),
    [
        ({"default": {"seed": 1}}, {}, {"seed": 1}, "default seed"),
        ({"default": {"seed": 1}}, {"seed": None}, {"seed": 1}, "default seed"),
        ({"default": {"seed": 1}}, {"seed": 0}, {"seed": 0}, ""),
        ({"default": {"stop": ["a"]}}, {"stop": []}, {"stop": []}, ""),
        ({"set": {"seed": 1}}, {}, {"seed": 1}, "set seed"),
        ({"set": {"thinking": {"type": "off"}}}, {"thinking": {"budget": 9}}, {"thinking": {"type": "off"}}, "set thinking"),
        ({"drop": ["seed", "logprobs"]}, {"seed": None, "top_p": 1}, {"top_p": 1}, "dropped seed"),
        ({"drop": ["seed"]}, {}, {}, ""),
        ({"rename": {"typical_p": "top_p"}}, {"typical_p": 0.5}, {"top_p": 0.5}, "renamed typical_p to top_p"),
        ({"rename": {"typical_p": "top_p"}}, {"typical_p": 0.5, "top_p": None}, {"top_p": 0.5}, "renamed typical_p to top_p"),
        ({"rename": {"typical_p": "top_p"}}, {"typical_p": 0.5, "top_p": 1}, {"top_p": 1}, "dropped typical_p"),
        ({"rename": {"x": "stop"}}, {"x": ["a", "b"]}, {"stop": ["a", "b"]}, "renamed x to stop"),
        ({"rename": {"typical_p": "top_p"}, "default": {"top_p": 1}}, {"typical_p": 0.5}, {"top_p": 0.5}, "renamed typical_p to top_p"),
        ({"rename": {"typical_p": "top_p"}, "default": {"top_p": 1}}, {}, {"top_p": 1}, "default top_p"),
        ({"set": {"user": "all"}}, {"user": "me"}, {"user": "all"}, "set user"),
        ({"set": {"max_tool_calls": 5}}, {}, {}, ""),
        ({"default": {"max_tool_calls": 5}}, {"max_tool_calls": None}, {"max_tool_calls": None}, ""),
        ({"set": {"max_tool_calls": 5}}, {"max_tool_calls": 9}, {"max_tool_calls": 5}, "set max_tool_calls"),
        ({"set": {"max_tool_calls": 5}}, {"max_tool_calls": 3}, {"max_tool_calls": 3}, ""),
        ({"set": {"max_tool_calls": 5}}, {"max_tool_calls": "3"}, {"max_tool_calls": 5}, "set max_tool_calls"),
        ({"set": {"max_tool_calls": 5}}, {"max_tool_calls": -1}, {"max_tool_calls": 5}, "set max_tool_calls"),
    ],
)  # fmt: skip
async def test_fields_are_changed(
    options: dict[str, Any], body: dict[str, Any], after: dict[str, Any], note: str
) -> None:
    """Each option changes its fields; the note has the names of what was changed, and no value."""
    found, notes = await changed(Params(name="own", **options), body)
    assert found == after
    assert notes == ([f"own: {note}"] if note else [])


@pytest.mark.parametrize("field", sorted(CEILING_FIELDS))
@pytest.mark.parametrize(
    ("options", "client", "ceiling"),
    [
        ({"set": 50}, None, 50),
        ({"set": 50}, 80, 50),
        ({"set": 50}, 20, 20),
        ({"set": 50}, -1, 50),
        ({"default": 50}, None, 50),
        ({"default": 50}, 80, 80),
        ({"default": 50}, 20, 20),
        ({"default": 50}, 0, 50),
        ({"default": 30, "set": 50}, None, 30),
        ({"default": 30, "set": 50}, 80, 50),
        ({"default": 30, "set": 50}, 40, 40),
    ],
)
async def test_ceiling_of_the_client_is_never_raised(
    field: str, options: dict[str, int], client: int | None, ceiling: int
) -> None:
    """`set` lowers a ceiling, `default` applies where there is none, under each name of ceilings."""
    tables: dict[str, Any] = {option: {field: tokens} for option, tokens in options.items()}
    policy = Params(**tables)
    for name in CEILING_FIELDS:
        call = make_call("hi", body={} if client is None else {name: client})
        await policy.admit(call)
        assert call.max_tokens == ceiling
        assert set(call.body) - {"model", "messages", "stream"} <= {name, "max_tokens"}


@given(
    client=st.none() | st.integers(-1, 200),
    default=st.none() | st.integers(1, 200),
    own=st.none() | st.integers(1, 200),
    output=st.integers(1, 200),
    left=st.integers(70, 400),
    order=st.permutations(range(3)),
)
async def test_other_limits_hold_in_any_order(
    client: int | None, default: int | None, own: int | None, output: int, left: int, order: Sequence[int]
) -> None:
    """No order of policies lets a ceiling exceed the client's, `max_tokens` or the budget; the budget reserves it."""
    if default is None and own is None:
        return
    if default is not None and own is not None:
        default = min(default, own)
    params = Params(
        name="params",
        default={} if default is None else {"max_tokens": default},
        set={} if own is None else {"max_completion_tokens": own},
    )
    chain = [params, MaxTokens(name="max_tokens", output=output), Budget(name="budget", tokens=left, floor=1)]
    call = make_call("hi", body={} if client is None else {"max_tokens": client})
    reserved: list[int] = []
    upstream = ScriptedUpstream(["a"])
    served = await serve([*(chain[at] for at in order), Sees(reserved=reserved)], call, upstream)
    if served.rejection is not None:
        return
    (sent,) = upstream.calls
    ceilings = [sent[name] for name in CEILING_FIELDS if name in sent]
    assert max(ceilings) <= output
    if client is not None and client > 0:
        assert max(ceilings) <= client
    if own is not None:
        assert max(ceilings) <= own
    assert max(ceilings) < reserved[0] <= left


class Sees(Policy, frozen=True, kw_only=True):
    """Keeps what is reserved when the call has been admitted."""

    reserved: list[int]

    async def enter(self, call: Call) -> None:
        (account,) = await call.services.store.accounts()
        self.reserved.append(account.reserved)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
async def test_added_prompt_is_reserved_in_any_order(order: tuple[int, ...]) -> None:
    """A budget reserves the fields that were set, wherever the policy stands: tools are part of the prompt."""
    tools = [{"type": "function", "function": {"name": "look_up", "description": "x" * 3000}}]
    chain = [Params(name="params", set={"tools": tools}), Budget(name="budget", tokens=10_000)]
    reserved: list[int] = []
    await serve([*(chain[at] for at in order), Sees(reserved=reserved)], make_call("hi", body={"max_tokens": 10}))
    assert reserved[0] > 800


async def test_settings_stay_when_the_body_changes() -> None:
    """A later policy may change what was set: the next call gets the configured value again."""
    policy = Params(set={"tools": [{"type": "function"}], "metadata": {"a": {"b": 1}}})
    first, second = make_call("hi"), make_call("hi")
    await policy.admit(first)
    first.body["tools"][0]["type"] = first.body["metadata"]["a"]["b"] = "changed"
    await policy.admit(second)
    assert second.body["tools"] == [{"type": "function"}]
    assert second.body["metadata"] == {"a": {"b": 1}}


@pytest.mark.parametrize("value", [{"a": 1}, [{"a": 1}], [[1]], msgspec.Raw(b'{"a":1}')])
async def test_object_cannot_be_renamed(value: Any) -> None:
    """A client's object is refused with 400 under a renamed name: its meaning was checked under the old one alone."""
    with pytest.raises(Rejection) as refused:
        await changed(Params(rename={"x": "stop"}), {"x": value})
    assert (refused.value.status, refused.value.code) == (400, "invalid_request")
    assert (
        refused.value.message == "'x' must be a number, a string, true, false, or a list of them: it is sent as 'stop'."
    )


@pytest.mark.parametrize("policy", [Params(default={"max_tool_calls": 5}), Params(set={"max_tool_calls": 5})])
async def test_tool_calls_are_bounded_where_the_api_has_them(policy: Params) -> None:
    """`max_tool_calls` is added to calls of an API that knows it; the reservation counts it."""
    call = make_call("hi", operation=RESPONSES_REQUEST)
    await policy.admit(call)
    assert (call.body["max_tool_calls"], call.prompt_turns, len(call.notes)) == (5, 6, 1)


async def test_relayed_calls_stay() -> None:
    """The body of a relayed route is sent as it came, so no field changes, no user is replaced and no note says so."""
    call = make_call("hi", body={"user": "ann"}, operation=PRICED_RELAY_REQUEST, tokens_each=5)
    before = dict(call.body)
    await Params(set={"user": "all", "seed": 1}, drop=["model_name"], default={"max_tokens": 5}).admit(call)
    assert (call.body, call.notes) == (before, [])


async def test_calls_without_a_model_stay() -> None:
    """A list of models gets no field."""
    call = Call(id="1", path="/v1/models", body={}, services=make_services(), operation=MODELS_REQUEST)
    await Params(set={"seed": 1}).admit(call)
    assert (call.body, call.notes) == ({}, [])


async def test_many_changes_are_noted_in_full() -> None:
    """All names are in the record, in several notes where one cannot hold them."""
    names = [f"field_{at:02}" for at in range(64)]
    _, notes = await changed(Params(name="params", set=dict.fromkeys(names, 1)), {})
    assert all(len(note) <= 200 and note.startswith("params: set ") for note in notes)
    assert ", ".join(note.removeprefix("params: ") for note in notes) == ", ".join(f"set {name}" for name in names)


@pytest.mark.parametrize("field", sorted(GOVERNED_FIELDS))
@pytest.mark.parametrize("spelling", [str, str.upper])
def test_governed_field_is_refused_in_every_option(field: str, spelling: Any) -> None:
    """Fields that limits, allow-lists and prices read cannot be changed by any option, in any case."""
    name = spelling(field)
    for options in (
        {"default": {name: 1}},
        {"set": {name: 1}},
        {"drop": [name]},
        {"rename": {name: "seed"}},
        {"rename": {"seed": name}},
    ):
        with pytest.raises(ValueError, match="cannot be changed, because limits depend on it|must be spelt"):
            Params(**options)
