"""Estimate tokens from lengths alone: running a tokenizer would block the event loop (BerriAI/litellm#36429)."""

from __future__ import annotations

import msgspec

BYTES_PER_TOKEN = 3.5
MESSAGE_TOKENS = 4
BOUND_MESSAGE_TOKENS = 8
PART_TOKENS = 2
"""Tokens that a chat template may add between the parts of one message."""
MEDIA_TOKENS = 1_600
SHORT_PIECE = 12
"""Bytes up to which a streamed piece counts as one token; longer tokens are rare in every vocabulary."""
MAX_TOKEN_CHARACTERS = 128
"""Longest token of the common vocabularies, a run of one character (cl100k, o200k)."""
MAX_TOKEN_EXTRA_BYTES = 32
"""Most bytes beyond one per character in one token: 16 characters of Chinese, 32 of Cyrillic, 10 emojis."""
MAX_SPLIT_CHARACTERS = 65_536
"""Characters of one text whose words are counted; a longer text is bounded by its size from there on."""


class Size(msgspec.Struct, frozen=True):
    """The size of a prompt: UTF-8 bytes that a model reads, messages, parts beyond the first of each message, media.

    `files` are the bytes of files, which are not in `bytes`: how much of them a model reads is not known.
    """

    bytes: int
    messages: int
    parts: int = 0
    media: int = 0
    files: int = 0

    def bound(self, media: int = MEDIA_TOKENS) -> int:
        """Return an upper bound for every tokenizer: one token per byte, and 8 per message for its frame.

        An image counts as *media*, because servers do not publish its cost.
        """
        frames = BOUND_MESSAGE_TOKENS * self.messages + PART_TOKENS * self.parts
        return self.bytes + self.files + frames + media * self.media


def streamed_tokens(piece: str, *, whole: bool = False) -> int:
    """Estimate the tokens of one streamed piece: one, unless it is so long that upstream sent several at once.

    A *whole* answer never counts as one token.
    """
    size = len(piece) if piece.isascii() else len(piece.encode())
    return -(-size // 4) if whole or size > SHORT_PIECE else 1


def least_tokens(text: str, *, whole: bool = False) -> int:
    """Return the fewest tokens that *text* can be, a piece of a stream or a *whole* answer; 0 for a short piece.

    Each word is at least one token: tokenizers split at white space before they merge (GPT, Llama, Qwen, Gemma). The first
    word of a piece may be the end of a token that began in the piece before.
    """
    size = len(text)
    if not whole and size <= SHORT_PIECE:
        return 0
    words = len(text[:MAX_SPLIT_CHARACTERS].split())
    extra = 0 if text.isascii() else len(text.encode("utf-8", "replace")) - size
    return max(words if whole else words - 1, size // MAX_TOKEN_CHARACTERS, extra // MAX_TOKEN_EXTRA_BYTES)


class Estimator:
    """Estimates a prompt's tokens: bytes / 3.5 + 4 per message. The ratio is corrected by the usage that upstream reports."""

    __slots__ = ("_ratio",)

    MIN_LEARNT_BYTES = 256
    """Smaller prompts (in bytes) are not learnt from: the frame around them dominates."""
    MAX_MODELS = 256

    def __init__(self) -> None:
        self._ratio: dict[str, float] = {}

    def estimate(self, model: str, size: Size, media: int = MEDIA_TOKENS) -> int:
        """Return the prompt's tokens for *model*; each part that is not text counts as *media*."""
        ratio = self._ratio.get(model, BYTES_PER_TOKEN)
        frames = MESSAGE_TOKENS * size.messages + PART_TOKENS * size.parts
        return -int(-size.bytes // ratio) + frames + media * size.media

    def learn(self, model: str, size: Size, reported: int) -> None:
        """Correct *model*'s ratio by what upstream *reported* for a prompt of *size*: a moving average, bounded."""
        tokens = reported - MESSAGE_TOKENS * size.messages - PART_TOKENS * size.parts
        if size.bytes < self.MIN_LEARNT_BYTES or size.media or tokens <= 0:
            return
        known = self._ratio.pop(model, None)
        if known is None and len(self._ratio) >= self.MAX_MODELS:
            self._ratio.pop(next(iter(self._ratio)))
        seen = min(8.0, max(1.0, size.bytes / tokens))
        self._ratio[model] = seen * 0.1 + (BYTES_PER_TOKEN if known is None else known) * 0.9
