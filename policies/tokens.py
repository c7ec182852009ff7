"""The one token estimate.  Cheap, from lengths alone: a tokenizer run would block the loop (BerriAI/litellm#36429)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from .call import LIMIT_FIELDS, MANY_FIELDS

if TYPE_CHECKING:
    from .call import Call, Message

BYTES_PER_TOKEN = 3.5
MESSAGE_TOKENS = 4
BOUND_MESSAGE_TOKENS = 8
PART_TOKENS = 2
"""What a template may put between the parts of one message."""
MEDIA_TOKENS = 1_600
SHORT_PIECE = 12
"""Bytes up to which a streamed piece is taken for one token; hardly any vocabulary has longer ones in use."""
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


class Size(msgspec.Struct, frozen=True):
    """How large a prompt is: UTF-8 bytes of all that a model reads, messages, parts beyond the first of each, media.

    `files` are the bytes of files that are not among `bytes`: how much of them a model gets to read is not known.
    """

    bytes: int
    messages: int
    parts: int = 0
    media: int = 0
    files: int = 0

    def bound(self, media: int = MEDIA_TOKENS) -> int:
        """Return the tokens that no tokenizer exceeds: each byte its own, and 8 a message for its frame.

        What an image costs is the server's secret: each counts as *media*.
        """
        frames = BOUND_MESSAGE_TOKENS * self.messages + PART_TOKENS * self.parts
        return self.bytes + self.files + frames + media * self.media


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


def streamed_tokens(piece: str, *, whole: bool = False) -> int:
    """Guess the tokens of one streamed piece: one, unless it is so long that upstream sent several at once.

    A *whole* answer is never taken for one token.
    """
    size = len(piece) if piece.isascii() else len(piece.encode())
    return -(-size // 4) if whole or size > SHORT_PIECE else 1


class Estimator:
    """Tokens of a prompt: bytes / 3.5 + 4 a message, the bytes' share corrected by the usage that upstream reports."""

    __slots__ = ("_ratio",)

    LEARN_FROM = 256
    """Bytes below which a prompt teaches nothing: the frame around it weighs more."""
    MODELS = 256

    def __init__(self) -> None:
        self._ratio: dict[str, float] = {}

    def estimate(self, model: str, size: Size, media: int = MEDIA_TOKENS) -> int:
        """Return the prompt's tokens for *model*; anything in it that is no text counts as *media*."""
        ratio = self._ratio.get(model, BYTES_PER_TOKEN)
        frames = MESSAGE_TOKENS * size.messages + PART_TOKENS * size.parts
        return -int(-size.bytes // ratio) + frames + media * size.media

    def learn(self, model: str, size: Size, reported: int) -> None:
        """Correct *model*'s ratio by what upstream *reported* for a prompt of *size*: a moving average, bounded."""
        tokens = reported - MESSAGE_TOKENS * size.messages - PART_TOKENS * size.parts
        if size.bytes < self.LEARN_FROM or size.media or tokens <= 0:
            return
        known = self._ratio.pop(model, None)
        if known is None and len(self._ratio) >= self.MODELS:
            self._ratio.pop(next(iter(self._ratio)))
        seen = min(8.0, max(1.0, size.bytes / tokens))
        self._ratio[model] = seen * 0.1 + (BYTES_PER_TOKEN if known is None else known) * 0.9
