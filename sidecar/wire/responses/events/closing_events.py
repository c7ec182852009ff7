"""Write the events that end a Responses stream early, or that repeat a whole answer as a stream."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from policies.api.decoding.values import decode_forwarded
from sidecar.wire.decoding.own_choice import DECODE_FAULTS, one_line

from .response_event import (
    ADDED_ITEM,
    ARGUMENTS_NAME,
    DONE_ITEM,
    INPUT_NAME,
    REFUSAL_NAME,
    SUMMARY_NAME,
    TEXT_NAME,
    TYPE_PREFIX,
)

if TYPE_CHECKING:
    from policies.api.usage import Usage

    from .outline import Outline, OutlinePart

TEXT_ITEMS = frozenset({"message", "reasoning"})
"""Types of items that are closed with the text so far. A call without all of its arguments is not closed, so that no client executes it."""
INCOMPLETE_STATUS = "incomplete"
NO_RESPONSE: dict[str, Any] = {"id": "", "object": "response", "created_at": 0, "model": ""}
"""The fields that SDKs need, of an answer whose response object was not shown."""
_CALL_FIELDS = {"function_call": (ARGUMENTS_NAME, "arguments"), "custom_tool_call": (INPUT_NAME, "input")}


def is_text_item(item: Mapping[str, Any]) -> bool:
    """Whether *item* is a message or reasoning."""
    kind = item.get("type")
    return isinstance(kind, str) and kind in TEXT_ITEMS


def encoded_event(fields: dict[str, Any]) -> tuple[bytes, bytes]:
    """Return *fields* as a server-sent event, and as JSON."""
    payload = one_line(msgspec.json.encode(fields))
    return b"event: " + fields["type"].encode() + b"\ndata: " + payload + b"\n\n", payload


def usage_object(usage: Usage, prompt_tokens: int, reasoning: int) -> dict[str, Any]:
    """Return `usage` of a response; *prompt_tokens* count if upstream has not reported the prompt."""
    prompt = usage.input or prompt_tokens
    return {
        "input_tokens": prompt,
        "input_tokens_details": {"cached_tokens": usage.cached, "cache_write_tokens": usage.written},
        "output_tokens": usage.output,
        "output_tokens_details": {"reasoning_tokens": min(reasoning, usage.output)},
        "total_tokens": prompt + usage.output,
    }


def ending_events(outline: Outline, reason: str | None, usage: dict[str, Any] | None) -> list[dict[str, Any]]:
    """Return the events that end an answer after what *outline* has: open parts and items are closed, then the response.

    *reason* is that of an incomplete answer; None ends it as completed. Items that are not complete have the status `incomplete`.
    A call without all of its arguments is left out, so that no client executes it.
    """
    events: list[dict[str, Any]] = []
    output: list[Any] = []
    status = "completed" if reason is None else INCOMPLETE_STATUS
    for key in _keys(outline):
        item = outline.items.get(key)
        if item is not None and item.done:
            output.append(msgspec.Raw(item.done))
            continue
        parts = outline.parts_of(key)
        fields = _fields_of(item.added if item is not None else b"", parts)
        if not is_text_item(fields) or not all(part.is_whole for part in parts):
            continue
        events += [event for part in parts if not part.is_closed for event in _closing_part(part)]
        content = [_part_object(part) for part in parts if part.name != SUMMARY_NAME]
        summary = [_part_object(part) for part in parts if part.name == SUMMARY_NAME]
        fields = {**fields, "status": status, **({"content": content} if content or "content" in fields else {})}
        if fields["type"] == "reasoning":
            fields["summary"] = summary
        place = item.output_index if item is not None else next((part.output_index for part in parts), None)
        events.append({"type": DONE_ITEM, **({} if place is None else {"output_index": place}), "item": fields})
        output.append(fields)
    response = {**NO_RESPONSE, **_object(outline.response), "status": status, "error": None, "output": output}
    response["incomplete_details"] = None if reason is None else {"reason": reason}
    response["usage"] = usage
    events.append({"type": f"{TYPE_PREFIX}{status}", "response": response})
    return numbered_events(events, outline)


def numbered_events(events: Sequence[dict[str, Any]], outline: Outline) -> list[dict[str, Any]]:
    """Return *events* with the numbers that follow the last one; without numbers where upstream sends none."""
    if outline.sequence < 0:
        return list(events)
    return [{**event, "sequence_number": outline.sequence + 1 + at} for at, event in enumerate(events)]


def _keys(outline: Outline) -> list[Any]:
    keys = dict.fromkeys([*outline.items, *(part.item_key for part in outline.parts.values())])
    return sorted(keys, key=lambda key: key if isinstance(key, int) else -1)


def _fields_of(added: bytes, parts: Sequence[OutlinePart]) -> dict[str, Any]:
    """Return the fields of an item that has begun; those of a message where no event has announced it."""
    if added or not parts:
        return _object(added)
    kind = "message" if any(part.name in (TEXT_NAME, REFUSAL_NAME) for part in parts) else ""
    return {"id": parts[0].item_id or "", "type": kind, "role": "assistant"}


def _object(raw: bytes) -> dict[str, Any]:
    try:
        data = decode_forwarded(raw) if raw else {}
    except DECODE_FAULTS:
        return {}
    return data if isinstance(data, dict) else {}


def _part_object(part: OutlinePart) -> dict[str, Any]:
    kind = part.name.removeprefix(TYPE_PREFIX)
    text = part.text.getvalue()
    if part.name == REFUSAL_NAME:
        return {"type": kind, "refusal": text}
    if part.name == TEXT_NAME:
        return {"type": kind, "annotations": [], "logprobs": [], "text": text}
    return {"type": "summary_text" if part.name == SUMMARY_NAME else kind, "text": text}


def _closing_part(part: OutlinePart) -> Iterator[dict[str, Any]]:
    if not part.is_text_done:
        field = "refusal" if part.name == REFUSAL_NAME else "text"
        more: dict[str, Any] = {"logprobs": []} if part.name == TEXT_NAME else {}
        yield {"type": f"{part.name}.done", **part.fields, field: part.text.getvalue(), **more}
    if part.is_announced:
        kind = "reasoning_summary_part" if part.name == SUMMARY_NAME else "content_part"
        yield {"type": f"{TYPE_PREFIX}{kind}.done", **part.fields, "part": _part_object(part)}


def streamed_response(response: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the events of a stream that has the answer *response*, a complete response object, numbered from 0."""
    for at, event in enumerate(_streamed(response)):
        yield {**event, "sequence_number": at}


def _streamed(response: dict[str, Any]) -> Iterator[dict[str, Any]]:
    begun = {**response, "status": "in_progress", "output": [], "usage": None, "incomplete_details": None}
    yield {"type": "response.created", "response": begun}
    yield {"type": "response.in_progress", "response": begun}
    output = response.get("output")
    for at, item in enumerate(output if isinstance(output, list) else ()):
        if isinstance(item, dict):
            yield from _streamed_item(item, at)
    status = response.get("status")
    yield {
        "type": f"{TYPE_PREFIX}{INCOMPLETE_STATUS if status == INCOMPLETE_STATUS else 'completed'}",
        "response": response,
    }


def _streamed_item(item: dict[str, Any], at: int) -> Iterator[dict[str, Any]]:
    place = {"item_id": item.get("id") or "", "output_index": at}
    empty = {**item, "status": "in_progress"}
    kind = item.get("type")
    if isinstance(content := item.get("content"), list):
        empty["content"] = []
    if isinstance(summary := item.get("summary"), list):
        empty["summary"] = []
    name, field = _CALL_FIELDS.get(kind, ("", "")) if isinstance(kind, str) else ("", "")
    if field:
        empty[field] = ""
    yield {"type": ADDED_ITEM, "output_index": at, "item": empty}
    if field and isinstance(text := item.get(field), str):
        yield {"type": f"{name}.delta", **place, "delta": text}
        yield {"type": f"{name}.done", **place, field: text}
    for index, part in enumerate(summary if isinstance(summary, list) else ()):
        yield from _streamed_part(part, {**place, "summary_index": index}, "reasoning_summary_part")
    for index, part in enumerate(content if isinstance(content, list) else ()):
        yield from _streamed_part(part, {**place, "content_index": index}, "content_part")
    yield {"type": DONE_ITEM, "output_index": at, "item": item}


def _streamed_part(part: Any, place: dict[str, Any], name: str) -> Iterator[dict[str, Any]]:
    if not isinstance(part, dict):
        return
    kind = part.get("type")
    field = "refusal" if kind == "refusal" else "text"
    text = part.get(field)
    if not isinstance(kind, str) or not isinstance(text, str):
        yield {"type": f"{TYPE_PREFIX}{name}.added", **place, "part": part}
        yield {"type": f"{TYPE_PREFIX}{name}.done", **place, "part": part}
        return
    more: dict[str, Any] = {"logprobs": []} if kind == "output_text" else {}
    event = "reasoning_summary_text" if name == "reasoning_summary_part" else kind
    yield {"type": f"{TYPE_PREFIX}{name}.added", **place, "part": {**part, field: ""}}
    yield {"type": f"{TYPE_PREFIX}{event}.delta", **place, "delta": text, **more}
    yield {"type": f"{TYPE_PREFIX}{event}.done", **place, field: text, **more}
    yield {"type": f"{TYPE_PREFIX}{name}.done", **place, "part": part}
