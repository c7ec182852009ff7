"""Chunks of OpenAI streams, and a reader for them."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

from policies.api.event import Batch
from sidecar.wire.answer_reader import AnswerReader
from sidecar.wire.sse_reader import SSEReader


def sse(*data: Any) -> bytes:
    """Return an event for each of *data*."""
    return b"".join(b"data: " + json.dumps(each).encode() + b"\n\n" for each in data)


def delta(index: int = 0, finish: str | None = None, **fields: Any) -> dict[str, Any]:
    """Return a chunk of one choice."""
    return {"choices": [{"index": index, "delta": fields, "finish_reason": finish}]}


def read(stream: bytes, cuts: list[int] | None = None, *, shows_usage: bool = True) -> tuple[AnswerReader, list[Batch]]:
    """Read *stream*, split at *cuts*; return the reader and its batches."""
    reader, reading = SSEReader(), AnswerReader(shows_usage=shows_usage)
    edges = [0, *sorted(min(cut, len(stream)) for cut in cuts or []), len(stream)]
    batches: list[Batch | None] = []
    for begin, end in pairwise(edges):
        if not reading.done and reading.failure is None:
            batches.append(reading.take(reader.feed(stream[begin:end])))  # a failure ends the reading
    if not reading.done and reading.failure is None:
        batches.append(reading.take(reader.end()))
    return reading, [batch for batch in batches if batch is not None]
