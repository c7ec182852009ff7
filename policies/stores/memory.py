"""Counts in this process's memory: for tests, trials, and one worker whose restart may forget."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import msgspec

from policies.store import Account, Claim, Grant, Standing, account
from policies.window import Sliding, Spans

from .fit import LARGEST, fit, shares

TIDY = 60.0
"""Seconds between two looks at counters that nobody uses any more."""


class _Counter(msgspec.Struct, eq=False):
    end: float
    spent: int = 0
    held: int = 0


class _Taking(msgspec.Struct, eq=False):
    first: float
    last: float
    amount: int


class _Slide(msgspec.Struct, eq=False):
    seconds: float = 0.0
    total: int = 0
    newest: float = 0.0
    takings: deque[_Taking] = msgspec.field(default_factory=deque)

    def forget(self, now: float, seconds: float) -> None:
        self.seconds = seconds
        while self.takings and self.takings[0].last <= now - seconds:
            self.total -= self.takings.popleft().amount


_Took: TypeAlias = "tuple[str, _Counter | _Slide, int, _Taking | None]"


class MemoryStore:
    """See `policies.store.Store`.  Nothing in it waits, so each step is atomic; it is never down."""

    def __init__(self, *, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._counters: dict[tuple[str, float], _Counter] = {}
        self._slides: dict[str, _Slide] = {}
        self._holds: dict[str, dict[int, tuple[int, list[_Took]]]] = {}
        self._spans = Spans()
        self._tidied = clock()

    async def reserve(self, call_id: str, claims: Sequence[Claim], ceiling: int = 0, part: int = 0) -> Grant:
        """See `Store.reserve`."""
        now = self._clock()
        self._tidy(now)
        known = self._holds.get(call_id, {}).get(part)
        if known is not None:
            return Grant(known[0], [self._standing(claim, now) for claim in claims], now)
        fits = fit(claims, [self._used(claim, now) for claim in claims], ceiling)
        if fits.refused is not None:
            wanted = claims[fits.refused].base
            standings = [self._standing(x, now, wanted if at == fits.refused else 0) for at, x in enumerate(claims)]
            return Grant(ceiling, standings, now, fits.refused)
        took = [self._take(claim, claim.base + claim.each * fits.ceiling, now) for claim in claims]
        self._holds.setdefault(call_id, {})[part] = (fits.ceiling, took)
        return Grant(fits.ceiling, [self._standing(claim, now) for claim in claims], now)

    def _used(self, claim: Claim, now: float) -> int:
        window = claim.window
        if isinstance(window, Sliding):
            slide = self._slides.get(claim.key)
            if slide is None:
                return 0
            slide.forget(max(now, slide.newest), window.seconds)
            return slide.total
        counter = self._counters.get((claim.key, self._spans.at(window, now)[0]))
        return 0 if counter is None else counter.spent + counter.held

    def _take(self, claim: Claim, amount: int, now: float) -> _Took:
        window = claim.window
        if isinstance(window, Sliding):
            slide = self._slides.setdefault(claim.key, _Slide(window.seconds))
            now = slide.newest = max(now, slide.newest)
            slide.total += amount
            youngest = slide.takings[-1] if slide.takings else None
            if youngest is None or now - youngest.first >= window.grain(claim.limit):
                youngest = _Taking(now, now, 0)
                slide.takings.append(youngest)
            youngest.last = now
            youngest.amount += amount
            return claim.key, slide, amount, youngest
        start, end = self._spans.at(window, now)
        counter = self._counters.setdefault((claim.key, start), _Counter(end))
        counter.held += amount
        return claim.key, counter, amount, None

    def _standing(self, claim: Claim, now: float, wanted: int = 0) -> Standing:
        used, window = self._used(claim, now), claim.window
        if not isinstance(window, Sliding):
            return Standing(claim.limit, used, self._spans.at(window, now)[1])
        slide = self._slides.get(claim.key)
        if slide is None or not slide.takings:
            return Standing(claim.limit, used, now)
        freed, resets_at = 0, now
        for taking in slide.takings:
            freed, resets_at = freed + taking.amount, taking.last + window.seconds
            if used - freed + wanted <= claim.limit:
                break
        return Standing(claim.limit, used, resets_at)

    async def settle(self, call_id: str, charges: Mapping[str, int], *, refund: bool = True) -> None:
        """See `Store.settle`."""
        parts = sorted(self._holds.pop(call_id, {}).items())
        took = [
            (key, counter, amount)
            for _, (_, taken) in parts
            for key, counter, amount, _ in taken
            if isinstance(counter, _Counter)
        ]
        for _, counter, amount, share in shares(took, charges, refund=refund):
            counter.held -= amount
            counter.spent = min(counter.spent + share, LARGEST)

    async def release(self, call_id: str) -> None:
        """See `Store.release`."""
        for _, took in self._holds.pop(call_id, {}).values():
            for _, counter, amount, taking in took:
                if isinstance(counter, _Counter):
                    counter.held -= amount
                elif taking is not None and any(taking is each for each in counter.takings):
                    taking.amount -= amount
                    counter.total -= amount
                    if not taking.amount:
                        counter.takings.remove(taking)

    async def accounts(self) -> Sequence[Account]:
        """See `Store.accounts`."""
        now = self._clock()
        return [
            account(key, counter.spent, counter.held, counter.end)
            for (key, start), counter in self._counters.items()
            if start <= now < counter.end
        ]

    def _tidy(self, now: float) -> None:
        if now - self._tidied < TIDY:
            return
        self._tidied = now
        self._counters = {key: x for key, x in self._counters.items() if x.end > now or x.held}
        self._slides = {key: x for key, x in self._slides.items() if x.newest + x.seconds > now}

    async def beat(self) -> None:
        """See `Store.beat`: who reads this memory, lives."""

    async def ping(self) -> None:
        """See `Store.ping`."""

    async def aclose(self) -> None:
        """See `Store.aclose`."""
