"""The output tokens of a piece of a stream."""

from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from policies.api.event import Batch
from sidecar.wire.answer_reader import AnswerReader
from sidecar.wire.chunk import Choice, Delta
from sidecar.wire.output_tokens import is_short_text, tokens_of
from sidecar.wire.sse_reader import Frame

TEXTS = st.none() | st.sampled_from(["", "a", "a longer piece of text", "ä", " tok12"])
RAWS = st.none() | st.just(msgspec.Raw(b'[{"function":{"arguments":"{}"}}]'))
DELTAS = st.builds(Delta, content=TEXTS) | st.builds(
    Delta,
    content=TEXTS,
    reasoning=TEXTS,
    reasoning_content=TEXTS,
    refusal=TEXTS,
    tool_calls=RAWS,
    function_call=RAWS,
    audio=RAWS,
)
"""Pieces of text alone, as nearly all are, and pieces with anything else."""


def shown(batches: list[Batch | None]) -> tuple[bytes, list[tuple[object, ...]]]:
    """Return the bytes and the events of all *batches*."""
    found = [batch for batch in batches if batch is not None]
    events = [event for batch in found for event in batch.events]
    fields: list[tuple[object, ...]] = [
        (each.raw, each.text, each.reasoning, each.tool, each.finish, each.index) for each in events
    ]
    return b"".join(batch.raw for batch in found), fields


@given(DELTAS)
def test_short_text_is_one_token(delta: Delta) -> None:
    """A piece that counts as short text is one token, and has no other output."""
    if is_short_text(delta):
        assert tokens_of(Choice(delta=delta)) == 1
        assert not any((delta.reasoning, delta.reasoning_content, delta.refusal, delta.has_tool))


@given(
    st.lists(DELTAS, max_size=8),
    st.integers(0, 8),
    st.sampled_from([None, "", "stop", "length", "error"]),
    st.integers(0, 8),
    st.integers(0, 12),
)
def test_pieces_count_alike_in_one_read_and_in_several(
    deltas: list[Delta], at: int, finish: str | None, reported_at: int, reported: int
) -> None:
    """Reading pieces one by one, or all at once, gives the same counts, bytes, events and usage."""
    choices = [
        Choice(delta=delta, finish_reason=finish if number == at else None) for number, delta in enumerate(deltas)
    ]
    usage = {"prompt_tokens": 3, "completion_tokens": reported, "total_tokens": 3 + reported}
    payloads = [
        msgspec.json.encode({"choices": [choice], "usage": usage if number == reported_at else None})
        for number, choice in enumerate(choices)
    ]
    frames = [*(Frame(b"data: " + each + b"\n\n", each) for each in payloads), Frame(b"data: [DONE]\n\n", b"[DONE]")]
    whole, single = AnswerReader(), AnswerReader()
    together = [whole.take(frames)]
    apart = []
    for frame in frames:
        apart.append(single.take([frame]))
        if single.done or single.failure is not None:
            break
    assert shown(apart) == shown(together)
    for name in ("outputs", "finishes", "has_output", "done", "says_why", "all_finished", "failure", "usage"):
        assert getattr(whole, name) == getattr(single, name), name
