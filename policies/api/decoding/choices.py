"""Read and write the choices of OpenAI's answers: their indexes, text, reasoning, and output in other fields."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .token_counts import names_reasoning, value_tokens

MAX_CHOICES = 1_024
"""A choice with an index from here on is counted as choice 0."""
TOOL_FIELDS = ("tool_calls", "function_call", "audio")
NO_OTHER_FIELDS = frozenset({"role", *TOOL_FIELDS})
TEXT_KEYS = ("text", "refusal")
"""Fields of a part of `content` that hold its text."""
REASONING_KEYS = ("thinking", "reasoning", "text", "content", "summary")
"""Fields of a reasoning part that hold its text, the first one that has any."""
MAX_PART_NESTING = 8
MAX_VALUES = 40_000
"""Values of an event that are decoded to find out whether it has output; more count by their size."""
VALUE_MARKS = (b"{", b"[", b",")
"""Bytes in front of all values but the first."""


def has_many_values(payload: bytes) -> bool:
    """Whether the JSON in *payload* may have too many values to decode them all for one question."""
    return len(payload) > MAX_VALUES and sum(map(payload.count, VALUE_MARKS)) > MAX_VALUES


def choice_index(value: object) -> int:
    """Return the index of a choice that upstream sent as *value*; 0 for an impossible one."""
    return value if type(value) is int and 0 <= value < MAX_CHOICES else 0


def own_indexes(indexes: Sequence[int]) -> Sequence[int]:
    """Return *indexes*, those of the choices of one answer, or their positions if two are equal."""
    return indexes if len(set(indexes)) == len(indexes) else range(len(indexes))


def choice_of(data: dict[str, Any], index: int) -> dict[str, Any] | None:
    """Return the choice with *index* in the JSON object *data*; None where it has none."""
    choices = data.get("choices")
    found = (each for each in choices if isinstance(each, dict)) if isinstance(choices, list) else ()
    return next((each for each in found if choice_index(each.get("index")) == index), None)


def texts_of(part: Mapping[str, Any]) -> tuple[str, str]:
    """Return the text and the reasoning of *part*, a `delta` or a `message` of any shape."""
    text, thoughts = content_texts(part.get("content"))
    reasoning = (reasoning_text(part.get(field)) for field in ("reasoning", "reasoning_content"))
    return text or _string(part.get("refusal")), next(filter(None, reasoning), thoughts)


def other_tokens(part: Mapping[str, Any], *, whole: bool, reasoning: bool = True) -> int:
    """Estimate the tokens in the fields of *part*, a `delta` or a `message` without text, reasoning or tool calls.

    Above 0 if one of them holds anything.  *reasoning*: count fields and parts that are named after it.
    """
    fields = {field: value for field, value in part.items() if value and field not in NO_OTHER_FIELDS}
    return value_tokens(fields, whole=whole, reasoning=reasoning) if fields else 0


def content_texts(content: object) -> tuple[str, str]:
    """Return the text and the reasoning in a `content`: a string, a part, or a list of parts (Mistral, Databricks)."""
    if isinstance(content, str):
        return content, ""
    parts = content if isinstance(content, list) else [content]
    texts = [_part_text(part) for part in parts if not _is_reasoning(part)]
    return "".join(texts), "".join(reasoning_text(part) for part in parts if _is_reasoning(part))


def _is_reasoning(part: object) -> bool:
    """Whether *part* of a `content` is reasoning: by its type, or by its fields where it has none."""
    if not isinstance(part, dict):
        return False
    kind = part.get("type")
    return not _part_text(part) and any(map(names_reasoning, part)) if kind is None else names_reasoning(kind)


def _part_text(part: object) -> str:
    if not isinstance(part, dict):
        return _string(part)
    for key in TEXT_KEYS:
        text = part.get(key)
        if text := _string(text.get("value") if isinstance(text, dict) else text):
            return text
    return ""


def reasoning_text(value: object, depth: int = MAX_PART_NESTING) -> str:
    """Return the text in *value*, a reasoning field or part of any shape, down to *depth* levels of nesting."""
    if isinstance(value, list) and depth:
        return "".join(reasoning_text(each, depth - 1) for each in value)
    if isinstance(value, dict) and depth:
        found = (reasoning_text(value.get(key), depth - 1) for key in REASONING_KEYS)
        return next(filter(None, found), "")
    return _string(value)


def _string(value: object) -> str:
    return value if isinstance(value, str) else ""


def is_filled(value: object) -> bool:
    """Whether *value* holds anything: `[{}]` and `[null]` do not."""
    if isinstance(value, dict):
        return any(map(is_filled, value.values())) or any(value)
    return any(map(is_filled, value)) if isinstance(value, list) else value not in (None, "")


def put_text(part: dict[str, Any], text: str) -> None:
    """Replace the text of *part*, a `delta` or a `message`, by *text*."""
    content = part.get("content")
    if isinstance(content, list | dict):
        if text != content_texts(content)[0]:
            part["content"] = _with_text(content if isinstance(content, list) else [content], text)
        return
    field = "refusal" if not content and part.get("refusal") else "content"
    if text or part.get(field) is not None:
        part[field] = text


def _with_text(parts: list[Any], text: str) -> list[Any]:
    """Return *parts* with *text* in the first one that has text, without the others that have text."""
    made: list[Any] = []
    for part in parts:
        if _is_reasoning(part) or not _part_text(part):
            made.append(part)
        elif text:
            made.append(_changed_part(part, text))
            text = ""
    return [*made, {"type": "text", "text": text}] if text else made


def _changed_part(part: Any, text: str) -> Any:
    if not isinstance(part, dict):
        return text
    key = "text" if _part_text({"text": part.get("text")}) else "refusal"
    return {**part, key: {**part[key], "value": text} if isinstance(part[key], dict) else text}
