"""Mutations of streams of server-sent events: events, lines, line endings and payloads."""

from __future__ import annotations

from random import Random

from json_mutations import mutate_json

LINES = (
    *(b": comment", b":", b"id: 1", b"retry: 5", b"event: message", b"event: ping", b"event: error", b"event: \xff", b"data", b"data:"),
    *(b"data: {", b"data:  [DONE]", b"data: [done]", b'data: {"error": {"message": "boom", "code": 500}}', b'error: {"code": 500}', b"x: y"),
    *(b'data: {"choices": []}', b'data: {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2}}', b"data: null", b"data: []"),
)  # fmt: skip
EVENTS = (b"data: [DONE]", *LINES, b'data: {"choices":[{"index":1,"delta":{"content":"x"},"finish_reason":null}]}', b"")
LINE_ENDINGS = (b"\n", b"\n", b"\n", b"\r\n", b"\r")


def mutate_events(body: bytes, chance: Random) -> bytes:
    """Return the stream *body* after one to three changes, with one kind of line ending or a mix of them."""
    events = body.replace(b"\r\n", b"\n").split(b"\n\n")
    for _ in range(chance.choice((1, 1, 2, 3))):
        at = chance.randrange(len(events))
        how = chance.randrange(10)
        if how < 3:
            events[at] = _mutate_payload(events[at], chance)
        elif how == 3:
            events.insert(at, chance.choice(EVENTS))
        elif how == 4:
            events[at:at] = [events[at]] * chance.choice((1, 1, 3, 200))
        elif how == 5 and len(events) > 1:
            del events[at]
        elif how == 6:
            other = chance.randrange(len(events))
            events[at], events[other] = events[other], events[at]
        elif how == 7:
            lines = events[at].split(b"\n")
            lines.insert(chance.randrange(len(lines) + 1), chance.choice(LINES))
            events[at] = b"\n".join(lines)
        elif how == 8:
            cut = chance.randrange(len(events[at]) + 1)
            events[at] = events[at][:cut] + chance.choice((b"\n", b"\n\n", b"\ndata: ", b"\ndata:")) + events[at][cut:]
        else:
            events = events[: at + 1]
    return with_line_endings(b"\n\n".join(events), chance)


def with_line_endings(body: bytes, chance: Random) -> bytes:
    """Return *body* with other line endings, all the same or each at random."""
    if chance.random() < 0.2:
        first, *lines = body.split(b"\n")
        return first + b"".join(chance.choice(LINE_ENDINGS) + line for line in lines)
    return body.replace(b"\n", chance.choice(LINE_ENDINGS))


def _mutate_payload(event: bytes, chance: Random) -> bytes:
    lines = event.split(b"\n")
    at = chance.randrange(len(lines))
    field, colon, value = lines[at].partition(b":")
    if field == b"data":
        lines[at] = field + colon + mutate_json(value.strip(), chance)
    return b"\n".join(lines)
