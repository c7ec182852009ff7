"""Measure a prompt: bytes of text, messages, and parts that are not text."""

from __future__ import annotations

from typing import Any

import msgspec

from .call import LIMIT_FIELDS, MANY_FIELDS, Call, Message, part_kind, parts_of
from .tokens import Size

SOUND_BYTES_PER_TOKEN = 100
"""Bytes of a sound or a file, in base64, that count as one token."""


MAX_UNREAD_FIELD_BYTES = 256
"""A field that models do not read counts nothing up to this size as JSON; a larger one counts in full."""


_NOT_READ = frozenset((*LIMIT_FIELDS, *MANY_FIELDS)) | frozenset(
    "model models messages stream stream_options stop user store metadata service_tier temperature top_p top_k min_p seed"  # noqa: SIM905  # a list of words
    " presence_penalty frequency_penalty repetition_penalty logit_bias logprobs top_logprobs parallel_tool_calls"
    " reasoning_effort verbosity modalities audio prompt_cache_key safety_identifier".split()
)
"""Fields of a body that models do not read. A server may put any other field into the prompt, so those count."""


_READABLE_TYPES = (str, list, dict)


_PLAIN_KEYS = frozenset({"role", "content"})


_FRAMED_ROLES = frozenset(
    {"system", "developer", "user", "assistant", "tool", "function", "control", "ipython", "model", None}
)
"""Roles that the frame of a message covers. Chat templates print the role, so another one counts as text."""


_TEXT_PART_KEYS = frozenset({"type", "text"})


_TEXT_PART_TYPES = frozenset(
    {"text", "input_text", "output_text", "refusal", "thinking", "reasoning", "tool_reference"}
)
"""Types of parts that hold text, in `text` or in a field of their own; a part of an unknown type may be media."""


_MEDIA_PART_TYPES = frozenset({"image_url", "image", "video_url", "audio_url", "input_image"})


_FILE_PART_TYPES = frozenset({"file", "input_file"})


_SOUND_PART_TYPES = _FILE_PART_TYPES | {"input_audio"}


def size_of(call: Call) -> Size:
    """Measure the call's prompt: its messages, and every other field that a server may put into it."""
    size = parts = media = files = 0
    messages: list[Message] = call.body.get("messages") or []
    for message in messages:
        content = message.get("content")
        if isinstance(content, str):
            size += len(content) if content.isascii() else _bytes(content)
        elif content:
            pieces = parts_of(message)
            parts += len(pieces) - 1
            for part in pieces:
                read, of_file, is_media = _part(part)
                size, files, media = size + read, files + of_file, media + is_media
        if (role := message.get("role")) not in _FRAMED_ROLES:
            size += len(msgspec.json.encode(role))
        if not message.keys() <= _PLAIN_KEYS and (beside := _beside_content(message)):
            size += len(msgspec.json.encode(beside))
    for field, value in call.body.items():
        if isinstance(value, _READABLE_TYPES) and field != "messages":
            read = len(msgspec.json.encode(value))
            size += read if read > MAX_UNREAD_FIELD_BYTES or field not in _NOT_READ else 0
    return Size(size, len(messages), parts, media, files)


def _bytes(text: str) -> int:
    if text.isascii():
        return len(text)
    # msgspec caches the UTF-8 bytes in the string, so that encoding the body for upstream does not make them again.
    return memoryview(msgspec.Raw(text)).nbytes if type(text) is str else len(text.encode())


def _part(part: Any) -> tuple[int, int, bool]:
    """Return the bytes of one part of a message that a model reads, the further bytes of a file, and whether it is media."""
    if type(part) is dict and part.keys() == _TEXT_PART_KEYS and part["type"] == "text" and type(part["text"]) is str:
        return _bytes(part["text"]), 0, False
    if isinstance(part, str):
        return _bytes(part), 0, False
    kind = part_kind(part)
    text = part.get("text") if isinstance(part, dict) else None
    is_media = kind is not None and kind not in _TEXT_PART_TYPES
    if isinstance(text, str):
        rest = 0 if part.keys() <= _TEXT_PART_KEYS else _bytes_beside(part, "text")
        return _bytes(text) + rest, 0, is_media
    if kind in _MEDIA_PART_TYPES and kind == part.get("type"):
        return 0, 0, True
    if kind in _MEDIA_PART_TYPES:  # named by its field alone: a server may read the other fields instead
        return _bytes_beside(part, kind), 0, True
    size = len(msgspec.json.encode(part))
    read = size // SOUND_BYTES_PER_TOKEN if kind in _SOUND_PART_TYPES else size
    return read, size - read if kind in _FILE_PART_TYPES else 0, is_media


def _bytes_beside(part: dict[str, Any], field: str) -> int:
    """Return the bytes of *part* as JSON, except for the value of its *field*, which may be large."""
    rest = {key: value for key, value in part.items() if key != field}
    return len(msgspec.json.encode(rest)) + len(field) + (4 if rest else 3)  # quotes, a colon, and a comma


def _beside_content(message: Message) -> dict[str, Any]:
    beside = {key: value for key, value in message.items() if key not in _PLAIN_KEYS}
    if len(msgspec.json.encode(beside.get("id"))) <= MAX_UNREAD_FIELD_BYTES:
        beside.pop("id", None)
    return beside
