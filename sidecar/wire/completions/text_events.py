"""Write events and whole answers of the completions API that policies have changed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from policies.api.decoding.choices import choice_of, own_indexes
from policies.api.decoding.values import decode_forwarded
from policies.api.event import Event

CONTENT_FILTER_FINISH = "content_filter"


class TextEvents:
    """See `policies.api.event.EventForm`. Without state: one object serves all answers."""

    def encoded(self, event: Event) -> bytes:
        """Return *event* with its current text and finish."""
        data = event.data
        if event.index >= 0:
            choice = choice_of(data, event.index) or {"index": event.index}
            data["choices"] = [_written(choice, event.text, event.finish)]
        return b"data: " + msgspec.json.encode(data) + b"\n\n"

    def with_payload(self, event: Event, data: dict[str, Any]) -> Event:
        """Return *event* with *data*. Raises `ValueError` where it has no choice of the event's index."""
        payload = msgspec.json.encode(data)
        if event.index < 0:
            return msgspec.structs.replace(event, raw=b"", payload=payload)
        choice = choice_of(data, event.index)
        if choice is None:
            msg = f"with_payload: the object has no choice with index {event.index}"
            raise ValueError(msg)
        text, finish = choice.get("text"), choice.get("finish_reason")
        return msgspec.structs.replace(
            event,
            raw=b"",
            payload=payload,
            text=text if isinstance(text, str) else "",
            finish=finish if isinstance(finish, str) and finish else None,
        )

    def rebuilt_answer(self, payload: bytes, events: Sequence[Event], unchanged: Sequence[Event]) -> bytes:
        """Return *payload* with the text of each choice as in *events*; a dropped choice becomes empty."""
        data = decode_forwarded(payload)
        listed = [each for each in data.get("choices") or () if isinstance(each, dict)]
        before = {event.index: event for event in unchanged}
        indexes = own_indexes([index if type(index := each.get("index")) is int else 0 for each in listed])
        data["choices"] = [
            each
            if _is_same(own := [event for event in events if event.index == index], before.get(index))
            else _written(
                each, "".join(event.text for event in own), next((event.finish for event in own if event.finish), None)
            )
            for each, index in zip(listed, indexes, strict=True)
        ]
        return msgspec.json.encode(data)


def _is_same(own: Sequence[Event], before: Event | None) -> bool:
    return len(own) == 1 and own[0] is before


def _written(choice: dict[str, Any], text: str, finish: str | None) -> dict[str, Any]:
    """Return *choice* with *text* and *finish*. Its log probabilities quote the original text, so a change drops them."""
    if choice.get("text") == text:
        return {**choice, "finish_reason": finish}
    return {**choice, "text": text, "logprobs": None, "finish_reason": finish}


TEXT_EVENTS = TextEvents()
