"""The tokens that upstreams report in relayed answers."""

from __future__ import annotations

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.wire.relay.reported_tokens import MAX_LINE_BYTES, MAX_WHOLE_BYTES, TokenReports

SSE, NDJSON, JSON = "text/event-stream; charset=utf-8", "application/x-ndjson", "application/json"
STREAM = b'data: {"usage":{"input_tokens":1,"output_tokens":2}}\r\n\r\n: c\n\ndata: {"response":{"usage":{"input_tokens":5,"output_tokens":7}}}\n\ndata: [DONE]'


def read(kind: str, *parts: bytes) -> tuple[int, int]:
    reports = TokenReports(kind)
    for part in parts:
        reports.feed(part)
    reports.end()
    return reports.prompt, reports.output


@pytest.mark.parametrize(
    ("kind", "body", "tokens"),
    [
        (JSON, b'{"usage":{"prompt_tokens":3,"total_tokens":10}}', (3, 7)),
        (JSON, b'{"text":"x","usage":{"type":"tokens","input_tokens":14,"output_tokens":45}}', (14, 45)),
        (JSON, b'{"usage":{"type":"duration","seconds":9}}', (0, 0)),
        (JSON, b'{"content":"x","tokens_predicted":8,"tokens_evaluated":5}', (5, 8)),
        (JSON, b'{"text":"x","meta_info":{"prompt_tokens":5,"completion_tokens":9}}', (5, 9)),
        (JSON, b'{"generated_text":"x","details":{"generated_tokens":20}}', (0, 20)),
        (JSON, b'{"usage":"much","tokens_predicted":8}', (0, 8)),
        (JSON, b'{"usage":{"output_tokens":99999999999}}', (0, 0)),
        (JSON, b'{"usage":{"output_tokens":5}', (0, 0)),
        (NDJSON, b'{"response":"a"}\n{"done":true,"prompt_eval_count":4,"eval_count":6}', (4, 6)),
        (SSE, STREAM, (5, 7)),
        ("audio/mpeg", STREAM, (0, 0)),
        ("", STREAM, (0, 0)),
    ],
)  # fmt: skip
def test_reports_of_all_servers_are_read(kind: str, body: bytes, tokens: tuple[int, int]) -> None:
    """Each server's form of a report is read; anything else reports nothing."""
    assert read(kind, body) == tokens


@given(st.lists(st.integers(0, len(STREAM)), max_size=8))
def test_any_split_gives_the_same(cuts: list[int]) -> None:
    """A stream is read the same, however it is split."""
    at = [0, *sorted(cuts), len(STREAM)]
    assert read(SSE, *(STREAM[start:end] for start, end in itertools.pairwise(at))) == (5, 7)


def test_memory_is_bounded() -> None:
    """Of a long answer and of a long line nothing is kept; shorter lines behind it are read."""
    whole, lines = TokenReports(JSON), TokenReports(NDJSON)
    for _ in range(40):
        whole.feed(b"x" * 65_536)
        lines.feed(b"x" * 65_536)
        assert len(whole._kept) <= MAX_WHOLE_BYTES
        assert len(lines._kept) <= MAX_LINE_BYTES
    lines.feed(b"\n" + json.dumps({"eval_count": 3}).encode() + b"\n")
    lines.end()
    assert lines.output == 3
