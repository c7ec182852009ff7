"""The one token estimate.  Cheap, from lengths alone: a tokenizer run would block the loop (BerriAI/litellm#36429)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from .call import texts

if TYPE_CHECKING:
    from .call import Call, Message

BYTES_PER_TOKEN = 3.5
MESSAGE_TOKENS = 4
BOUND_MESSAGE_TOKENS = 8
IMAGE_TOKENS = 1_600
SHORT_PIECE = 12
"""Bytes up to which a streamed piece is taken for one token; hardly any vocabulary has longer ones in use."""

_BESIDE_MESSAGES = ("tools", "functions", "response_format", "tool_choice", "prediction")
_PLAIN_KEYS = frozenset({"role", "content", "id"})


class Size(msgspec.Struct, frozen=True):
    """How large a prompt is: UTF-8 bytes of all that a model reads, messages, images."""

    bytes: int
    messages: int
    images: int = 0

    @property
    def bound(self) -> int:
        """Tokens that no tokenizer exceeds: each byte its own, and 8 a message for its frame."""
        return self.bytes + BOUND_MESSAGE_TOKENS * self.messages + IMAGE_TOKENS * self.images


def size_of(call: Call) -> Size:
    """Measure the call's prompt: its messages, tool definitions, response format and images."""
    size = images = 0
    for message in call.messages:
        content = message.get("content")
        if isinstance(content, str):
            size += len(content) if content.isascii() else len(content.encode())
        elif isinstance(content, list):
            size += sum(len(text.encode()) for text in texts(message))
            images += sum(1 for part in content if not (isinstance(part, dict) and isinstance(part.get("text"), str)))
        if not message.keys() <= _PLAIN_KEYS:
            size += len(msgspec.json.encode(_beside_content(message)))
    for field in _BESIDE_MESSAGES:
        if (value := call.body.get(field)) is not None:
            size += len(msgspec.json.encode(value))
    return Size(size, len(call.messages), images)


def _beside_content(message: Message) -> dict[str, Any]:
    return {key: value for key, value in message.items() if key not in _PLAIN_KEYS}


def streamed_tokens(piece: str) -> int:
    """Guess the tokens of one streamed piece: one, unless it is so long that upstream sent several at once."""
    return 1 if len(piece) <= SHORT_PIECE else -(-len(piece.encode()) // 4)


class Estimator:
    """Tokens of a prompt: bytes / 3.5 + 4 a message, the bytes' share corrected by the usage that upstream reports."""

    __slots__ = ("_ratio",)

    LEARN_FROM = 256
    """Bytes below which a prompt teaches nothing: the frame around it weighs more."""
    MODELS = 256

    def __init__(self) -> None:
        self._ratio: dict[str, float] = {}

    def estimate(self, model: str, size: Size) -> int:
        """Return the prompt's tokens for *model*."""
        ratio = self._ratio.get(model, BYTES_PER_TOKEN)
        return -int(-size.bytes // ratio) + MESSAGE_TOKENS * size.messages + IMAGE_TOKENS * size.images

    def learn(self, model: str, size: Size, reported: int) -> None:
        """Correct *model*'s ratio by what upstream *reported* for a prompt of *size*: a moving average, bounded."""
        tokens = reported - MESSAGE_TOKENS * size.messages
        if size.bytes < self.LEARN_FROM or size.images or tokens <= 0:
            return
        known = self._ratio.pop(model, None)
        if known is None and len(self._ratio) >= self.MODELS:
            self._ratio.pop(next(iter(self._ratio)))
        seen = min(8.0, max(1.0, size.bytes / tokens))
        self._ratio[model] = seen * 0.1 + (BYTES_PER_TOKEN if known is None else known) * 0.9
