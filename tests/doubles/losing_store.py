"""A store of several processes that can lose its reservations, and charge those of a process that sends no heartbeats."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import msgspec

from policies.api.claim import Claim
from policies.api.store import Account, Grant, ReservationGone, Standing, Store, account
from policies.api.window import Calendar
from policies.stores.counting.arithmetic import charge_for


class Hold(msgspec.Struct, eq=False):
    """A reservation: its process, the ceiling and the amounts of each part, and the parts that are charged already."""

    owner: str
    parts: dict[int, tuple[int, Mapping[str, int]]] = {}
    charged: set[int] = set()


class Counters:
    """What the processes share. Only calendar windows are counted, and they never end."""

    def __init__(self) -> None:
        self.flush()

    def flush(self) -> None:
        """Lose everything, as a server does that is restarted without persistence."""
        self.spent = Counter[str]()
        self.holds: dict[str, Hold] = {}

    def charge(self, owner: str) -> None:
        """Charge the reservations of *owner* in full and keep them, as for a process without heartbeats."""
        for hold in self.holds.values():
            if hold.owner == owner:
                for part in hold.parts.keys() - hold.charged:
                    self.spent.update(hold.parts[part][1])
                    hold.charged.add(part)

    @property
    def held(self) -> Counter[str]:
        """What is reserved and not charged, by counter."""
        found = Counter[str]()
        for hold in self.holds.values():
            for part in hold.parts.keys() - hold.charged:
                found.update(hold.parts[part][1])
        return found

    @property
    def totals(self) -> tuple[int, int]:
        """What is spent and reserved in all counters together."""
        return self.spent.total(), self.held.total()


class LosingStore(Store):
    """The store as one process sees it. `steps` are its operations."""

    def __init__(self, counters: Counters | None = None, owner: str = "a") -> None:
        self.counters, self._owner = counters or Counters(), owner
        self.steps: list[str] = []

    @property
    def is_remote(self) -> bool:
        return True

    async def reserve(self, call_id: str, claims: Sequence[Claim], ceiling: int = 0, part: int = 0) -> Grant:
        self.steps.append(f"reserve {call_id} {part}")
        counters = self.counters
        if part and call_id not in counters.holds:
            raise ReservationGone(call_id)
        hold = counters.holds.get(call_id) or Hold(self._owner)
        standings = [Standing(claim.limit, self._used(claim), 0.0, counters.held[claim.key]) for claim in claims]
        if part in hold.parts:
            return Grant(hold.parts[part][0], standings, 0.0)
        calendar = [claim for claim in claims if isinstance(claim.window, Calendar)]
        for at, claim in enumerate(calendar):
            while self._used(claim) + claim.needs(ceiling) > claim.limit:
                if ceiling <= claim.floor:
                    return Grant(ceiling, standings, 0.0, at)
                ceiling -= 1
        counters.holds[call_id] = hold
        hold.parts[part] = ceiling, {claim.key: claim.needs(ceiling) for claim in calendar}
        return Grant(ceiling, standings, 0.0)

    def _used(self, claim: Claim) -> int:
        return self.counters.spent[claim.key] + self.counters.held[claim.key]

    async def settle(self, call_id: str, charges: Mapping[str, int], *, refund: bool = True) -> bool:
        self.steps.append(f"settle {call_id}")
        return self._end(call_id, charges, refund=refund)

    async def release(self, call_id: str) -> None:
        self.steps.append(f"release {call_id}")
        hold = self.counters.holds.get(call_id, Hold(""))
        self._end(call_id, {key: 0 for _, amounts in hold.parts.values() for key in amounts}, refund=True)

    def _end(self, call_id: str, charges: Mapping[str, int], *, refund: bool) -> bool:
        hold = self.counters.holds.pop(call_id, None)
        if hold is None:
            return False
        reserved, charged = Counter[str](), Counter[str]()
        for part, (_, amounts) in hold.parts.items():
            reserved.update(amounts)
            charged.update(amounts if part in hold.charged else {})
        for key, amount in reserved.items():
            self.counters.spent[key] += charge_for(key, amount, charges, refund=refund) - charged[key]
        return True

    async def accounts(self) -> Sequence[Account]:
        keys = self.counters.spent | self.counters.held
        return [account(key, self.counters.spent[key], self.counters.held[key], 0.0) for key in keys]

    async def standings(self, claims: Sequence[Claim]) -> Sequence[Standing]:
        return [Standing(claim.limit, self._used(claim), 0.0, self.counters.held[claim.key]) for claim in claims]

    async def heartbeat(self) -> None:
        """Do nothing: the test charges reservations by `Counters.charge`."""

    async def ping(self) -> None:
        """Do nothing."""

    async def aclose(self) -> None:
        """Do nothing."""
