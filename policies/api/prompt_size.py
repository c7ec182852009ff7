"""Measure a prompt: bytes of text, messages, and parts that are not text."""

from __future__ import annotations

from typing import Any

import msgspec

from .call import LIMIT_FIELDS, MANY_FIELDS, Call, Message
from .tokens import Size

SOUND_BYTES = 100
"""Bytes of a sound or a file, in base64, for one token of it."""


UNREAD_BYTES = 256
"""Bytes as JSON up to which a field that no model reads is believed to be one."""


_NOT_READ = frozenset((*LIMIT_FIELDS, *MANY_FIELDS)) | frozenset(
    "model models messages stream stream_options stop user store metadata service_tier temperature top_p top_k min_p seed"  # noqa: SIM905  # a list of words
    " presence_penalty frequency_penalty repetition_penalty logit_bias logprobs top_logprobs parallel_tool_calls"
    " reasoning_effort verbosity modalities audio prompt_cache_key safety_identifier".split()
)
"""Fields of a body that no model reads; whatever else is there may be put into its prompt, so it counts."""


_READABLE = (str, list, dict)


_PLAIN_KEYS = frozenset({"role", "content"})


_TEXT = frozenset({"type", "text"})


_MEDIA = frozenset({"image_url", "image", "video_url", "audio_url", "input_image"})


_FILE = frozenset({"file", "input_file"})


_SOUND = _FILE | {"input_audio"}


def size_of(call: Call) -> Size:
    """Measure the call's prompt: its messages, and every field of the body that a server may put into it."""
    size = parts = media = files = 0
    for message in call.messages:
        content = message.get("content")
        if isinstance(content, str):
            size += len(content) if content.isascii() else _bytes(content)
        elif isinstance(content, list):
            parts += len(content) - 1
            for part in content:
                read, of_file, is_media = _part(part)
                size, files, media = size + read, files + of_file, media + is_media
        if not message.keys() <= _PLAIN_KEYS and (beside := _beside_content(message)):
            size += len(msgspec.json.encode(beside))
    for field, value in call.body.items():
        if isinstance(value, _READABLE) and field != "messages":
            read = len(msgspec.json.encode(value))
            size += read if read > UNREAD_BYTES or field not in _NOT_READ else 0
    return Size(size, len(call.messages), parts, media, files)


def _bytes(text: str) -> int:
    if text.isascii():
        return len(text)
    # msgspec keeps the bytes with the text, so that they need not be made again when the body is written for upstream.
    return memoryview(msgspec.Raw(text)).nbytes if type(text) is str else len(text.encode())


def _part(part: Any) -> tuple[int, int, bool]:
    """Return the bytes that a model reads of one part of a message, those of a file beside them, and whether it is media."""
    if not isinstance(part, dict):
        return len(msgspec.json.encode(part)), 0, False
    text, kind = part.get("text"), part.get("type")
    if isinstance(text, str):
        rest = 0 if part.keys() <= _TEXT else len(msgspec.json.encode(part)) - len(msgspec.json.encode(text))
        return _bytes(text) + rest, 0, kind != "text"
    if kind in _MEDIA:
        return 0, 0, True
    size = len(msgspec.json.encode(part))
    read = size // SOUND_BYTES if kind in _SOUND else size
    return read, size - read if kind in _FILE else 0, True


def _beside_content(message: Message) -> dict[str, Any]:
    beside = {key: value for key, value in message.items() if key not in _PLAIN_KEYS}
    if len(msgspec.json.encode(beside.get("id"))) <= UNREAD_BYTES:
        beside.pop("id", None)
    return beside
