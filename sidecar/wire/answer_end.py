"""End an answer early: events with the finish `length`, and the usage."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

import msgspec

from policies.api.event import Batch, Event
from policies.api.usage import Usage

from .decoding.own_choice import copied_fields, one_line

LENGTH_FINISH = "length"
EMPTY_PIECE: Mapping[str, object] = MappingProxyType({"delta": {}})


def cut_batch(
    sample: bytes,
    choices: Iterable[int],
    usage: Usage | None,
    prompt_tokens: int,
    *,
    kind: str = "chat.completion.chunk",
    end: Mapping[str, object] = EMPTY_PIECE,
) -> Batch:
    """Return the last batch of an answer that ends before upstream has ended it. Called at most once per answer.

    *sample* is the JSON object of a chunk of the answer, *choices* are the indices that have not finished. *usage* is what
    was read; None omits the chunk with the usage. *prompt_tokens* count if upstream has not reported the prompt.
    *kind* is the `object` of chunks where the sample has none, *end* the piece of a choice without output.
    """
    head = {"object": kind, **copied_fields(sample)}
    events = [_finish(head, index, end) for index in choices]
    if usage is not None:
        prompt = usage.input or prompt_tokens
        counts = {
            "prompt_tokens": prompt,
            "completion_tokens": usage.output,
            "total_tokens": prompt + usage.output,
        }
        payload = one_line(msgspec.json.encode({**head, "choices": [], "usage": counts}))
        events.append(Event(raw=b"data: " + payload + b"\n\n", payload=payload, index=-1))
    return Batch(events=events, raw=b"".join(event.raw for event in events), last=True)


def _finish(head: dict[str, Any], index: int, end: Mapping[str, object]) -> Event:
    choice = {"index": index, **end, "finish_reason": LENGTH_FINISH}
    payload = one_line(msgspec.json.encode({**head, "choices": [choice]}))
    return Event(raw=b"data: " + payload + b"\n\n", payload=payload, index=index, finish=LENGTH_FINISH)
