"""The SSE reader and writers."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.sse import EventTooLarge, Frame, Reader, error_event, token_event

CHUNK = b'{"choices":[{"index":0,"delta":{"content":"h\xc3\xa9llo"}}]}'


def frames(stream: bytes, cuts: list[int] | None = None) -> list[Frame]:
    reader = Reader()
    edges = [0, *sorted(min(cut, len(stream)) for cut in cuts or []), len(stream)]
    read = [frame for a, b in pairwise(edges) for frame in reader.feed(stream[a:b])]
    return read + reader.end()


def reference(stream: bytes) -> list[tuple[bytes, str]]:
    """Read slowly and obviously: what the specification says, line by line over the whole text."""
    text = stream.decode("utf-8", "replace").removeprefix("\ufeff")
    found: list[tuple[bytes, str]] = []
    data: list[str] = []
    name = ""
    for line in [*text.replace("\r\n", "\n").replace("\r", "\n").split("\n"), ""]:
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if not line:
            if "\n".join(data) and name != "ping":
                found.append(("\n".join(data).encode(), name))
            data, name = [], ""
        elif field == "data":
            data.append(value)
        elif field == "event":
            name = value
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
    ],
)
def test_quirks(stream: bytes, expected: list[Frame]) -> None:
    """Each quirk that servers are known for is read, and repaired only where OpenAI's clients would choke on it."""
    assert frames(stream) == expected


def test_untouched() -> None:
    """A clean event goes on byte by byte as it came."""
    stream = b"data: " + CHUNK + b"\n\n"

    assert b"".join(frame.raw for frame in frames(stream * 3)) == stream * 3


ENDS = st.sampled_from([b"\n", b"\r", b"\r\n"])
LINES = st.sampled_from(
    [
        b"data: " + CHUNK,
        b"data:x",
        b"data",
        b": note",
        b"event: ping",
        b"event: tick",
        b"id: 1",
        b"odd: \xe2\x82\xac",
        b"",
        b"",
    ]
)


@st.composite
def streams(draw: st.DrawFn) -> bytes:
    """Draw lines with any mix of ends; a bare CR before an LF line would be one end, so such pairs are left out."""
    stream = draw(st.sampled_from([b"", b"\xef\xbb\xbf"]))
    end = draw(ENDS)
    for line in draw(st.lists(LINES, max_size=20)):
        stream += line + end
        following = draw(ENDS)
        end = b"\r" if stream.endswith(b"\r") and following.startswith(b"\n") else following
    return stream


@given(stream=streams(), cuts=st.lists(st.integers(0, 600), max_size=12))
def test_any_split(stream: bytes, cuts: list[int]) -> None:
    """However the bytes are split, the events are the same."""
    assert frames(stream, cuts) == frames(stream)


@given(stream=streams())
def test_every_single_byte(stream: bytes) -> None:
    """Bytes one by one give the events of the whole."""
    assert frames(stream, list(range(len(stream)))) == frames(stream)


@given(stream=streams())
def test_reference(stream: bytes) -> None:
    """Fast and slow path read what the specification says."""
    assert [(frame.payload, frame.event) for frame in frames(stream)] == reference(stream)


@given(texts=st.lists(st.text(min_size=1)))
def test_text_stays_text(texts: list[str]) -> None:
    """Text that looks like SSE stays text for a client that splits on blank lines alone."""
    stream = b"".join(token_event(text) for text in texts)
    blocks = stream.decode().split("\n\n")[:-1]

    assert [json.loads(block.removeprefix("event: token\ndata: ")) for block in blocks] == texts


def test_error_event() -> None:
    """A failure's words are one line of JSON."""
    event = error_event("two\nlines", "upstream_error", retryable=True).decode()

    assert event.count("\n") == 3
    assert json.loads(event.splitlines()[1].removeprefix("data: "))["message"] == "two\nlines"


@pytest.mark.parametrize("piece", [b"data: " + b"x" * 100, b"data: x\n" * 20, b"data: " + b"x" * 100 + b"\n\n"])
def test_bounded(piece: bytes) -> None:
    """An event beyond the limit is an error, however it comes, and not held for ever."""
    reader = Reader(max_event=64)
    with pytest.raises(EventTooLarge, match="more than 64 bytes"):
        reader.feed(piece)


def test_long_event_in_small_reads() -> None:
    """A large event in small reads is kept in pieces, and joined once."""
    reader = Reader()
    assert [reader.feed(b"data: ")] == [[]]
    for _ in range(1000):
        assert reader.feed(b"y" * 1000) == []

    assert len(reader.feed(b"\n\n")[0].payload) == 1_000_000
