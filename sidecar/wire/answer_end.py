"""End an answer early: events with the finish `length`, and the usage."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from policies.api.event import Batch, Event
from policies.api.usage import Usage

from .chunk import decode_object

COPIED_FIELDS = ("id", "object", "created", "model", "system_fingerprint")
"""Fields that all chunks of one answer have in common."""
LENGTH_FINISH = "length"


def cut_batch(sample: bytes, choices: Iterable[int], usage: Usage | None, prompt_tokens: int) -> Batch:
    """Return the last batch of an answer that ends before upstream has ended it. Called at most once per answer.

    *sample* is the JSON object of a chunk of the answer, *choices* are the indices that have not finished. *usage* is what
    was read; None omits the chunk with the usage. *prompt_tokens* count if upstream has not reported the prompt.
    """
    head = _head(sample)
    events = [_finish(head, index) for index in choices]
    if usage is not None:
        prompt = usage.input or prompt_tokens
        counts = {
            "prompt_tokens": prompt,
            "completion_tokens": usage.output,
            "total_tokens": prompt + usage.output,
        }
        payload = msgspec.json.encode({**head, "choices": [], "usage": counts})
        events.append(Event(raw=b"data: " + payload + b"\n\n", payload=payload, index=-1))
    return Batch(events=events, raw=b"".join(event.raw for event in events), last=True)


def _head(sample: bytes) -> dict[str, Any]:
    try:
        data = decode_object(sample)
    except ValueError:
        data = {}
    head = {field: data[field] for field in COPIED_FIELDS if field in data}
    return {"object": "chat.completion.chunk", **head}


def _finish(head: dict[str, Any], index: int) -> Event:
    choice = {"index": index, "delta": {}, "finish_reason": LENGTH_FINISH}
    payload = msgspec.json.encode({**head, "choices": [choice]})
    return Event(raw=b"data: " + payload + b"\n\n", payload=payload, index=index, finish=LENGTH_FINISH)
