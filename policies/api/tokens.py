"""Estimate tokens from lengths alone: running a tokenizer would block the event loop (BerriAI/litellm#36429)."""

from __future__ import annotations

import time
from collections.abc import Callable

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
MAX_SHORT_WORD = 64
"""Characters from which on ASCII without a space is data (base64, a URL), not text."""
DATA_BYTES_PER_TOKEN = 16
REMEMBER_SECONDS = 3_600.0
"""Seconds after the last report for which a correction of estimates holds."""
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


class Size(msgspec.Struct, frozen=True):
    """The size of a prompt: UTF-8 bytes that a model reads, messages, parts beyond the first of each message, media.

    `files` are the bytes of files, which are not in `bytes`: how much of them a model reads is not known.
    """

    bytes: int
    messages: int
    parts: int = 0
    media: int = 0
    files: int = 0


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


def _valid_ratio(learnt: tuple[float, float] | None, now: float) -> float:
    """Return the bytes per token that were *learnt*, unless too long ago."""
    return BYTES_PER_TOKEN if learnt is None or learnt[1] < now - REMEMBER_SECONDS else learnt[0]


class Estimator:
    """Estimates a prompt's tokens: bytes / 3.5 + 4 per message. The ratio is corrected by the usage upstream reports.

    Calls of a tenant correct the estimates of that tenant alone, so that a tenant cannot change those of another. A
    correction is bounded: to half of the shipped estimate, and to one token per byte, which no tokenizer exceeds. It is
    forgotten an hour after the last report, so that wrong reports do not make prompts unaffordable forever. *clock* is
    monotonic, in seconds.
    """

    __slots__ = ("_clock", "_count", "_learnt")

    MIN_LEARNT_BYTES = 256
    """Smaller prompts (in bytes) are not learnt from: the frame around them dominates."""
    MAX_PAIRS = 4_096
    """Pairs of tenant and model that are remembered. A new one replaces the oldest of the tenant that has the most."""
    MAX_NAME_CHARACTERS = 256
    """Longest name of a model that is remembered: clients choose it."""
    MAX_BYTES_PER_TOKEN = 2 * BYTES_PER_TOKEN
    """Bound of the ratio: an estimate is corrected to half at the least."""
    MIN_BYTES_PER_TOKEN = 1.0
    """Bound of the ratio: an estimate is corrected to 3.5 times at the most."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._count = clock, 0
        self._learnt: dict[str, dict[str, tuple[float, float]]] = {}
        """For each tenant and model, the one learnt longest ago first: bytes per token, and when that was learnt."""

    def estimate(self, model: str, size: Size, media: int = MEDIA_TOKENS, *, tenant: str = "") -> int:
        """Return the prompt's tokens for *model*; each part that is not text counts as *media*."""
        frames = MESSAGE_TOKENS * size.messages + PART_TOKENS * size.parts
        own = self._learnt.get(tenant)
        known = None if own is None else own.get(model)
        ratio = _valid_ratio(known, self._clock())
        return -int(-size.bytes // ratio) + frames + media * size.media

    def learn(self, model: str, size: Size, reported: int, *, tenant: str = "") -> None:
        """Correct the ratio of *tenant* and *model* by what upstream *reported* for a prompt of *size*.

        It is a moving average, bounded.
        """
        tokens = reported - MESSAGE_TOKENS * size.messages - PART_TOKENS * size.parts
        if size.bytes < self.MIN_LEARNT_BYTES or size.media or tokens <= 0 or len(model) > self.MAX_NAME_CHARACTERS:
            return
        now, own = self._clock(), self._learnt.get(tenant)
        known = None if own is None else own.pop(model, None)
        if own is None or known is None:
            if self._count >= self.MAX_PAIRS:
                self._drop_oldest(tenant)
            self._count += 1
            own = self._learnt.setdefault(tenant, {})
        before = _valid_ratio(known, now)
        seen = min(self.MAX_BYTES_PER_TOKEN, max(self.MIN_BYTES_PER_TOKEN, size.bytes / tokens))
        own[model] = seen * 0.1 + before * 0.9, now

    def _drop_oldest(self, tenant: str) -> None:
        """Drop the oldest pair of the tenant that has the most: of *tenant* itself if it has its share already."""
        own = self._learnt.get(tenant, {})
        if len(own) * len(self._learnt) < self.MAX_PAIRS:
            tenant = max(self._learnt, key=lambda each: len(self._learnt[each]))
            own = self._learnt[tenant]
        del own[next(iter(own))]
        self._count -= 1
        if not own:
            del self._learnt[tenant]
