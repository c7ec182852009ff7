"""Policies that change answers of the Responses API: what repeats a text has the changed one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st
from samples.recorded_answers import LLAMA_CPP
from samples.response_object import FUNCTION_CALL, MESSAGE, REASONING, response
from samples.responses import (
    STREAMS,
    ended,
    function_events,
    message_events,
    numbered,
    opened,
    reasoning_events,
    text_part,
)
from samples.sample import named_event
from serving import settings_of, sidecar, with_policies
from wire import HEAD, Connection, Script, upstream

from policies import Call, Event, Lease, Policy, Stop
from policies.engine.event_filters import EventFilters
from sidecar.wire.responses.events.outline import MAX_KEPT_PARTS
from sidecar.wire.responses.reader import ResponsesReader
from sidecar.wire.sse_reader import SSEReader

pytestmark = pytest.mark.anyio

PATH = "/v1/responses"
CALL: dict[str, Any] = {"model": "m", "input": "hi", "stream": True}
SECRET, SHOWN = "hunter2", "…"
BUDGET = '[[policy]]\nuse = "budget"\ntokens = 100_000\n'


class Redacting(Lease):
    """Holds back the last characters, so that a secret that is split over events is found, as `docs/policies.md` shows."""

    def __init__(self) -> None:
        self.held = ""
        self.flushed = 0

    def on_event(self, event: Event) -> Event | None:
        text = (self.held + event.text).replace(SECRET, SHOWN)
        keep = min(len(SECRET) - 1, len(text))
        self.held = text[len(text) - keep :]
        return event.with_text(text[: len(text) - keep])

    def flush(self) -> Sequence[Event]:
        held, self.held = self.held, ""
        self.flushed += 1
        return [Event(text=held)] if held else []


class Holding(Lease):
    """Drops each text, and hands all of it out at the end of the part."""

    def __init__(self) -> None:
        self.held = ""

    def on_event(self, event: Event) -> Event | None:
        self.held += event.text
        return event if event.tool or event.reasoning else None

    def flush(self) -> Sequence[Event]:
        held, self.held = self.held, ""
        return [Event(text=held.replace(SECRET, SHOWN))] if held else []


class Stopping(Lease):
    """Stops at a word."""

    def __init__(self, finish: str) -> None:
        self.finish = finish

    def on_event(self, event: Event) -> Event | None:
        if SECRET in event.text:
            raise Stop(self.finish)
        return event


class WithoutCalls(Lease):
    """Drops calls of tools."""

    def on_event(self, event: Event) -> Event | None:
        return None if event.tool else event


class Plain(Lease):
    """Reads all and changes nothing."""

    def on_event(self, event: Event) -> Event | None:
        return event


def shown(lease: Lease, *events: dict[str, Any], sizes: Sequence[int] = ()) -> list[dict[str, Any]]:
    """Return *events* as a client gets them through *lease*, read in network reads of *sizes* bytes, the last one the rest."""
    raw, reader, reading = b"".join(map(named_event, events)), SSEReader(), ResponsesReader()
    filters = EventFilters.of([lease], 1)
    assert filters is not None
    body, at = b"", 0
    for size in (*sizes, len(raw)):
        frames = reader.feed(raw[at : at + size])
        at += size
        if (batch := reading.take(frames)) is not None:
            batch.last = reading.done
            body += filters.apply(batch).raw
    return [json.loads(block.rpartition(b"data: ")[2]) for block in body.split(b"\n\n")[:-1]]


def texts(event: dict[str, Any]) -> list[str]:
    """Return the text that *event* repeats."""
    found = [event["text"]] if "text" in event and event["type"].endswith("output_text.done") else []
    parts = [event["part"]] if event["type"] == "response.content_part.done" else []
    items = [event["item"]] if event["type"] == "response.output_item.done" else []
    if event["type"] in ("response.completed", "response.incomplete"):
        items += event["response"]["output"]
    parts += [part for item in items if item["type"] == "message" for part in item["content"]]
    return found + [part["text"] for part in parts]


def deltas(events: Sequence[dict[str, Any]]) -> str:
    return "".join(event["delta"] for event in events if event["type"] == "response.output_text.delta")


def secret_stream(*pieces: str) -> tuple[dict[str, Any], ...]:
    """Return a stream with log probabilities, and padding, of *pieces*."""
    done = MESSAGE | {"content": [text_part("".join(pieces))]}
    events = numbered(
        *opened(), *reasoning_events(), *message_events(*pieces, at=1), ended("completed", REASONING, done)
    )
    for event in events:
        if event["type"] == "response.output_text.delta":
            event["logprobs"] = [{"token": event["delta"], "logprob": -0.1}]
    return events


@pytest.mark.parametrize("lease", [Redacting, Holding])
@pytest.mark.parametrize("pieces", [("It is hunter2, yes.",), ("It is hun", "ter2", ", yes."), tuple("It is hunter2")])
def test_redacted_text_is_nowhere(lease: type[Lease], pieces: tuple[str, ...]) -> None:
    """Neither a delta nor anything that repeats it has the text that a policy removed; log probabilities go with it."""
    events = shown(lease(), *secret_stream(*pieces))
    expected = "".join(pieces).replace(SECRET, SHOWN)
    assert SECRET not in json.dumps(events)
    assert "hun" not in json.dumps(events)
    assert deltas(events) == expected
    assert {text for event in events for text in texts(event)} == {expected}
    assert len([text for event in events for text in texts(event)]) == 4
    numbers = [event["sequence_number"] for event in events]
    assert numbers == sorted(set(numbers))
    types = [event["type"] for event in events]
    last_delta = len(types) - 1 - types[::-1].index("response.output_text.delta")
    assert last_delta < types.index("response.output_text.done")


TEXT = "It is hunter2, yes."
DONE = MESSAGE | {"content": [text_part(TEXT)]}
COMPLETED = ended("completed", REASONING, DONE)


@pytest.mark.parametrize(
    ("at", "event"),
    [
        (-1, ended("completed", REASONING, MESSAGE | {"content": [text_part(TEXT)] * 1_100})),
        (-1, ended("completed", REASONING, MESSAGE | {"content": [text_part(TEXT * 9)] * 1_100})),
        (-1, ended("completed", REASONING, *[DONE] * 1_100)),
        (-1, {"type": "response.completed", "response": response("completed", []) | {"output_text": TEXT}}),
        (-1, {"type": "response.completed", "response": response("completed", []) | {"output_text": TEXT * 9_000}}),
        (1, {"type": "response.in_progress", "response": response("in_progress", [DONE]) | {"output_text": TEXT}}),
    ],
    ids=["many parts", "many parts, large", "many items", "output_text", "output_text, large", "in progress"],
)
def test_redacted_text_is_in_no_unusual_repetition(at: int, event: dict[str, Any]) -> None:
    """What repeats a text that policies cannot be shown is left out: very many parts or items, or output before the end."""
    stream = list(secret_stream("It is hun", "ter2", ", yes."))
    stream[at] = event | {"sequence_number": stream[at]["sequence_number"]}
    events = shown(Redacting(), *stream)
    assert SECRET not in json.dumps(events)
    assert deltas(events) == TEXT.replace(SECRET, SHOWN)


def test_redacted_text_of_very_many_messages_is_nowhere() -> None:
    """Beyond the parts that are told apart, texts are redacted, and none is sent twice."""
    count = MAX_KEPT_PARTS + 100
    messages = [event for at in range(count) for event in message_events("It is hun", "ter2, yes.", at=at)]
    events = shown(Redacting(), *numbered(*opened(), *messages, COMPLETED))
    assert SECRET not in json.dumps(events)
    assert deltas(events).count(SHOWN) == count


@given(st.lists(st.integers(1, 400), max_size=30))
def test_splits_of_the_bytes_do_not_matter(sizes: list[int]) -> None:
    """The text is the same however the network splits the stream."""
    stream = secret_stream("It is hun", "ter2", ", yes.")
    assert deltas(shown(Redacting(), *stream, sizes=sizes)) == "It is …, yes."


def test_flush_is_called_once_for_each_text() -> None:
    """A policy is asked for held text where a text ends, and at the end if it has read anything since."""
    for stream, flushed in (
        (STREAMS["text"], 1),
        (STREAMS["reasoning"], 1),
        (STREAMS["function call"], 1),
        ((*STREAMS["text"][:-1], *function_events(), ended("completed", MESSAGE, FUNCTION_CALL)), 2),
    ):
        lease = Redacting()
        shown(lease, *stream)
        assert lease.flushed == flushed


def test_text_without_deltas_passes_policies() -> None:
    """Text that a server sends only in closing events reaches policies as a delta, and clients as the policies changed it."""
    whole = MESSAGE | {"content": [text_part("It is hunter2.")]}
    streams = [
        [
            *opened(),
            *message_events("It is hunter2.")[:2],
            *message_events("It is hunter2.")[3:],
            ended("completed", whole),
        ],
        [*opened(), message_events("")[0], {"type": "response.output_item.done", "output_index": 0, "item": whole}],
        [*opened(), ended("completed", whole)],
    ]
    streams[1].append(ended("completed", whole))
    for stream in streams:
        events = shown(Redacting(), *numbered(*stream))
        assert SECRET not in json.dumps(events)
        assert deltas(events) == "It is ….", stream
        assert texts(events[-1]) == ["It is …."]


@pytest.mark.parametrize("name", STREAMS)
def test_policy_that_changes_nothing_leaves_the_bytes(name: str) -> None:
    """A policy that reads all events and changes none leaves every byte."""
    if "failed" in name or "error" in name:
        return
    assert shown(Plain(), *STREAMS[name]) == list(STREAMS[name])


@pytest.mark.parametrize(
    ("finish", "end", "reason"),
    [
        ("content_filter", "incomplete", "content_filter"),
        ("length", "incomplete", "max_output_tokens"),
        ("stop", "completed", None),
    ],
)
def test_stop_closes_what_is_open(finish: str, end: str, reason: str | None) -> None:
    """A policy that stops the answer ends it in the API's order, with the text so far and no other."""
    events = shown(Stopping(finish), *secret_stream("It is ", "hunter2", ", yes."))
    types = [event["type"].removeprefix("response.") for event in events]
    last = events[-1]["response"]
    assert types[-4:] == ["output_text.done", "content_part.done", "output_item.done", end]
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert SECRET not in json.dumps(events)
    assert (last["status"], (last["incomplete_details"] or {}).get("reason")) == (end, reason)
    assert texts(events[-1]) == ["It is "]
    assert last["output"][0] == REASONING


def test_dropped_calls_are_not_in_the_response() -> None:
    """A call whose events a policy drops is neither streamed nor in the response object."""
    stream = numbered(*opened(), *function_events("{}"), ended("completed", FUNCTION_CALL))
    events = shown(WithoutCalls(), *stream)
    assert [event["type"].removeprefix("response.") for event in events] == ["created", "in_progress", "completed"]
    assert events[-1]["response"]["output"] == []


@pytest.mark.parametrize(
    "fields",
    [
        {"type": "response.later.delta", "delta": "secret"},
        {"type": "response.later", "secret": "x"},
        {
            "type": "response.shell_call_output_content.delta",
            "item_id": "s",
            "output_index": 9,
            "delta": {"stdout": "x"},
        },
        {"type": "response.image_generation_call.partial_image", "item_id": "i", "partial_image_b64": "QUJD"},
    ],
    ids=lambda fields: fields["type"],
)
def test_output_of_any_type_passes_policies(fields: dict[str, Any]) -> None:
    """A policy can drop output that is no text, also of a type that nothing knows."""
    begun, rest = STREAMS["text"][:6], STREAMS["text"][6:]
    events = shown(WithoutCalls(), *begun, fields, *rest)
    assert events == [*begun, *rest]


def test_changed_arguments_are_repeated() -> None:
    """A policy that changes arguments by `with_payload` changes them where they are repeated."""

    class Changing(Lease):
        def on_event(self, event: Event) -> Event | None:
            data = event.data
            if event.tool and isinstance(data.get("delta"), str):
                return event.with_payload(data | {"delta": data["delta"].replace("Oslo", "Bern")})
            return event

    events = shown(Changing(), *STREAMS["function call"])
    assert "Oslo" not in json.dumps(events)
    assert events[-1]["response"]["output"][0]["arguments"] == '{"city": "Bern"}'


def test_events_without_numbers_and_places_are_redacted() -> None:
    """The events of llama.cpp's server name parts by the id of their item alone."""
    raw = LLAMA_CPP["responses_stream.sse"]
    stream = [json.loads(block.rpartition(b"data: ")[2]) for block in raw.split(b"\n\n") if block.strip()]

    class Changing(Lease):
        def on_event(self, event: Event) -> Event | None:
            return event.with_text(event.text.replace("said", "…"))

    events = shown(Changing(), *stream)
    assert "said" not in json.dumps(events)
    assert deltas(events) == " … this it"
    assert {text for event in events for text in texts(event)} == {" … this it"}


def whole(body: dict[str, Any]) -> Script:
    async def script(connection: Connection) -> None:
        await connection.answer(200, json.dumps(body).encode())

    return script


def streamed(*events: dict[str, Any]) -> Script:
    async def script(connection: Connection) -> None:
        await connection.send(HEAD)
        for event in events:
            await connection.chunk(named_event(event))
        await connection.send(b"0\r\n\r\n")

    return script


def policy(lease: type[Lease]) -> Policy:
    """Return a policy with *lease* for each call."""

    class Filter(Policy, frozen=True):
        async def admit(self, call: Call) -> Lease:
            return lease()

    return Filter()


@pytest.mark.parametrize("lease", [Redacting, Holding])
async def test_whole_answer_is_redacted(tmp_path: Path, lease: type[Lease]) -> None:
    """The texts of an answer without `stream` are changed; other items stay as they are."""
    part = text_part("It is hunter2.") | {"logprobs": [{"token": "hunter2", "logprob": -1.0}]}
    items = [REASONING, MESSAGE | {"content": [part]}, FUNCTION_CALL]
    body = response("completed", items)
    async with upstream(whole(body)) as up:
        settings = with_policies(settings_of(tmp_path, up.url, BUDGET), policy(lease))
        async with sidecar(settings) as served:
            _, _, answer = await served.post(PATH, CALL | {"stream": False})
    got = json.loads(answer)
    assert SECRET not in answer.decode()
    assert got["output"][1]["content"][0]["text"] == "It is …."
    assert [got["output"][0], got["output"][2]] == [REASONING, FUNCTION_CALL]
    assert {name: value for name, value in got.items() if name != "output"} == {
        name: value for name, value in body.items() if name != "output"
    }


async def test_whole_answer_that_a_policy_stops(tmp_path: Path) -> None:
    """The answer has neither the text at which the policy stopped nor what follows, and says why."""
    items = [
        MESSAGE | {"content": [text_part("Yes. ")]},
        MESSAGE | {"content": [text_part("It is hunter2.")]},
        FUNCTION_CALL,
    ]

    class AtSecret(Stopping):
        def __init__(self) -> None:
            super().__init__("content_filter")

    async with upstream(whole(response("completed", items))) as up:
        settings = with_policies(settings_of(tmp_path, up.url, BUDGET), policy(AtSecret))
        async with sidecar(settings) as served:
            _, _, answer = await served.post(PATH, CALL | {"stream": False})
    got = json.loads(answer)
    assert SECRET not in answer.decode()
    assert (got["status"], got["incomplete_details"]) == ("incomplete", {"reason": "content_filter"})
    assert got["output"][0]["content"][0]["text"] == "Yes. "
    assert FUNCTION_CALL not in got["output"]


async def test_sdk_reads_the_redacted_answer(tmp_path: Path) -> None:
    """OpenAI's client assembles the text that the policy left."""
    stream = secret_stream("It is hun", "ter2", ", yes.")
    async with upstream(streamed(*stream)) as up:
        settings = with_policies(settings_of(tmp_path, up.url, BUDGET), policy(Redacting))
        async with (
            sidecar(settings) as served,
            openai.AsyncOpenAI(base_url=f"{served.url}/v1", api_key="k", max_retries=0) as client,
            client.responses.stream(model="m", input="hi") as answer,
        ):
            seen = [event async for event in answer]
            final = await answer.get_final_response()
    assert final.output_text == "It is …, yes."
    assert "hun" not in repr(seen)


async def test_held_text_is_not_lost_in_a_broken_stream(tmp_path: Path) -> None:
    """Text that a policy holds back is sent before the error of a stream that breaks."""
    stream = secret_stream("It is hun", "ter2", ", yes.")[:-4]
    async with upstream(streamed(*stream)) as up:
        settings = with_policies(settings_of(tmp_path, up.url, BUDGET), policy(Redacting))
        async with sidecar(settings) as served:
            _, _, body = await served.post(PATH, CALL)
    events = [json.loads(block.rpartition(b"data: ")[2]) for block in body.split(b"\n\n")[:-1]]
    assert deltas(events) == "It is …, yes."
    assert events[-1]["type"] == "error"
    assert events[-1]["sequence_number"] == events[-2]["sequence_number"] + 1
