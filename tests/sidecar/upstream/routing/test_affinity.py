"""Conversation affinity: what of a call is hashed, and how rendezvous hashing spreads conversations."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.testing import make_call
from sidecar.upstream.routing.affinity import MAX_HASHED_CHARACTERS, MAX_PROMPT_CHARACTERS, conversation_of, preferred

NAMES = st.lists(st.text(min_size=1, max_size=8), min_size=2, max_size=6, unique=True)


def head(tenant: str = "a", **body: Any) -> bytes | None:
    call = make_call("", tenant=tenant)
    call.body = body
    return conversation_of(call)


def said(*texts: str) -> list[dict[str, Any]]:
    return [
        {"role": role, "content": text}
        for role, text in zip(["system", *["user", "assistant"] * 9], texts, strict=False)
    ]


def test_later_turns_have_the_same_head() -> None:
    """The head is the tenant, the instructions and the first message of the user: later turns do not change it."""
    first = head(messages=said("be brief", "hello"))
    assert first == head(messages=said("be brief", "hello", "hi", "more"))
    others = [
        head(tenant="b", messages=said("be brief", "hello")),
        head(messages=said("be long", "hello")),
        head(messages=said("be brief", "bye")),
        head(messages=said("be brief", "hello"), system="other"),
    ]
    assert len({first, *others}) == 5


def test_cache_marks_do_not_change_the_head() -> None:
    """Fields of parts that clients move from turn to turn, such as `cache_control`, are not hashed."""
    part = {"type": "text", "text": "hello"}
    marked = {**part, "cache_control": {"type": "ephemeral"}}
    assert head(messages=[{"role": "user", "content": [part]}]) == head(
        messages=[{"role": "user", "content": [marked]}]
    )


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"prompt": "a"}, {"prompt": "b"}),
        ({"prompt": ["a", "b"]}, {"prompt": ["b", "a"]}),
        ({"prompt": [1, 2, 3]}, {"prompt": [1, 2, 4]}),
        ({"prompt": [[1, 2], [3]]}, {"prompt": [[1, 3], [3]]}),
        ({"input": [{"role": "user", "content": "x"}]}, {"input": [{"role": "user", "content": "y"}]}),
        ({"instructions": "i", "input": "x"}, {"instructions": "j", "input": "x"}),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
         {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "y"}}]}]}),
    ],
)  # fmt: skip
def test_prompts_of_other_apis_have_heads(one: dict[str, Any], other: dict[str, Any]) -> None:
    """Prompts, token ids, inputs, instructions and images distinguish conversations."""
    assert None is not head(**one) != head(**other) is not None


@pytest.mark.parametrize(
    "body", [{}, {"messages": []}, {"messages": [None, 3]}, {"prompt": None}, {"prompt": [[[[[["x"]]]]]]}]
)
def test_call_without_a_prompt_has_none(body: dict[str, Any]) -> None:
    """Without a text that can be read, there is no conversation."""
    assert head(**body) is None


def test_bounded_part_of_a_prompt_is_hashed() -> None:
    """Only the first characters and the length of a text count, so that a large prompt costs no more than a small one."""
    same = "x" * MAX_HASHED_CHARACTERS
    assert head(messages=said(same + "a")) == head(messages=said(same + "b"))
    assert head(messages=said(same + "a")) != head(messages=said(same + "aa"))


@pytest.mark.parametrize("turn", ["word ", [7, 8]])
def test_growing_prompt_keeps_its_head(turn: str | list[int]) -> None:
    """Each turn makes the prompt of a completion longer: the first 512 characters, or 128 tokens, are its head."""
    heads = {head(prompt=turn * turns) for turns in range(MAX_PROMPT_CHARACTERS, MAX_PROMPT_CHARACTERS + 20)}
    assert len(heads) == 1
    assert None not in heads
    assert head(prompt=["a" + "b" * 600]) == head(prompt=["a" + "b" * 700]) != head(prompt=["b" * 700])


@pytest.mark.parametrize("is_list", [True, False])
def test_changing_header_line_is_not_hashed(*, is_list: bool) -> None:
    """Claude Code writes a line that differs in each call in front of its instructions; it belongs to no head."""

    def asked(line: str, rest: str) -> bytes | None:
        system = [{"type": "text", "text": text} for text in (line, rest)] if is_list else f"{line}\n{rest}"
        return head(system=system, messages=[{"role": "user", "content": "hello"}])

    lines = [f"x-anthropic-billing-header: cc_version=2.1.{at}; cc_entrypoint=cli; cch={at:x};" for at in range(20)]
    assert len({asked(line, "You write code.") for line in lines}) == 1
    assert asked(lines[0], "You write code.") != asked(lines[0], "You write prose.")
    assert asked("x-men: are", "x" * 3_000) != asked("x-men", "x" * 3_000)


@given(NAMES, st.binary(min_size=1, max_size=16), st.data())
def test_only_conversations_of_a_missing_upstream_move(
    names: list[str], conversation: bytes, data: st.DataObject
) -> None:
    """Without one upstream, a conversation of another one stays there; the order of the upstreams does not matter."""
    weights = data.draw(st.lists(st.floats(0.1, 10), min_size=len(names), max_size=len(names)))
    chosen = names[preferred(conversation, names, weights)]
    pairs = data.draw(st.permutations(list(zip(names, weights, strict=True))))
    again = [name for name, _ in pairs][
        preferred(conversation, [name for name, _ in pairs], [weight for _, weight in pairs])
    ]
    gone = data.draw(st.sampled_from(names))
    left = [pair for pair in pairs if pair[0] != gone]
    after = left[preferred(conversation, [name for name, _ in left], [weight for _, weight in left])][0]

    assert again == chosen
    assert chosen in (after, gone)


@pytest.mark.parametrize("weights", [(1.0, 1.0), (3.0, 1.0), (1.0, 2.0, 5.0)])
def test_conversations_are_spread_by_weight(weights: tuple[float, ...]) -> None:
    """Of 20,000 conversations each upstream gets its share, within 5 %."""
    names = [f"upstream-{at}" for at in range(len(weights))]
    counts = [0] * len(names)
    for at in range(20_000):
        counts[preferred(at.to_bytes(16, "big"), names, weights)] += 1
    for count, weight in zip(counts, weights, strict=True):
        assert count == pytest.approx(20_000 * weight / sum(weights), rel=0.05)
