"""Measure a prompt: bytes of text, messages, and parts that are not text."""

from __future__ import annotations

from typing import Any

import msgspec

from policies.api.requests.parts import MAX_TEXT_NESTING, UNTYPED_PART_FIELDS, Message, part_kind, parts_of

from .call import LIMIT_FIELDS, MANY_FIELDS, Call
from .decoding.token_counts import MEDIA_TOKENS
from .tokens import BOUND_MESSAGE_TOKENS, PART_TOKENS, Size

SOUND_BYTES_PER_TOKEN = 100
"""Bytes of a sound or a file, in base64, that count as one token."""
MAX_UNREAD_FIELD_BYTES = 256
"""A field that models do not read counts nothing up to this size as JSON; a larger one counts in full."""
MAX_SHORT_SETTING = 42
"""Below so many characters, a text has at most `MAX_UNREAD_FIELD_BYTES` as JSON: six for each, and two quotes."""
_NOT_READ = frozenset((*LIMIT_FIELDS, *MANY_FIELDS)) | frozenset(
    "model models messages stream stream_options stop stop_sequences user store metadata service_tier temperature top_p top_k min_p seed"  # noqa: SIM905  # a list of words
    " presence_penalty frequency_penalty repetition_penalty logit_bias logprobs top_logprobs parallel_tool_calls"
    " reasoning_effort verbosity modalities audio prompt_cache_key safety_identifier encoding_format dimensions echo".split()
)
"""Fields of a body that models do not read. A server may put any other field into the prompt, so those count."""
MAX_READ_ITEMS = 5_000
"""Messages of a call, and parts of its messages, that are read one by one: each costs up to two microseconds."""
MAX_FIELDS = 256
"""Fields of a body up to which short settings do not count; in a body with more fields, all of them count."""
_TEXT_PART = b'{"type":"text","text":'
"""Beginning of a part that is text, in JSON. No string contains it, because quotes in strings are escaped."""
_MEDIA_KEYS = tuple(f'"{field}":'.encode() for field in UNTYPED_PART_FIELDS)
_MEDIA_OR_SOURCE_KEYS = (*_MEDIA_KEYS, b'"source":')
_PRINTED_SETTINGS = frozenset({"reasoning_effort", "verbosity"})
"""Fields of `_NOT_READ` that chat templates may print (gpt-oss: "Reasoning: high"), so the bound counts them."""
_READABLE_TYPES = (str, list, dict, msgspec.Raw)
_PLAIN_KEYS = frozenset({"role", "content"})
_FRAMED_ROLES = frozenset(
    {"system", "developer", "user", "assistant", "tool", "function", "control", "ipython", "model", None}
)
"""Roles that the frame of a message covers. Chat templates print the role, so another one counts as text."""
_TEXT_PART_KEYS = frozenset({"type", "text"})
_TEXT_PART_TYPES = frozenset(
    {"text", "input_text", "output_text", "refusal", "thinking", "reasoning", "tool_reference", "redacted_thinking"}
    | {"search_result", "logs"}
)
"""Types of parts that hold text, in `text` or in a field of their own; a part of an unknown type may be media."""
RESULT_ENDING = "_result"
"""End of the types of parts with the result of a tool, or with a part of it, such as `web_search_result`."""
_TEXT_TYPE_ENDINGS = ("tool_use", RESULT_ENDING)
"""Ends of further such types: calls of tools and their results, of which only inner parts are media (Anthropic)."""
_NESTING_PART_TYPES = frozenset({"document", "search_result"})
"""Types of parts that have parts or a source, beside the results of tools."""
MAX_NESTED_READS = 1_000
"""Inner parts of one part that are read one by one."""
_MEDIA_PART_TYPES = frozenset({"image_url", "image", "video_url", "audio_url", "input_image", "computer_screenshot"})
_FILE_PART_TYPES = frozenset({"file", "input_file"})
_SOUND_PART_TYPES = _FILE_PART_TYPES | {"input_audio"}
_OUTPUT_FIELDS = frozenset({"output", "outputs"})
"""Fields of an item with the result of a tool, which may be a part or a list of parts (Responses API)."""


def size_of(call: Call) -> Size:
    """Measure the call's prompt: its messages, and every other field that a server may put into it.

    Parts and messages beyond 5,000 count as JSON, and each further object in them as media. Time is linear in the size of
    the body.
    """
    size = parts = media = files = 0
    prompt, form = call.prompt, call.operation
    rest: list[Message] = []  # `list[Message]()` takes 1 µs: it creates the alias, and tries to set it on the list
    messages, prompt_fields = prompt.messages, form.prompt_fields
    count = len(messages)
    if count > MAX_READ_ITEMS:
        messages, rest = _read_and_rest(messages)
    for message in messages:
        content = message.get("content")
        if isinstance(content, str):
            size += len(content) if content.isascii() else _bytes(content)
        elif content:
            pieces = parts_of(message)
            parts += len(pieces) - 1
            if parts > MAX_READ_ITEMS:
                rest.append(message)
                continue
            for part in pieces:
                read, of_file, of_media, inner = _part(part, MAX_READ_ITEMS - parts)
                size, files, media, parts = size + read, files + of_file, media + of_media, parts + inner
        if (role := message.get("role")) not in _FRAMED_ROLES:
            size += len(msgspec.json.encode(role))
        if not message.keys() <= _PLAIN_KEYS:
            read, of_file, of_media, inner = _beside_content(message, MAX_READ_ITEMS - parts)
            size, files, media, parts = size + read, files + of_file, media + of_media, parts + inner
    for field, value in call.body.items():
        if isinstance(value, _READABLE_TYPES) and field not in prompt_fields:
            if type(value) is str and len(value) < MAX_SHORT_SETTING and field in _NOT_READ:
                continue
            read = _json_bytes(value)
            size += read if read > MAX_UNREAD_FIELD_BYTES or field not in _NOT_READ else 0
    if rest:
        read, of_rest = _measured_at_once(rest)
        size, media = size + read, media + of_rest
    framed = count if form.frames_messages else 0
    return Size(size + prompt.repeated, framed, parts + count - framed, media, files, prompt.token_ids)


def _read_and_rest(messages: list[Message]) -> tuple[list[Message], list[Message]]:
    """Return the messages that are read one by one, and a list with all further ones, empty if there are none."""
    if len(messages) <= MAX_READ_ITEMS:
        return messages, []
    return messages[:MAX_READ_ITEMS], messages[MAX_READ_ITEMS:]


def _measured_at_once(messages: list[Message]) -> tuple[int, int]:
    """Return the bytes of *messages* as JSON, and how many objects in them may be media."""
    encoded = msgspec.json.encode(messages)
    objects = encoded.count(b"{") - len(messages)
    if not any(key in encoded for key in _MEDIA_KEYS):
        own = sum(1 for message in messages if message.get("type") == "text")  # they are no parts of another message
        objects -= max(0, encoded.count(_TEXT_PART) - own)
    return len(encoded), objects


def bound_tokens(call: Call, media: int = MEDIA_TOKENS) -> int:
    """Return an upper bound of the prompt's tokens: one for each byte that upstream receives, and 8 for each message's frame.

    Text counts as UTF-8. Everything else counts as JSON, with its keys: parts that are not text, further keys of messages,
    and all fields of the body but the short settings that no server puts into a prompt. Each part that is not text counts
    *media* tokens too: it may refer to a file that upstream fetches. Parts and messages beyond 5,000 count as in `size_of`.
    Time is linear in the size of the body.
    """
    prompt = call.prompt
    messages, ids = prompt.messages, prompt.token_ids
    frame = BOUND_MESSAGE_TOKENS if call.operation.frames_messages else PART_TOKENS
    parts, tokens = 0, ids + frame * len(messages) + prompt.repeated
    messages, rest = _read_and_rest(messages)
    for message in messages:
        content = message.get("content")
        if isinstance(content, str):
            tokens += _bytes(content)
        elif content:
            pieces = parts_of(message)
            parts += len(pieces) - 1
            if parts > MAX_READ_ITEMS:
                rest.append(message)
                continue
            for part in pieces:
                tokens += _part_bound(part, media)
        if not message.keys() <= _PLAIN_KEYS:
            beside = {key: value for key, value in message.items() if key not in _PLAIN_KEYS}
            if not _OUTPUT_FIELDS.isdisjoint(beside):
                pieces = _output_parts(beside)
                parts += len(pieces)
                tokens += _output_bound(pieces, media, MAX_READ_ITEMS - parts)
            tokens += _json_bytes(beside)
        if (role := message.get("role")) not in _FRAMED_ROLES:
            tokens += _json_bytes(role)
    tokens += PART_TOKENS * parts
    if rest:
        read, of_rest = _measured_at_once(rest)
        tokens += read + media * of_rest
    fields = call.body.copy()
    for field in call.operation.prompt_fields:
        fields.pop(field, None)
    if len(fields) <= MAX_FIELDS:
        fields = {field: value for field, value in fields.items() if field not in _NOT_READ or _enters(field, value)}
    return tokens + _json_bytes(fields) if fields else tokens


def _output_parts(item: dict[str, Any]) -> list[Any]:
    """Remove the parts of the result of a tool from *item*, which is a copy, and return them; empty where it has none."""
    found: list[Any] = []
    for field in _OUTPUT_FIELDS:
        if isinstance(output := item.get(field), list | dict):
            found += output if isinstance(output, list) else [output]
            item[field] = []
    return found


def _output_bound(pieces: list[Any], media: int, left: int) -> int:
    """Return the bound of the parts of a tool's result; *left* is negative where they are too many to read one by one."""
    if left < 0:
        read, of_rest = _measured_at_once([{"output": pieces}])
        return read + media * of_rest
    return sum(_part_bound(part, media) for part in pieces)


def _part_bound(part: Any, media: int) -> int:
    if isinstance(part, str):
        return _bytes(part)
    if type(part) is dict and part.keys() == _TEXT_PART_KEYS and part["type"] == "text" and type(part["text"]) is str:
        return _bytes(part["text"])
    if isinstance(part, msgspec.Raw):
        return _json_bytes(part) + media
    if not isinstance(part, dict):
        return _json_bytes(part)
    encoded = msgspec.json.encode(part)
    is_text = _is_text_type(part_kind(part)) or part.keys() == {"text"}
    found = sum(map(encoded.count, _MEDIA_OR_SOURCE_KEYS))
    return len(encoded) + media * max(found, 0 if is_text else 1)


def _is_text_type(kind: str | None) -> bool:
    return kind in _TEXT_PART_TYPES or (kind is not None and kind.endswith(_TEXT_TYPE_ENDINGS))


def _enters(field: str, value: object) -> bool:
    """Whether the setting *field* may enter the prompt: chat templates print it, or it is too long for a setting."""
    is_long = isinstance(value, _READABLE_TYPES) and _json_bytes(value) > MAX_UNREAD_FIELD_BYTES
    return is_long or field in _PRINTED_SETTINGS


def _json_bytes(value: object) -> int:
    """Return the size of *value* as JSON. `msgspec.Raw` is JSON that was not decoded."""
    return memoryview(value).nbytes if isinstance(value, msgspec.Raw) else len(msgspec.json.encode(value))


def _bytes(text: str) -> int:
    if text.isascii():
        return len(text)
    # msgspec caches the UTF-8 bytes in the string, so that encoding the body for upstream does not make them again.
    return memoryview(msgspec.Raw(text)).nbytes if type(text) is str else len(text.encode())


def _part(part: Any, left: int, depth: int = MAX_TEXT_NESTING) -> tuple[int, int, int, int]:
    """Return the bytes of one part that a model reads, the further bytes of files, and the numbers of media and inner parts.

    At most *left* inner parts are read one by one, down to *depth* levels.
    """
    if type(part) is dict and part.keys() == _TEXT_PART_KEYS and part["type"] == "text" and type(part["text"]) is str:
        return _bytes(part["text"]), 0, 0, 0
    if isinstance(part, str):
        return _bytes(part), 0, 0, 0
    kind = part_kind(part)
    if kind is not None and (kind in _NESTING_PART_TYPES or kind.endswith(RESULT_ENDING)):
        return _nesting_part(part, kind, left, depth)
    text = part.get("text") if isinstance(part, dict) else None
    is_media = kind is not None and not _is_text_type(kind)
    if isinstance(text, str):
        rest = 0 if part.keys() <= _TEXT_PART_KEYS else _bytes_beside(part, "text")
        return _bytes(text) + rest, 0, is_media, 0
    if kind in _MEDIA_PART_TYPES and kind == part.get("type"):
        return 0, 0, 1, 0
    if kind in _MEDIA_PART_TYPES:  # named by its field alone: a server may read the other fields instead
        return _bytes_beside(part, kind), 0, 1, 0
    size = len(msgspec.json.encode(part))
    read = size // SOUND_BYTES_PER_TOKEN if kind in _SOUND_PART_TYPES else size
    return read, size - read if kind in _FILE_PART_TYPES else 0, is_media, 0


def _nesting_part(part: dict[str, Any], kind: str, left: int, depth: int) -> tuple[int, int, int, int]:
    """Return what `_part` does for a part with inner parts or a source: a tool's result, a document (Anthropic)."""
    source = part.get("source")
    source = source if isinstance(source, dict) else {}
    pieces = [
        piece
        for inner in (part.get("content"), source.get("content"))
        for piece in (inner if isinstance(inner, list) else [] if inner is None else [inner])
    ]
    if len(pieces) > min(left, MAX_NESTED_READS) or (pieces and not depth):
        read, media = _measured_at_once([part])
        return read, 0, media, 0
    size = len(msgspec.json.encode({key: value for key, value in part.items() if key not in ("content", "source")}))
    size += 0 if source else len(msgspec.json.encode(part.get("source")))
    files = media = 0
    if source and isinstance(data := source.get("data"), str):
        is_file = source.get("type") == "base64"
        read = len(data) // SOUND_BYTES_PER_TOKEN if is_file else _bytes(data)
        size, files = size + read, len(data) - read if is_file else 0
    inner_count = len(pieces)
    if kind == "document" and source.get("type") not in ("text", "content"):
        media = 1
    for piece in pieces:
        read, of_file, of_media, inner = _part(piece, left - inner_count, depth - 1)
        size, files, media, inner_count = size + read, files + of_file, media + of_media, inner_count + inner
    return size, files, media, inner_count


def _bytes_beside(part: dict[str, Any], field: str) -> int:
    """Return the bytes of *part* as JSON, except for the value of its *field*, which may be large."""
    rest = {key: value for key, value in part.items() if key != field}
    return len(msgspec.json.encode(rest)) + len(field) + (4 if rest else 3)  # quotes, a colon, and a comma


def _beside_content(message: Message, left: int) -> tuple[int, int, int, int]:
    """Return what `_part` does for the fields of *message* but role and content: for the parts of a tool's result in them."""
    beside = {key: value for key, value in message.items() if key not in _PLAIN_KEYS}
    if len(msgspec.json.encode(beside.get("id"))) <= MAX_UNREAD_FIELD_BYTES:
        beside.pop("id", None)
    size = files = media = inner = 0
    if not _OUTPUT_FIELDS.isdisjoint(beside) and (pieces := _output_parts(beside)):
        size, files, media, inner = _nesting_part({"content": pieces}, "", left, 1)
    return size + (len(msgspec.json.encode(beside)) if beside else 0), files, media, inner
