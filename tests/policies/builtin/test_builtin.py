"""The built-in policies, one rule at a time."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies import Budget, Call, Caps, Failure, Match, MaxTokens, Policy, Rejection, Retry, RetryClassifier, Trim
from policies.api.claim import Claim, identity
from policies.api.prompt_size import size_of
from policies.api.tokens import Estimator, Size, streamed_tokens
from policies.builtin.trim import trimmed
from policies.testing import make_call, make_services

pytestmark = pytest.mark.anyio


def said(*roles: str) -> list[dict[str, Any]]:
    return [{"role": role, "content": str(at)} for at, role in enumerate(roles)]


def numbers(messages: list[dict[str, Any]]) -> str:
    return "".join(message["content"] for message in messages)


@pytest.mark.parametrize(
    ("roles", "keep", "kept"),
    [
        ("uauau", 3, "234"),
        ("uauau", 9, "01234"),
        ("suauau", 2, "045"),
        ("sduau", 1, "014"),
        ("uatttu", 3, "5"),
        ("uatttu", 5, "12345"),
        ("uattt", 2, "01234"),
        ("uaaaa", 2, "01234"),
        ("aaaa", 2, "23"),
        ("tttt", 2, ""),
        ("uausu", 2, "234"),
    ],
)
def test_trim(roles: str, keep: int, kept: str) -> None:
    """Trimming keeps instructions and the last user message, and never a tool's result without its call."""
    names = {"u": "user", "a": "assistant", "s": "system", "d": "developer", "t": "tool"}
    assert numbers(trimmed(said(*(names[x] for x in roles)), keep)) == kept


@given(roles=st.lists(st.sampled_from(["user", "assistant", "system", "tool"]), max_size=12), keep=st.integers(1, 6))
def test_trim_keeps_order(roles: list[str], keep: int) -> None:
    """What is kept is a tail of the talk, with all instructions before it."""
    messages = said(*roles)
    kept = trimmed(messages, keep)
    talk = [x for x in messages if x["role"] != "system"]
    rest = [x for x in kept if x["role"] != "system"]

    assert [x for x in kept if x["role"] == "system"] == [x for x in messages if x["role"] == "system"]
    assert rest == talk[len(talk) - len(rest) :]
    assert not rest or rest[0]["role"] != "tool"


async def test_trim_admits() -> None:
    """A conversation within the limit is not touched."""
    call = make_call(messages=said("user", "assistant"))
    before = call.messages
    await Trim(max_messages=2).admit(call)

    assert call.messages is before


@pytest.mark.parametrize(
    ("body", "after", "imposed"),
    [
        ({}, {"max_tokens": 50}, True),
        ({"max_tokens": None}, {"max_tokens": 50}, True),
        ({"max_tokens": 20}, {"max_tokens": 20}, False),
        ({"max_tokens": 80}, {"max_tokens": 50}, False),
        ({"max_completion_tokens": 80}, {"max_completion_tokens": 50}, False),
        ({"max_tokens": 80, "max_completion_tokens": 99}, {"max_tokens": 50, "max_completion_tokens": 50}, False),
        ({"max_tokens": 30, "max_completion_tokens": 99}, {"max_tokens": 30, "max_completion_tokens": 99}, False),
    ],
)
async def test_max_tokens(body: dict[str, Any], after: dict[str, Any], *, imposed: bool) -> None:
    """An answer's ceiling is clamped in the field that the client uses; the lower of two is the one that counts."""
    call = make_call("hi", body=body)
    await MaxTokens(output=50).admit(call)

    assert {key: value for key, value in call.body.items() if key.startswith("max_")} == after
    assert call.ceiling_is_ours is imposed


@pytest.mark.parametrize(("characters", "n", "cap", "fits"), [(200, 1, None, True), (201, 1, None, False), (0, 2, None, True), (4, 2, None, False), (4, 1, 51, True), (5, 1, 51, False)])  # fmt: skip
async def test_request(characters: int, n: int, cap: int | None, *, fits: bool) -> None:
    """Characters / 4, rounded up, and n answers must fit into `request`, or the lower limit that the client names."""
    call = make_call("x" * characters, body={"n": n}, caps=Caps(request_tokens=cap))
    policy = MaxTokens(output=50, request=100, name="m")
    if fits:
        await policy.admit(call)
    else:
        with pytest.raises(Rejection) as refused:
            await policy.admit(call)
        assert (refused.value.code, refused.value.details["limit"]) == ("request_too_large", cap or 100)


async def claims(policy: Policy, call: Call) -> Sequence[Claim]:
    lease = await policy.admit(call)
    assert lease is not None
    return lease.claims()


@pytest.mark.parametrize(
    ("fields", "own", "limit", "window"),
    [({}, None, 1000, "day"), ({}, 10, 10, "day"), ({}, 5000, 1000, "day"), ({"window": "month"}, 10, 1000, "month")],
)
async def test_budget_claim(fields: dict[str, Any], own: int | None, limit: int, window: str) -> None:
    """A budget claims prompt and n answers; the client's own daily limit lowers a daily one."""
    call = make_call("hello", body={"n": 3, "max_tokens": 7}, caps=Caps(day_tokens=own))
    (claim,) = await claims(Budget(name="b", tokens=1000, **fields), call)

    assert (claim.base, claim.per_token, claim.limit, claim.floor) == (2 + 4, 3, limit, 64)
    assert claim.window.key == f"{window}@UTC"


async def test_bound() -> None:
    """With `bound` the prompt counts as its bytes and 8 a message, which no tokenizer exceeds."""
    (claim,) = await claims(Budget(name="b", tokens=1000, reserve="bound"), make_call("h\u00e9llo", "you"))

    assert claim.base == 6 + 8 + 3 + 8


async def test_files_in_the_bound() -> None:
    """With `bound` a file counts as its bytes, which may all be text; in the estimate, and for a sound, as a hundredth."""
    found = {}
    for kind in ("file", "input_file", "input_audio"):
        part = {"type": kind, kind: {"file_data": "data:text/plain;base64," + "x" * 800_000}}
        call = make_call(messages=[{"role": "user", "content": [part]}])
        for reserve in ("bound", "estimate"):
            (claim,) = await claims(Budget(name="b", tokens=1000, reserve=reserve), call)
            found[kind, reserve] = claim.base

    assert min(found["file", "bound"], found["input_file", "bound"]) > 800_000
    assert max(found.pop(("file", "bound")), found.pop(("input_file", "bound"))) < 802_000
    assert max(found.values()) < 10_000


@pytest.mark.parametrize(
    ("body", "names", "covered"),
    [
        ({"model": "gpt-4o"}, ["theirs"], True),
        ({"model": "cheap"}, ["cheap"], False),
        ({"model": "cheap"}, ["cheap", "gpt-4o"], True),
        ({"model": "cheap", "models": ["other", "gpt-4o"]}, ["cheap", "a", "b"], True),
        ({"model": ""}, ["cheap"], False),
        ({"model": ""}, ["cheap", ""], True),
    ],
)
def test_only_model(body: dict[str, Any], names: list[str], covered: bool) -> None:  # noqa: FBT001  # a column of the table
    """A call is of each model that may serve it, by the client's names and the upstreams'; one not known yet is of all."""
    services = make_services()
    services.names_of = lambda *_, **__: names
    call = make_call("hi", services=services, body=body)

    assert Match(model="gpt-4*").covers(call) is covered
    assert Match(model=["x", "gpt-4*"]).covers(call) is covered


def test_only_model_of_a_list() -> None:
    """A policy of some models is not for the list of models: no model serves it."""
    assert not Match(model="gpt-4*").covers(make_call(operation="models", body={"model": None}))


def test_unknown_zone() -> None:
    """A time zone that does not exist is refused with the cure."""
    with pytest.raises(ValueError, match="'Mars/Base' is no IANA time zone; write one like"):
        Budget(tokens=1, timezone="Mars/Base")


@pytest.mark.parametrize(
    ("message", "size"),
    [
        ({"role": "user", "content": "abc"}, Size(3, 1)),
        ({"role": "user", "content": "\U0001f98a"}, Size(4, 1)),
        ({"role": "user", "content": [{"type": "text", "text": "ab"}] * 50}, Size(100, 1, parts=49)),
        (
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:" + "x" * 999}}]},
            Size(0, 1, media=1),
        ),
        ({"role": "assistant", "content": None, "tool_calls": [{"id": "x"}]}, Size(27, 1)),
    ],
)
def test_size(message: dict[str, Any], size: Size) -> None:
    """All that a model reads counts: text in UTF-8, each part, tool calls; an image by its number."""
    assert size_of(make_call(messages=[message])) == size


def test_unread_fields() -> None:
    """A field that no model reads counts nothing up to 256 bytes, and in full above that."""
    usual = {"user": "u" * 254, "stop": ["a"], "reasoning_effort": "low", "stream_options": {"include_usage": True}}
    assert size_of(make_call("hi", body=usual)).bytes == 2
    assert size_of(make_call("hi", body={"user": "u" * 255})).bytes == 2 + 257
    assert size_of(make_call(messages=[{"role": "user", "content": "hi", "id": "i" * 254}])).bytes == 2


def test_tools_count() -> None:
    """Tool definitions and response formats are part of the prompt."""
    tools = [{"type": "function", "function": {"name": "f", "description": "x" * 1000}}]
    call = make_call("hi", body={"tools": tools, "response_format": {"type": "json_object"}})

    assert size_of(call).bytes > 1000


@pytest.mark.parametrize(
    ("text", "tokens"),
    [("a", 1), (" internation", 1), ("x" * 13, 4), ("x" * 40, 10), ("\U0001f642" * 12, 12), ("\U0001f642", 1)],
)
def test_streamed(text: str, tokens: int) -> None:
    """A piece is a token, unless it is too long for one."""
    assert streamed_tokens(text) == tokens


def test_estimator_learns() -> None:
    """The estimate follows what upstream reports, per model, slowly, within bounds, and not from tiny prompts."""
    estimator, size = Estimator(), Size(3500, 1)
    assert estimator.estimate("m", size) == 1004
    for _ in range(100):
        estimator.learn("m", size, 2004)
    assert 1900 < estimator.estimate("m", size) <= 2004
    assert estimator.estimate("other", size) == 1004
    for _ in range(100):
        estimator.learn("wild", size, 10**9)
    assert estimator.estimate("wild", size) <= 3504
    estimator.learn("tiny", Size(10, 1), 500)
    assert estimator.estimate("tiny", size) == 1004
    for at in range(1000):
        estimator.learn(f"m{at}", size, 2004)
    assert len(estimator._ratio) == Estimator.MODELS


def test_identities() -> None:
    """A limit counts by whom it is told to; a user is one of its tenant's."""
    call = make_call("hi", tenant="acme", ip="10.0.0.1", body={"user": "ann"})

    alone = [identity(call, by) for by in ("tenant", "ip", "model", "global")]
    assert alone == [("acme", None), ("10.0.0.1", ""), ("test-model", ""), ("", None)]
    assert identity(call, "user") == ("acme\x1eann", "acme")
    assert identity(call, ["tenant", "model"]) == ("acme\x1etest-model", "acme")
    assert identity(call, ["tenant", "global"]) == ("acme\x1e", None)
    odd = [
        identity(make_call("hi", body={"user": name}), "user").name
        for name in ("a\x1fb", "a\x1eb", "x" * 10**6, "a\x1fb")
    ]
    assert len(set(odd)) == 3
    assert all(len(name) < 100 and name.count("\x1e") == 1 and "\x1f" not in name for name in odd)


def failed(kind: str, attempt: int = 1, **more: Any) -> Failure:
    return Failure(kind=kind, attempt=attempt, **more)


@pytest.mark.parametrize(
    ("failure", "again"),
    [
        *[(failed(kind), True) for kind in ("connect", "timeout", "rate", "overloaded", "server", "empty")],
        *[(failed(kind), False) for kind in ("quota", "context", "auth", "request", "interrupted")],
        (failed("server", 2), True),
        (failed("server", 3), False),
        (failed("empty", 2), False),
        (failed("server", should_retry=False), False),
        (failed("request", should_retry=True), True),
        (failed("quota", should_retry=True), True),
        *[(failed(kind, should_retry=True, kind_is_certain=True), False) for kind in ("quota", "auth", "request")],
        (failed("overloaded", should_retry=True, kind_is_certain=True), True),
        (failed("context", should_retry=True), False),
        (failed("server", 4, upstream="b", tried=("a", "a", "b", "b")), True),
        (failed("server", 4, upstream="b", tried=("a", "b", "b", "b")), False),
        (failed("empty", 2, upstream="b", tried=("a", "b")), True),
        (failed("rate", retry_after=20.0), True),
        (failed("rate", retry_after=20.1), False),
        (failed("quota", retry_after=1.0), False),
    ],
)
def test_retry(failure: Failure, again: bool) -> None:  # noqa: FBT001  # a column of the table
    """Attempts are made for the classes that another one can cure, as often as it says, and no longer than it may wait."""
    verdict = RetryClassifier(name="r").retry(make_call("hi"), failure)

    assert isinstance(verdict, Retry) is again


def test_waits() -> None:
    """Upstream's wait is obeyed, and a little more; without one it is full jitter under a doubling, capped bound."""
    policy, call = RetryClassifier(attempts=10, base=0.5, cap=8.0), make_call("hi")
    decisions = [policy.retry(call, failed("rate", retry_after=7.5)) for _ in range(200)]
    asked = [decision.after for decision in decisions if isinstance(decision, Retry)]
    assert len(asked) == 200
    assert 7.5 <= min(asked) < 7.55
    assert 7.8 < max(asked) <= 7.5 * 1.05
    for attempt, bound in [(1, 0.5), (2, 1.0), (3, 2.0), (5, 8.0), (9, 8.0)]:
        decisions = [policy.retry(call, failed("server", attempt)) for _ in range(200)]
        waits = [decision.after for decision in decisions if isinstance(decision, Retry)]
        assert len(waits) == 200
        assert 0 <= min(waits) < bound * 0.2
        assert bound * 0.8 < max(waits) <= bound


def test_call_accessors() -> None:
    """A call reads its body tolerantly, and what nobody knows stays in it."""
    call = make_call("hi", body={"n": None, "max_tokens": None, "odd": {"x": [1]}, "user": None})
    assert (call.choices_generated, call.max_tokens, call.user, call.text) == (1, None, "", "hi")
    call.model = "other"
    assert json.loads(json.dumps(call.body))["odd"] == {"x": [1]}
    assert isinstance(call, Call)
    assert call.model == "other"
