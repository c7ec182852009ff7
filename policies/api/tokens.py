"""Estimate tokens from lengths alone: running a tokenizer would block the event loop (BerriAI/litellm#36429)."""

from __future__ import annotations

import time
from collections.abc import Callable

import msgspec

from .decoding.token_counts import MEDIA_TOKENS

BYTES_PER_TOKEN = 3.5
MESSAGE_TOKENS = 4
BOUND_MESSAGE_TOKENS = 8
PART_TOKENS = 2
"""Tokens that a chat template may add between the parts of one message."""
REMEMBER_SECONDS = 3_600.0
"""Seconds after the last report for which a correction of estimates holds."""


class Size(msgspec.Struct, frozen=True):
    """The size of a prompt: UTF-8 bytes that a model reads, messages, parts beyond the first of each message, media.

    `files` are the bytes of files, which are not in `bytes`: how much of them a model reads is not known. `token_ids` are
    tokens that the client counted: it sent their ids.
    """

    bytes: int
    messages: int
    parts: int = 0
    media: int = 0
    files: int = 0
    token_ids: int = 0


def _valid_ratio(learnt: tuple[float, float], now: float) -> float:
    """Return the bytes per token that were *learnt*, unless too long ago."""
    return BYTES_PER_TOKEN if learnt[1] < now - REMEMBER_SECONDS else learnt[0]


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
        frames = MESSAGE_TOKENS * size.messages + PART_TOKENS * size.parts + size.token_ids
        own = self._learnt.get(tenant)
        known = None if own is None else own.get(model)
        ratio = BYTES_PER_TOKEN if known is None else _valid_ratio(known, self._clock())
        return -int(-size.bytes // ratio) + frames + media * size.media

    def learn(self, model: str, size: Size, reported: int, *, tenant: str = "") -> None:
        """Correct the ratio of *tenant* and *model* by what upstream *reported* for a prompt of *size*.

        It is a moving average, bounded.
        """
        tokens = reported - MESSAGE_TOKENS * size.messages - PART_TOKENS * size.parts - size.token_ids
        if size.bytes < self.MIN_LEARNT_BYTES or size.media or tokens <= 0 or len(model) > self.MAX_NAME_CHARACTERS:
            return
        now, own = self._clock(), self._learnt.get(tenant)
        known = None if own is None else own.pop(model, None)
        if own is None or known is None:
            if self._count >= self.MAX_PAIRS:
                self._drop_oldest(tenant)
            self._count += 1
            own = self._learnt.setdefault(tenant, {})
        before = BYTES_PER_TOKEN if known is None else _valid_ratio(known, now)
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
