"""Between the chain and the store: the claims of a call become one reservation, and its usage one settlement."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec

from .base import Ending, Hooks, Outcome, Rejection, StoreFailure
from .store import Claim, Grant, StoreDown
from .window import Calendar

if TYPE_CHECKING:
    from .call import Call
    from .process import Process

SOON = 60.0
"""Seconds within which a rate's refusal is worth waiting for; both OpenAI SDKs give up on, or hammer, longer waits."""
UNSETTLED = 10_000


class Hold(msgspec.Struct, eq=False):
    """What one call has reserved, and by whose rules each claim of it is charged."""

    call: Call
    claims: Sequence[tuple[Hooks, Claim]]
    parts: int = 1


class _Late(msgspec.Struct, frozen=True):
    call_id: str
    charges: dict[str, int] | None
    refund: bool


class Ledger:
    """Reserves and settles for all chains of a process.

    A settlement that the store could not take is kept (the newest 10,000) and sent again with later ones: settling is
    idempotent.  Until then the hold counts as spent.  A reservation that may or may not have reached the store is released
    in the same way.
    """

    def __init__(self, process: Process) -> None:
        self._process, self._store = process, process.store
        self._late: deque[_Late] = deque(maxlen=UNSETTLED)

    async def reserve(self, hold: Hold) -> None:
        """Take all claims of *hold* in one step and lower the call's ceiling to what fits.

        Raises `Rejection`: a limit's own, or 503 where the store is down and one of the policies refuses then.
        """
        call = hold.call
        ceiling = call.max_tokens or 0
        if self._late:
            await self.catch_up()
        try:
            grant = await self._store.reserve(call.id, [claim for _, claim in hold.claims], ceiling)
        except StoreDown as error:
            self._late.append(_Late(call.id, None, refund=True))
            self._admit_without_store(hold, error)
            return
        call.standings = list(zip((claim for _, claim in hold.claims), grant.standings, strict=True))
        if grant.refused is not None:
            raise _refusal(hold, grant, grant.refused)
        if grant.ceiling < ceiling:
            call.max_tokens = grant.ceiling

    async def top_up(self, hold: Hold) -> bool:
        """Hold the prompt once more, for an attempt after one that may have cost it; False where there is no room."""
        claims = [msgspec.structs.replace(claim, each=0) for _, claim in hold.claims if claim.each]
        if not claims:
            return True
        try:
            grant = await self._store.reserve(hold.call.id, claims, part=hold.parts)
        except StoreDown:
            return False
        hold.parts += grant.refused is None
        return grant.refused is None

    async def settle(self, hold: Hold, outcome: Outcome) -> None:
        """End *hold*: a call that was refused before its first attempt costs nothing, any other what it used."""
        call, usage = hold.call, outcome.usage
        if not hold.claims:
            return
        if outcome.ending is Ending.REJECTED and not outcome.attempts:
            await self._send(_Late(call.id, None, refund=True))
            return
        charges: dict[str, int] = {}
        for hooks, claim in hold.claims:
            try:
                charges[claim.key] = hooks.charge(claim, usage)
            except Exception:
                # What is not in the charges is charged as it was held.
                self._process.log.exception("%r cannot say what the call cost", claim.policy)
        await self._send(_Late(call.id, charges, usage.exact))

    async def _send(self, settlement: _Late) -> None:
        self._late.append(settlement)
        await self.catch_up()

    async def catch_up(self) -> None:
        """Send what is not settled yet, oldest first.  With each settlement, and on the program's timer."""
        while self._late:
            oldest = self._late[0]
            try:
                if oldest.charges is None:
                    await self._store.release(oldest.call_id)
                else:
                    await self._store.settle(oldest.call_id, oldest.charges, refund=oldest.refund)
            except StoreDown as error:
                self._process.log.warning("not settled yet, will be sent again: %s", error)
                return
            if self._late and self._late[0] is oldest:
                self._late.popleft()

    def _admit_without_store(self, hold: Hold, error: StoreDown) -> None:
        refusing = [hooks for hooks, _ in hold.claims if _when_store_fails(hooks) == "refuse"]
        self._process.log.warning("store is down, call %s: %s", "refused" if refusing else "admitted", error)
        if refusing:
            msg = "The limits cannot be checked just now. Please try again in a moment."
            raise Rejection(503, "store_unavailable", msg, retry_after=1.0) from error
        hold.claims = ()


def _when_store_fails(hooks: Hooks) -> StoreFailure:
    said: StoreFailure = getattr(hooks, "when_store_fails", "refuse")
    return said


def _refusal(hold: Hold, grant: Grant, index: int) -> Rejection:
    hooks, claim = hold.claims[index]
    standing = grant.standings[index]
    rejection = hooks.refusal(hold.call, claim)
    wait = max(0.0, standing.resets_at - grant.now)
    rejection.retry_after = wait
    rejection.final = rejection.final if isinstance(claim.window, Calendar) else wait > SOON
    rejection.details = {
        "policy": claim.policy,
        "limit": claim.limit,
        "used": standing.used,
        "resets_at": math.ceil(standing.resets_at),
        **rejection.details,
    }
    return rejection
