"""The one token estimate.  Cheap, from lengths alone: a tokenizer run would block the loop (BerriAI/litellm#36429)."""

from __future__ import annotations

import msgspec

BYTES_PER_TOKEN = 3.5
MESSAGE_TOKENS = 4
BOUND_MESSAGE_TOKENS = 8
PART_TOKENS = 2
"""What a template may put between the parts of one message."""
MEDIA_TOKENS = 1_600
SHORT_PIECE = 12
"""Bytes up to which a streamed piece is taken for one token; hardly any vocabulary has longer ones in use."""


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
