"""Estimate the output tokens of text and of decoded JSON from lengths alone."""

from __future__ import annotations

MEDIA_TOKENS = 1_600
SHORT_PIECE = 12
"""Bytes up to which a streamed piece counts as one token; longer tokens are rare in every vocabulary."""
MAX_TOKEN_CHARACTERS = 128
"""Longest token of the common vocabularies, a run of one character (cl100k, o200k)."""
MAX_TOKEN_EXTRA_BYTES = 32
"""Most bytes beyond one per character in one token: 16 characters of Chinese, 32 of Cyrillic, 10 emojis."""
MAX_SPLIT_CHARACTERS = 65_536
"""Characters of one text whose words are counted; a longer text is bounded by its size from there on."""
MAX_SHORT_WORD = 64
"""Characters from which on ASCII without a space is data (base64, a URL), not text."""
DATA_BYTES_PER_TOKEN = 16
LABEL_FIELDS = frozenset(
    {
        "role",
        "name",
        "id",
        "type",
        "object",
        "model",
        "index",
        "channel",
        "recipient",
        "phase",
        "status",
        "format",
        "mime_type",
        "created",
        "timestamp",
    }
)
"""Fields that describe a piece of an answer and contain no output.

Servers send them beside the role, before any output: `name` (MiniMax), `channel` (gpt-oss), `token_id`.
"""
LABEL_ENDINGS = ("_id", "_type", "_reason", "_at", "_index")
"""Endings of further such fields."""
REASONING_MARKS = ("reason", "think", "thought")
"""A field or a type of part with one of these in its name holds reasoning."""


def streamed_tokens(piece: str, *, whole: bool = False) -> int:
    """Estimate the tokens of one streamed piece: one, unless it is so long that upstream sent several at once.

    A *whole* answer never counts as one token.
    """
    size = len(piece) if piece.isascii() else len(piece.encode())
    return -(-size // 4) if whole or size > SHORT_PIECE else 1


def least_tokens(text: str, *, whole: bool = False) -> int:
    """Return the fewest tokens that *text* can be, a piece of a stream or a *whole* answer; 0 for a short piece.

    Each word is at least one token: tokenizers split at white space before they merge (GPT, Llama, Qwen, Gemma). The
    first word of a piece may be the end of a token that began in the previous piece.
    """
    size = len(text)
    if not whole and size <= SHORT_PIECE:
        return 0
    words = len(text[:MAX_SPLIT_CHARACTERS].split())
    extra = 0 if text.isascii() else len(text.encode("utf-8", "replace")) - size
    return max(words if whole else words - 1, size // MAX_TOKEN_CHARACTERS, extra // MAX_TOKEN_EXTRA_BYTES)


def is_label(field: str) -> bool:
    """Whether *field* describes a piece of an answer and contains no output."""
    return field in LABEL_FIELDS or field.endswith(LABEL_ENDINGS)


def names_reasoning(name: object) -> bool:
    """Whether *name*, of a field or of a type of part, stands for reasoning."""
    return isinstance(name, str) and any(mark in name.lower() for mark in REASONING_MARKS)


def value_tokens(value: object, *, whole: bool = False, reasoning: bool = True) -> int:
    """Estimate the tokens of decoded JSON whose meaning is unknown; 0 if it holds nothing.

    Text counts as in `streamed_tokens`.  Data (base64, URLs) counts one token for 16 bytes, at most as one image.
    Numbers count one token each, at most as one image together.  Labels, zeros and booleans count nothing.
    *reasoning*: count it too.
    Time is linear in the size of *value*.
    """
    tokens = numbers = 0
    waiting = [value]
    while waiting:
        each = waiting.pop()
        if isinstance(each, str):
            tokens += _string_tokens(each, whole=whole)
        elif isinstance(each, list):
            waiting += each
        elif isinstance(each, dict):
            if reasoning or not names_reasoning(each.get("type")):
                waiting += [
                    inner
                    for key, inner in each.items()
                    if not is_label(key) and (reasoning or not names_reasoning(key))
                ]
        elif each and not isinstance(each, bool):
            numbers += 1
    return tokens + min(numbers, MEDIA_TOKENS)


def _string_tokens(text: str, *, whole: bool) -> int:
    if not text:
        return 0
    if len(text) > MAX_SHORT_WORD and text.isascii() and " " not in text:
        return min(-(-len(text) // DATA_BYTES_PER_TOKEN), MEDIA_TOKENS)
    return streamed_tokens(text, whole=whole)
