"""Read and write server-sent events."""

from __future__ import annotations

import json
from itertools import pairwise
from time import process_time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.wire.decoding.value_count import MAX_EVENT_VALUES
from sidecar.wire.sse_reader import EventTooLarge, Frame, SSEReader
from sidecar.wire.sse_writer import (
    DONE_EVENT,
    OPENAI_DONE_EVENT,
    OPENAI_PING,
    PING_EVENT,
    START_EVENT,
    error_event,
    openai_error_event,
    token_event,
)

CHUNK = b'{"choices":[{"index":0,"delta":{"content":"h\xc3\xa9llo"}}]}'

REPLACED = b"data: \xef\xbf\xbd\n\n"
ERROR = Frame(b'data: {"error":{"code":400}}\n\n', b'{"error":{"code":400}}')


def frames(stream: bytes, cuts: list[int] | None = None) -> list[Frame]:
    reader = SSEReader()
    edges = [0, *sorted(min(cut, len(stream)) for cut in cuts or []), len(stream)]
    read = [frame for a, b in pairwise(edges) for frame in reader.feed(stream[a:b])]
    return read + reader.end()


def reference(stream: bytes) -> list[Frame]:
    """Return the events of *stream* by the specification, line by line over the whole text."""
    text = stream.decode("utf-8", "replace").removeprefix("\ufeff")
    found: list[Frame] = []
    data: list[str] = []
    kept: list[str] = []
    name = ""
    for line in [*text.replace("\r\n", "\n").replace("\r", "\n").split("\n"), ""]:
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if not line:
            if "\n".join(data) and name != "ping":
                head = [f"event: {name}"] if name else []
                raw = "\n".join([*head, *kept, "", ""])
                found.append(Frame(raw.encode(), "\n".join(data).encode(), name))
            data, kept, name = [], [], ""
        elif field == "data":
            data.append(value)
            kept.append(line)
        elif field == "event":
            name = "" if value == "message" else value
    return found


@pytest.mark.parametrize(
    ("stream", "expected"),
    [
        (b"data: {}\n\n", [Frame(b"data: {}\n\n", b"{}")]),
        (b'data:{"id":1}\n\n', [Frame(b'data:{"id":1}\n\n', b'{"id":1}')]),
        (b"data: {}\r\n\r\n", [Frame(b"data: {}\n\n", b"{}")]),
        (b"data: {}\r\rdata: [1]\r\r", [Frame(b"data: {}\n\n", b"{}"), Frame(b"data: [1]\n\n", b"[1]")]),
        (b"\xef\xbb\xbfdata: {}\n\n", [Frame(b"data: {}\n\n", b"{}")]),
        (b": OPENROUTER PROCESSING\n\ndata: {}\n\n", [Frame(b"data: {}\n\n", b"{}")]),
        (b'error: {"code":500}\n\n', [Frame(b'data: {"code":500}\n\n', b'{"code":500}', "error")]),
        (
            b'event: error\ndata: {"error":1}\n\n',
            [Frame(b'event: error\ndata: {"error":1}\n\n', b'{"error":1}', "error")],
        ),
        (b'event: ping\ndata: {"type":"ping"}\n\n', []),
        (b"event: ping\n\n", []),
        (b"data:\n\ndata\n\nretry: 100\n\nid: 7\n\n", []),
        (b"id: 7\nretry: 1\ndata: {}\n\n", [Frame(b"data: {}\n\n", b"{}")]),
        (b"event: message\ndata: {}\n\n", [Frame(b"data: {}\n\n", b"{}")]),
        (b"data: {\ndata: }\n\n", [Frame(b"data: {\ndata: }\n\n", b"{\n}")]),
        (b"data: [DONE]\n", [Frame(b"data: [DONE]\n\n", b"[DONE]")]),
        (b"data: {}\n\ndata: {half", [Frame(b"data: {}\n\n", b"{}"), Frame(b"data: {half\n\n", b"{half")]),
        (b"data: a\xffb\n\n", [Frame(b"data: a\xef\xbf\xbdb\n\n", b"a\xef\xbf\xbdb")]),
        (b"\n\n\n\n", []),
        (b"\xef\xbb", []),
        (b"data: {}\n\n\xef\xbb\xbfdata: [1]\n\n", [Frame(b"data: {}\n\n", b"{}")]),
        (b"data: {}\n\n\ndata: [1]\n\n", [Frame(b"data: {}\n\n", b"{}"), Frame(b"data: [1]\n\n", b"[1]")]),
        (b"data: \n\ndata: {}\n\n", [Frame(b"data: {}\n\n", b"{}")]),
        (b"data:  {}\n\n", [Frame(b"data:  {}\n\n", b" {}")]),
        (b"Data: {}\n\nDATA: {}\n\n data: {}\n\n", []),
        (b"data\ndata: x\n\n", [Frame(b"data\ndata: x\n\n", b"\nx")]),
        (b"data: {}\nevent: tick\n: note\n\n", [Frame(b"event: tick\ndata: {}\n\n", b"{}", "tick")]),
        (b"error\n\nerror:\n\n", []),
        (b'error: {"code":500}', [Frame(b'data: {"code":500}\n\n', b'{"code":500}', "error")]),
        (b"data: \xe2\x82\n\ndata: \xac\n\n", [Frame(REPLACED, REPLACED[6:-2]), Frame(REPLACED, REPLACED[6:-2])]),
        (b": ping\n: ping\ndata: {}\n\n", [Frame(b"data: {}\n\n", b"{}")]),
        (b'data: {"error":{"code":400}}\n\ndata: [DONE]\n\n', [ERROR, Frame(OPENAI_DONE_EVENT, b"[DONE]")]),
        (b'{"error":{}}', []),
    ],
)
def test_quirks_of_servers_are_accepted(stream: bytes, expected: list[Frame]) -> None:
    """Known quirks of servers are accepted, and repaired only where OpenAI's SDKs would fail."""
    assert frames(stream) == expected


def test_clean_event_is_unchanged() -> None:
    """The bytes of a clean event are forwarded unchanged."""
    stream = b"data: " + CHUNK + b"\n\n"

    assert b"".join(frame.raw for frame in frames(stream * 3)) == stream * 3


ENDS = st.sampled_from([b"\n", b"\r", b"\r\n"])
LINES = st.sampled_from(
    [
        b"data: " + CHUNK,
        b"data:  x ",
        b"data",
        b": note",
        b"event: ping",
        b"event: tick",
        b"id: 1",
        b"event: message",
        b"odd: \xe2\x82\xac",
        b"data: bad \xe2\x82",
        b"data: \xff\xed\xa0\x80",
        b"data: ",
        b"data: [DONE]",
        b"",
        b"",
    ]
)


def one_each(lines: list[bytes], ends: list[bytes]) -> list[bytes]:
    """Return a line ending for each line; an empty line after a CR gets a CR, as CR and LF would read as one CRLF."""
    chosen: list[bytes] = []
    for line, end in zip(lines, ends, strict=False):
        joined = not line and end == b"\n" and chosen and chosen[-1] == b"\r"
        chosen.append(b"\r" if joined else end)
    return chosen


@st.composite
def streams(draw: st.DrawFn) -> bytes:
    """Draw lines with any mix of line endings, some with a BOM before or an incomplete line after them."""
    lines = draw(st.lists(LINES, max_size=20))
    ends = one_each(lines, draw(st.lists(ENDS, min_size=20, max_size=20)))
    stream = b"".join(line + end for line, end in zip(lines, ends, strict=True))
    return draw(st.sampled_from([b"", b"\xef\xbb\xbf"])) + stream + draw(st.sampled_from([b"", b"data: cut"]))


@st.composite
def clean_streams(draw: st.DrawFn) -> bytes:
    """Draw events with LF as the only line ending, most of them of one line."""
    events = [
        b"data: " + CHUNK,
        b"data: [DONE]",
        b"data: ",
        b"data:x",
        b": note",
        b"event: tick\ndata: x",
        b"data: \xff",
    ]
    return b"".join(each + b"\n\n" for each in draw(st.lists(st.sampled_from(events), max_size=8)))


@given(stream=streams(), cuts=st.lists(st.integers(0, 600), max_size=12))
def test_any_split_gives_the_same_events(stream: bytes, cuts: list[int]) -> None:
    """Any split of the bytes gives the same events."""
    assert frames(stream, cuts) == frames(stream)


@given(stream=streams())
def test_single_bytes_give_the_same_events(stream: bytes) -> None:
    """Single bytes give the same events as one read."""
    assert frames(stream, list(range(len(stream)))) == frames(stream)


@given(stream=streams())
def test_events_are_those_of_the_specification(stream: bytes) -> None:
    """The reader returns the events that the specification defines."""
    assert frames(stream) == reference(stream)


@given(stream=clean_streams(), cuts=st.lists(st.integers(0, 400), max_size=4))
def test_clean_streams_are_read_by_the_specification(stream: bytes, cuts: list[int]) -> None:
    """Events of one line are read by the specification, in one read or in several."""
    assert frames(stream) == reference(stream)
    assert frames(stream, cuts) == reference(stream)


@given(lines=st.lists(LINES, max_size=20), ends=st.lists(ENDS, min_size=20, max_size=20))
def test_any_line_ends_give_the_same_events(lines: list[bytes], ends: list[bytes]) -> None:
    """Any mix of LF, CR and CRLF gives the same events as LF alone."""
    mixed = b"".join(line + end for line, end in zip(lines, one_each(lines, ends), strict=True))

    assert frames(mixed) == frames(b"".join(line + b"\n" for line in lines))


TEXTS = st.text(min_size=1) | st.lists(
    st.sampled_from(["\n", "\n\n", "\r", "data: ", "event: done", "[DONE]", "\x00", "\x85", "\u2028", " ", '"']),
    min_size=1,
).map("".join)


@given(texts=st.lists(TEXTS))
def test_text_stays_text(texts: list[str]) -> None:
    """Text that looks like SSE stays text for a client that splits on blank lines, and for our reader."""
    stream = b"".join(token_event(text) for text in texts)
    blocks = stream.decode().split("\n\n")

    assert blocks.pop() == ""
    assert [json.loads(block.removeprefix("event: token\ndata: ")) for block in blocks] == texts
    assert [(json.loads(frame.payload), frame.event) for frame in frames(stream)] == [(each, "token") for each in texts]
    assert b"\r" not in stream


@pytest.mark.parametrize(("text", "expected"), [("a\ud83d", "a\ufffd"), ("\ud83d\ude00\n", "\U0001f600\n")])
def test_lone_surrogate_is_replaced(text: str, expected: str) -> None:
    """A lone surrogate is sent as U+FFFD; two halves of a pair are joined."""
    assert json.loads(token_event(text).removeprefix(b"event: token\ndata: ")) == expected


def test_error_event_keeps_its_own_fields() -> None:
    """Details of a refusal are further fields of the `error` event; they replace none of its own."""
    details = {"case": "held", "message": "other", "code": "other", "retryable": True}
    event = error_event("m", "c", retryable=False, details=details)
    data = json.loads(event.decode().removeprefix("event: error\ndata: "))
    assert data == {"message": "m", "code": "c", "retryable": False, "case": "held"}


def test_error_event_has_one_line_of_json() -> None:
    """An error event has its message in one line of JSON, in either schema."""
    event = error_event("two\nlines", "upstream_error", retryable=True)
    name, data, *rest = event.decode().split("\n")

    assert (name, rest) == ("event: error", ["", ""])
    fields = json.loads(data.removeprefix("data: "))
    assert fields == {"message": "two\nlines", "code": "upstream_error", "retryable": True}
    assert openai_error_event({"message": "a\nb"}) == b'data: {"error":{"message":"a\\nb"}}\n\n'


def test_fixed_events_have_their_exact_bytes() -> None:
    """Chat Nest's events have an empty data line; OpenAI's ping is a comment with one newline."""
    assert [b"event: %b\ndata: \n\n" % name for name in (b"start", b"ping", b"done")] == [
        START_EVENT,
        PING_EVENT,
        DONE_EVENT,
    ]
    assert frames(b"id: 1\ndata: {}\n\n" + OPENAI_PING + OPENAI_PING + OPENAI_DONE_EVENT) == [
        Frame(b"data: {}\n\n", b"{}"),
        Frame(OPENAI_DONE_EVENT, b"[DONE]"),
    ]
    assert OPENAI_PING == b": ping\n"


@pytest.mark.parametrize("size", [1, 7, 1000])
@pytest.mark.parametrize(
    "stream",
    [
        b"data: " + b"x" * 100,
        b"data: x\n" * 20,
        b": " + b"x" * 100,
        b"data: {}\n\ndata: " + b"x" * 100 + b"\n\n",
        b"data: x\r\n" * 20 + b"\r\n",
    ],
)
def test_event_size_is_limited(stream: bytes, size: int) -> None:
    """An event beyond the limit is an error for any split, before it is complete."""
    reader = SSEReader(max_event=64)
    with pytest.raises(EventTooLarge, match="more than 64 bytes"):
        for start in range(0, len(stream), size):
            reader.feed(stream[start : start + size])


def test_limit_is_per_event() -> None:
    """The limit holds for each event, not for a read of many events."""
    reader = SSEReader(max_event=64)

    assert len(reader.feed(b"data: {}\n\n" * 100 + b"data: ")) == 100
    assert [frame.payload for frame in reader.feed(b"x" * 58 + b"\n\n")] == [b"x" * 58]


def test_event_is_returned_with_its_last_byte() -> None:
    """An event is returned with the last byte of its blank line, even a CR; a following LF starts no new line."""
    reader = SSEReader()

    assert [frame.payload for frame in reader.feed(b"data: 1\r\n\r")] == [b"1"]
    assert reader.feed(b"") == []
    assert reader.feed(b"\ndata: 2\n") == []
    assert [frame.payload for frame in reader.feed(b"\ndata: 3")] == [b"2"]
    assert [frame.payload for frame in reader.end()] == [b"3"]
    assert reader.end() == []


def test_large_event_in_small_reads_takes_linear_time() -> None:
    """A large event in small reads takes linear time: copying all bytes at each read would take minutes."""
    reader, began = SSEReader(), process_time()
    assert reader.feed(b"data: ") == []
    for _ in range(16_000):
        assert reader.feed(b"y" * 1000) == []
        if process_time() - began > 5:
            pytest.fail("what is held is looked through, or copied, at each read")

    assert [len(frame.payload) for frame in reader.feed(b"\n\n")] == [16_000_000]


@pytest.mark.parametrize("value", [b"[],", b'{"a":1},', b"1,", b'"\\",\\",\\"",', b'"\\\\",'], ids=repr)
@pytest.mark.parametrize("cuts", [[], [70_000], list(range(0, 1_000_000, 9_000))], ids=len)
def test_values_of_a_large_event_are_bounded(value: bytes, cuts: list[int]) -> None:
    """A large event with too many values is refused before it is decoded, in any split: creating them blocks the loop."""
    for count, is_refused in ((MAX_EVENT_VALUES - 20, False), (MAX_EVENT_VALUES + 20, True)):
        marks = value.count(b"[") + value.count(b"{") + 1
        event = b'data: {"pad":"' + b"," * MAX_EVENT_VALUES + b'","x":[' + value * (count // marks) + b"0]}\n\n"
        reader, edges = SSEReader(), [*(cut for cut in cuts if cut < len(event)), len(event)]
        pieces = [event[begin:end] for begin, end in zip([0, *edges], edges, strict=False)]
        if is_refused:
            with pytest.raises(EventTooLarge, match=f"more than {MAX_EVENT_VALUES} values"):
                assert [reader.feed(piece) for piece in pieces]
        else:
            assert [frame.raw for piece in pieces for frame in reader.feed(piece)] == [event]


def test_text_with_many_commas_is_no_list_of_values() -> None:
    """Characters inside strings are no values, whatever is escaped: 2 MB of text or of an image pass."""
    for text in (",[{" * 700_000, '\\"' * 300_000 + "," * 900_000, "\\" * 500_000 + ",", "A" * 2_000_000):
        event = b"data: " + json.dumps({"choices": [{"delta": {"content": text}}]}).encode() + b"\n\n"
        assert [frame.raw for frame in SSEReader().feed(event)] == [event]
