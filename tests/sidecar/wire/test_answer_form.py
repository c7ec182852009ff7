"""The first bytes of an answer tell a stream of events from one JSON object, whatever type is declared."""

from __future__ import annotations

from itertools import pairwise

import pytest
from chunks import delta, sse
from hypothesis import given
from hypothesis import strategies as st

from sidecar.wire.answer_form import AnswerForm
from sidecar.wire.sse_reader import EventTooLarge, Frame

A = sse(delta(content="a"))
BOM = b"\xef\xbb\xbf"
OBJECT = b'{"choices": []}'


def read(body: bytes, edges: list[int], *, declared: bool) -> tuple[list[Frame], bytes | None]:
    """Read *body*, split at *edges*; return its events, or what was collected of one object."""
    form, frames = AnswerForm(declared=declared), list[Frame]()
    for begin, end in pairwise([0, *sorted(min(edge, len(body)) for edge in edges), len(body)]):
        data = body[begin:end]
        frames += form.feed(data) if form.reader is None else form.reader.feed(data)
    frames += form.end()
    assert (form.reader is None) is not (form.whole is None)
    return frames, None if form.whole is None else b"".join(form.whole)


@pytest.mark.parametrize("declared", [True, False])
@pytest.mark.parametrize("front", [b"", BOM, b"\n", b"\r\n\r\n", BOM + b"\n", b"\r"], ids=repr)
@pytest.mark.parametrize(
    "body",
    [
        A,
        A.replace(b": ", b":", 1),
        A.replace(b"\n", b"\r\n"),
        b": comment\n\n" + A,
        b":\n" + A,
        b"event: message\n" + A,
        b"id: 1\n" + A,
        b"id:1\r\n" + A,
        b"retry: 10\n\n" + A,
    ],
    ids=repr,
)
def test_stream_is_recognised(body: bytes, front: bytes, *, declared: bool) -> None:
    """A stream is recognised by a comment or a field in front, behind a BOM and blank lines, in any split."""
    for edges in ([], list(range(len(front) + len(body))), *([at] for at in range(12))):
        frames, whole = read(front + body, edges, declared=declared)
        assert (len(frames), whole) == (1, None)
        assert frames[0].payload == A[6:-2]


@pytest.mark.parametrize("declared", [True, False])
@pytest.mark.parametrize("front", [b"", BOM, b"\n", b" \t\r\n  ", BOM + b" "], ids=repr)
@pytest.mark.parametrize("body", [OBJECT, b'[{"error": {}}]', b"{\n  " + OBJECT[1:], b'{"data: ": 1}\n\n'], ids=repr)
def test_object_is_recognised(body: bytes, front: bytes, *, declared: bool) -> None:
    """JSON is recognised by its first byte, behind a BOM and white space, in any split."""
    for edges in ([], list(range(len(front) + len(body))), *([at] for at in range(8))):
        assert read(front + body, edges, declared=declared) == ([], body)


@pytest.mark.parametrize(
    "body", [b"<html>", b"dat", b"data", b"x: y\n\n", b"", b"\n\n", b" data: {}\n\n", b"\xef\xbb", b"idle"]
)
def test_declared_type_decides_the_rest(body: bytes) -> None:
    """Where the first bytes tell nothing, the declared type decides."""
    for edges in ([], list(range(len(body)))):
        assert read(body, edges, declared=True) == ([], None)
        assert read(body, edges, declared=False)[1] is not None


@given(st.lists(st.sampled_from([b"\n", b"\r", b" ", b" data:", b":", b"data", b"data: {}\n\n", b"{", b"}", BOM, b"id", b"x", A]), max_size=8), st.lists(st.integers(0, 300), max_size=8), st.booleans())  # fmt: skip
def test_any_split_is_read_the_same(pieces: list[bytes], cuts: list[int], declared: bool) -> None:  # noqa: FBT001  # of hypothesis
    """Any split of any bytes gives the same form and events."""
    body = b"".join(pieces)
    found = read(body, cuts, declared=declared)
    expected = read(body, [], declared=declared)
    assert (found[0], found[1] is None) == (expected[0], expected[1] is None)
    assert (found[1] or b"").split() == (expected[1] or b"").split()


def test_few_bytes_are_kept_before_the_form_is_known() -> None:
    """However much white space comes first, no more than one mark is kept; an object is bounded."""
    form = AnswerForm(declared=False)
    for _ in range(1_000):
        assert form.feed(b"\n" * 1_000 + b" " * 1_000) == []
    assert form.end() == []
    assert form.whole is not None
    assert len(b"".join(form.whole)) <= len(b"retry:")


def test_object_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """An object of more bytes than the limit raises."""
    monkeypatch.setattr("sidecar.wire.answer_form.MAX_ANSWER_BYTES", 100)
    form = AnswerForm(declared=False)
    form.feed(b"{" + b" " * 99)
    with pytest.raises(EventTooLarge, match="more than 100 bytes"):
        form.feed(b" ")


def test_pieces_of_a_whole_answer_are_released_once_joined() -> None:
    """The pieces of one JSON object are not kept beside the joined bytes; its form stays known."""
    form = AnswerForm(declared=False)
    form.feed(b'{"a"')
    form.feed(b":1}")

    assert (form.take_whole(), form.whole) == (b'{"a":1}', [])
