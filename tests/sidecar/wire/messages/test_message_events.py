"""Whatever policies make of a message, its stream stays well-formed, and its whole answer a message."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from message_events import message_of, read_events
from samples import messages
from samples.sample import named_event

from policies import Event, Lease, Stop
from policies.engine.event_filters import EventFilters
from policies.testing import piece
from sidecar.wire.messages.message_events import MAX_WAITING_CHARACTERS
from sidecar.wire.messages.message_reader import MessageReader
from sidecar.wire.sse_reader import SSEReader

STREAMS = [messages.STREAMS[name] for name in ("text", "thinking", "tool use", "max_tokens", "refusal")]
MIXED = (
    messages.START,
    *messages.text_events("one ", "two "),
    *messages.tool_events(*messages.INPUT_PIECES, at=1),
    *messages.text_events("three", at=2),
    *messages.ending("tool_use"),
)


class ActingLease(Lease):
    """Calls *act* with each event, and flushes what it has put into `held`."""

    def __init__(self, act: Callable[[ActingLease, Event], Event | None]) -> None:
        self.act, self.held = act, ""

    def on_event(self, event: Event) -> Event | None:
        return self.act(self, event)

    def flush(self) -> Sequence[Event]:
        return [piece(self.held)] if self.held else []


def filtered(
    events: Sequence[dict[str, Any]], act: Callable[[ActingLease, Event], Event | None], size: int = 10_000
) -> dict[str, Any]:
    """Return the message that a client builds of a stream of *events* that a policy has changed; reads have *size* bytes."""
    body = b"".join(map(named_event, events))
    reading, source = MessageReader(), SSEReader()
    filters = EventFilters.of([ActingLease(act)], 1)
    assert filters is not None
    shown = b""
    for at in range(0, len(body), size):
        if (batch := reading.take(source.feed(body[at : at + size]))) is None:
            continue
        batch.last = reading.done
        changed = filters.apply(batch)
        shown += changed.raw
        if changed.last:
            return message_of(read_events(shown))
    held = reading.held()
    held.last = True
    return message_of(read_events(shown + filters.apply(held).raw))


def texts(message: dict[str, Any]) -> str:
    return "".join(block.get("text", "") for block in message["content"])


@pytest.mark.parametrize("size", [40, 10_000])
@pytest.mark.parametrize("events", [*STREAMS, MIXED])
def test_policy_that_only_reads_changes_nothing(events: tuple[dict[str, Any], ...], size: int) -> None:
    """The client of a policy that returns each event gets the same message."""
    assert filtered(events, lambda _, event: event, size) == message_of(
        [each for each in events if each != messages.PING]
    )


def test_changed_text_stays_in_its_block() -> None:
    """`with_text` changes the text of a delta, in its place."""
    message = filtered(MIXED, lambda _, event: event.with_text(event.text.upper()) if event.text else event)
    assert [block.get("text") for block in message["content"]] == ["ONE TWO ", None, "THREE"]


@pytest.mark.parametrize("size", [60, 10_000])
def test_text_that_is_held_back_is_not_lost(size: int) -> None:
    """Text that a policy flushes behind the blocks gets a block of its own, before the reason."""

    def act(lease: ActingLease, event: Event) -> Event | None:
        lease.held += event.text
        return None if event.text else event

    message = filtered(MIXED, act, size)
    assert texts(message) == "one two three"
    assert [block["type"] for block in message["content"]] == ["text", "tool_use", "text", "text"]
    assert message["stop_reason"] == "tool_use"


def test_events_that_come_late_get_a_block_of_their_own() -> None:
    """A policy that returns each event one event late gives a well-formed stream with all of the text."""
    waiting: list[Event] = []

    def act(lease: ActingLease, event: Event) -> Event | None:
        if event.finish is not None:
            return event.with_text("".join(each.text for each in waiting))
        waiting.append(event)
        return waiting.pop(0) if len(waiting) > 1 else None

    assert texts(filtered(MIXED, act)) == "one two three"


def test_text_that_waits_for_a_block_is_bounded() -> None:
    """Text for another block than the open one is shown at the latest when much of it waits; the stream stays well-formed."""
    text = "word " * 1_000
    events = [
        messages.START,
        messages.block_start(messages.TOOL_USE | {"input": {}}),
        *[messages.block_delta("text_delta", "text", text, at=1)] * 40,
    ]
    body = b"".join(map(named_event, events))
    filters = EventFilters.of([ActingLease(lambda _, event: event)], 1)
    assert filters is not None
    reading, source, shown = MessageReader(), SSEReader(), b""
    for at in range(0, len(body), 5_000):
        if (batch := reading.take(source.feed(body[at : at + 5_000]))) is not None:
            shown += filters.apply(batch).raw
    assert len(shown) >= len(text) * 40 - MAX_WAITING_CHARACTERS
    assert texts(filtered([*events, messages.block_stop(), *messages.ending("tool_use")], lambda _, event: event)) == (
        text * 40
    )


def test_dropped_call_leaves_no_gap() -> None:
    """Without the events of one block, the blocks behind it are renumbered."""
    message = filtered(MIXED, lambda _, event: None if event.tool else event)
    assert [block["type"] for block in message["content"]] == ["text", "text"]
    assert texts(message) == "one two three"


@pytest.mark.parametrize(
    ("finish", "reason"), [("content_filter", "refusal"), ("length", "max_tokens"), ("end_turn", "end_turn")]
)
@pytest.mark.parametrize("at", range(7))
def test_stop_ends_the_message(at: int, finish: str, reason: str) -> None:
    """`Stop` in any block ends the message, with Anthropic's name of the finish, and what was held back before it."""
    seen = 0

    def act(lease: ActingLease, event: Event) -> Event | None:
        nonlocal seen
        seen += 1
        if seen > at:
            lease.held = " [ended]"
            raise Stop(finish)
        return event

    message = filtered(MIXED, act)
    assert message["stop_reason"] == reason
    assert texts(message).endswith(" [ended]")
    assert message["usage"]["output_tokens"] >= 0


def test_changed_arguments_and_thinking() -> None:
    """`with_payload` changes arguments of calls and thinking."""

    def act(_: ActingLease, event: Event) -> Event | None:
        if event.tool and event.data["type"] == "content_block_delta":
            data = event.data
            data["delta"]["partial_json"] = data["delta"]["partial_json"].replace("Oslo", "Rome")
            return event.with_payload(data)
        return event

    assert filtered(MIXED, act)["content"][1]["partial_json"] == '{"city": "Rome"}'


ACTIONS = st.sampled_from(["keep", "drop", "change", "hold", "release", "stop", "create", "text"])


@given(events=st.sampled_from([*STREAMS, MIXED]), actions=st.lists(ACTIONS, max_size=12), size=st.integers(20, 600))
def test_any_policy_gives_a_well_formed_stream(
    events: tuple[dict[str, Any], ...], actions: list[str], size: int
) -> None:
    """Whatever a policy does with the events, a strict client reads the stream to its end."""
    left = list(actions)
    waiting: list[Event] = []

    def act(lease: ActingLease, event: Event) -> Event | None:
        action = left.pop(0) if left else "keep"
        if action == "stop":
            raise Stop
        if action == "hold":
            waiting.append(event)
            lease.held += event.text
            return None
        if action == "release" and waiting:
            return waiting.pop()
        made = {"drop": None, "change": event.with_text("changed"), "create": piece("made"), "text": Event(text="made")}
        return made.get(action, event)

    filtered(events, act, size)


def whole(act: Callable[[ActingLease, Event], Event | None], answer: dict[str, Any]) -> Any:
    raw = json.dumps(answer).encode()
    batch = MessageReader().take_whole(raw, as_stream=False)
    filters = EventFilters.of([ActingLease(act)], 1)
    assert batch is not None
    assert filters is not None
    shown = filters.apply(batch).raw
    return raw == shown, json.loads(shown)


ANSWER = messages.message("tool_use", messages.THINKING, messages.TEXT, messages.TOOL_USE, new_field=[1])


def test_whole_answer_that_is_left_alone_keeps_its_bytes() -> None:
    """A policy that only reads leaves the bytes of a whole answer."""
    assert whole(lambda _, event: event, ANSWER) == (True, ANSWER)


def test_whole_answer_is_rebuilt() -> None:
    """Changed text, dropped calls and added text; everything else stays as upstream sent it."""
    _, shown = whole(lambda _, event: event.with_text("Bye.") if event.text else event, ANSWER)
    assert shown == ANSWER | {"content": [messages.THINKING, messages.TEXT | {"text": "Bye."}, messages.TOOL_USE]}
    _, shown = whole(lambda _, event: None if event.tool else event, ANSWER)
    assert shown == ANSWER | {"content": [messages.THINKING, messages.TEXT]}

    def act(lease: ActingLease, event: Event) -> Event | None:
        lease.held += event.text
        return None if event.text else event

    _, shown = whole(act, ANSWER)
    assert [block.get("text") for block in shown["content"] if block["type"] == "text"] == ["Hello, Zo\u00eb."]


def test_whole_answer_is_stopped() -> None:
    """`Stop` drops the block and all that follow, and sets the reason."""

    def act(_: ActingLease, event: Event) -> Event | None:
        if event.text:
            raise Stop
        return event

    _, shown = whole(act, ANSWER)
    assert (shown["content"], shown["stop_reason"]) == ([messages.THINKING], "refusal")


def test_whole_call_is_changed() -> None:
    """`with_payload` of a whole answer changes one block."""

    def act(_: ActingLease, event: Event) -> Event | None:
        return event.with_payload(event.data | {"input": {"city": "Rome"}}) if event.tool else event

    _, shown = whole(act, ANSWER)
    assert shown["content"][2]["input"] == {"city": "Rome"}
