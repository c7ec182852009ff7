"""Check streams and answers of the Messages API as strict clients do."""

from __future__ import annotations

import json
from typing import Any


def read_events(body: bytes) -> list[dict[str, Any]]:
    """Return the events of a stream; each has the name of its type, as Anthropic's SDKs require."""
    *blocks, rest = body.decode().split("\n\n")
    assert rest == ""
    found = []
    for block in blocks:
        name, data = block.split("\n")
        event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        found.append(event)
    return found


def message_of(events: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the message that *events* build; fails unless they are in the order of the API, with blocks from 0 on."""
    assert events[0]["type"] == "message_start", events[0]
    message: dict[str, Any] = json.loads(json.dumps(events[0]["message"]))
    content: list[dict[str, Any]] = message["content"]
    is_open, has_finish, has_stopped = False, False, False
    for event in events[1:]:
        kind = event["type"]
        assert not has_stopped, f"{kind} behind message_stop"
        if kind == "content_block_start":
            assert not is_open
            assert event["index"] == len(content)
            content.append(dict(event["content_block"]))
            is_open = True
        elif kind == "content_block_delta":
            assert is_open
            assert event["index"] == len(content) - 1
            _add(content[-1], event["delta"])
        elif kind == "content_block_stop":
            assert is_open
            assert event["index"] == len(content) - 1
            is_open = False
        elif kind == "message_delta":
            assert not is_open
            message["usage"].update(event["usage"])
            if event["delta"].get("stop_reason"):
                message["stop_reason"], has_finish = event["delta"]["stop_reason"], True
        elif kind == "message_stop":
            assert has_finish
            has_stopped = True
        else:
            assert kind == "ping", kind
    assert has_stopped
    return message


def _add(block: dict[str, Any], delta: dict[str, Any]) -> None:
    kind = delta["type"]
    if kind == "text_delta":
        assert block["type"] == "text"
        block["text"] += delta["text"]
    elif kind == "thinking_delta":
        block["thinking"] += delta["thinking"]
    elif kind == "signature_delta":
        block["signature"] = delta["signature"]
    elif kind == "input_json_delta":
        block["partial_json"] = block.get("partial_json", "") + delta["partial_json"]
