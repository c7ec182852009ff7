"""Read the messages of a request, and the parts of their content."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import msgspec

Message: TypeAlias = dict[str, Any]

UNTYPED_PART_FIELDS = (
    "image_url",
    "image",
    "video_url",
    "audio_url",
    "input_image",
    "input_audio",
    "file",
    "input_file",
)
"""Fields by which servers recognise the kind of a part that names none."""
PART_TEXT_FIELDS = ("text", "refusal", "thinking", "reasoning", "prompt_string")
"""Fields of a part that hold its text. Servers choose one of them by the part's type (vLLM), so all of them count.

`prompt_string` is the text of a prompt that is an object (llama.cpp).
"""
ITEM_TEXT_FIELDS = ("output", "arguments", "input", "summary")
"""Fields of an item without `content` that hold its text or its parts: calls of functions, their results, reasoning."""
DOCUMENT_TEXT_FIELDS = ("source", "title", "context")
"""Fields of a part with a source that may hold text beside it."""
FILE_SOURCES = frozenset({"base64", "url", "file"})
"""Types of sources that are no text."""
MAX_TEXT_NESTING = 4
"""Lists of parts in parts that are read one by one: results of tools have parts."""
MAX_JSON_NESTING = 100
"""Levels of lists and objects in which texts are found and replaced: as many as the body of a request may have."""
_UNTYPED_PART_FIELD_SET, _PART_TEXT_FIELD_SET = frozenset(UNTYPED_PART_FIELDS), frozenset(PART_TEXT_FIELDS)


def parts_of(message: Message) -> list[Any]:
    """Return the parts of one message's content: one for an object, a string or a number, none for null."""
    content = message.get("content")
    if isinstance(content, list):
        return content
    return [] if content is None else [content]


def texts(message: Message) -> list[str]:
    """Return the texts of one message: its content, or the texts of its parts.

    A part of an unknown kind counts as its JSON, and so does content of another type. An item without content has the
    texts of `ITEM_TEXT_FIELDS`.
    """
    content = message.get("content")
    if isinstance(content, str):
        return [content]
    if content is None:
        return [] if message.keys() <= {"role", "content"} else _item_texts(message)
    found = []
    for part in parts_of(message):
        own = [part] if isinstance(part, str) else _part_texts(part)
        if not own and part_kind(part) is None:
            own = [msgspec.json.encode(part).decode()]
        found += own
    return found


def _item_texts(item: Message) -> list[str]:
    found = _part_texts(item)
    for field in ITEM_TEXT_FIELDS:
        found += _nested_texts(item.get(field), MAX_JSON_NESTING)
    return found


def _nested_texts(value: object, depth: int) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        return _part_texts(value, depth - 1)
    if isinstance(value, list) and depth > 0:
        return [text for each in value for text in _nested_texts(each, depth - 1)]
    return []


def _part_texts(part: object, depth: int = MAX_JSON_NESTING) -> list[str]:
    if not isinstance(part, dict) or depth < 0:
        return []
    found = []
    if not _PART_TEXT_FIELD_SET.isdisjoint(part):
        found = [text for field in PART_TEXT_FIELDS if isinstance(text := part.get(field), str)]
    if isinstance(inner := part.get("content"), str | list | dict):  # the result of a tool
        found += _nested_texts(inner, depth)
    if "source" in part:
        found += _document_texts(part, depth)
    if is_tool_call(part):
        found.append(msgspec.json.encode(part["input"]).decode())
    return found


def is_tool_call(part: dict[str, Any]) -> bool:
    """Whether *part* calls a tool with an object of arguments (Anthropic)."""
    return "type" in part and isinstance(part.get("input"), dict)


def _document_texts(part: dict[str, Any], depth: int) -> list[str]:
    """Return the texts of a part that has a source, of Anthropic's API: not those of files, URLs and images."""
    source = part["source"]
    found = [text for field in DOCUMENT_TEXT_FIELDS if isinstance(text := part.get(field), str)]
    if isinstance(source, dict) and source.get("type") not in FILE_SOURCES:
        found += _nested_texts(source.get("data"), 0) + _nested_texts(source.get("content"), depth)
    return found


def replace_texts(value: Any, change: Callable[[str], str], depth: int = MAX_JSON_NESTING) -> Any:
    """Return *value*, a prompt, a message or a part of any shape, with each of its texts replaced by `change(text)`.

    Objects are copied where a text in them changes. Texts are those that `texts` returns, without JSON of unknown parts.
    Of the arguments of a tool, which `texts` returns as JSON, each string is replaced.
    """
    if isinstance(value, str):
        return change(value)
    if isinstance(value, list):
        return [replace_texts(each, change, depth - 1) for each in value] if depth >= 0 else value
    if not isinstance(value, dict):
        return value
    changed = dict(value)
    for field in (*PART_TEXT_FIELDS, "content", *ITEM_TEXT_FIELDS):
        inner = value.get(field)
        if field == "input" and is_tool_call(value):
            changed[field] = _replace_strings(inner, change, depth - 1)
        elif isinstance(inner, str) or (
            isinstance(inner, list | dict) and depth >= 0 and field not in PART_TEXT_FIELDS
        ):
            changed[field] = replace_texts(inner, change, depth - 1)
    if "source" in value:
        _replace_in_document(changed, change, depth)
    return changed


def _replace_strings(value: Any, change: Callable[[str], str], depth: int) -> Any:
    """Return *value*, JSON of any shape, with each of its strings replaced; the names of fields stay."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, list) and depth >= 0:
        return [_replace_strings(each, change, depth - 1) for each in value]
    if isinstance(value, dict) and depth >= 0:
        return {name: _replace_strings(each, change, depth - 1) for name, each in value.items()}
    return value


def _replace_in_document(part: dict[str, Any], change: Callable[[str], str], depth: int) -> None:
    """Replace the texts that `_document_texts` returns in *part*, which is a copy."""
    for field in DOCUMENT_TEXT_FIELDS:
        if isinstance(text := part.get(field), str):
            part[field] = change(text)
    source = part["source"]
    if isinstance(source, dict) and source.get("type") not in FILE_SOURCES:
        inner = {
            field: replace_texts(source[field], change, depth - 1) for field in ("data", "content") if field in source
        }
        part["source"] = {**source, **inner}


def part_kind(part: object) -> str | None:
    """Return the kind of one part: its type, else the first known field of a part without type, as vLLM finds it.

    None for a part that has neither.
    """
    if not isinstance(part, dict):
        return None
    if isinstance(kind := part.get("type"), str):
        return kind
    if _UNTYPED_PART_FIELD_SET.isdisjoint(part):
        return None
    for field in UNTYPED_PART_FIELDS:
        if field in part:
            return field
    return None
