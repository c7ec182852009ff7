"""The fewest tokens that output can be, by any tokenizer: the bound below which a report of usage is false."""

from __future__ import annotations

from typing import TYPE_CHECKING

from policies.api.tokens import SHORT_PIECE

if TYPE_CHECKING:
    from .chunk import Choice

MAX_TOKEN_CHARACTERS = 128
"""Longest token of the common vocabularies, a run of one character (cl100k, o200k)."""
MAX_TOKEN_EXTRA_BYTES = 32
"""Most bytes beyond one per character in one token: 16 characters of Chinese, 32 of Cyrillic, 10 emojis."""
MAX_SPLIT_CHARACTERS = 65_536
"""Characters of one text whose words are counted; a longer text is bounded by its size from there on."""


def least_tokens(choice: Choice) -> int:
    """Return the fewest tokens that the output of *choice* can be, at least 1: for a choice that has output.

    A piece of a stream is at least one token, and so is each word: tokenizers split at white space before they
    merge (GPT, Llama, Qwen, Gemma). The first word of a piece may be the end of a token that began in the piece before.
    """
    part, whole = choice.delta, False
    if part is None:
        part, whole = choice.message, True
    if part is None:
        return 1
    texts = [part.content, part.refusal, part.reasoning]
    if part.reasoning_content != part.reasoning:
        texts.append(part.reasoning_content)
    return max(1, sum(_least_of(text, whole=whole) for text in texts if text))


def _least_of(text: str, *, whole: bool) -> int:
    if not whole and len(text) <= SHORT_PIECE:
        return 0
    size = len(text)
    words = len(text[:MAX_SPLIT_CHARACTERS].split()) + max(0, size - MAX_SPLIT_CHARACTERS) // MAX_TOKEN_CHARACTERS
    extra = 0 if text.isascii() else len(text.encode("utf-8", "replace")) - size
    return max(words if whole else words - 1, size // MAX_TOKEN_CHARACTERS, extra // MAX_TOKEN_EXTRA_BYTES)
