"""Turn the claims of a call into one reservation in the store, and its usage into one settlement."""

from __future__ import annotations

import math
from collections.abc import Sequence
from operator import itemgetter
from typing import TYPE_CHECKING, TypeAlias

import msgspec

from policies.api.claim import MICRO_DOLLARS_PER_DOLLAR, Claim, counter_key
from policies.api.lease import Ending, ExactCharge, Lease, Outcome
from policies.api.policy import StoreFailure
from policies.api.rejection import Rejection
from policies.api.store import Grant, StoreDown
from policies.api.window import Calendar, Sliding

from .error_report import error_report
from .rounding import Rounding
from .settlement_queue import Settlement, SettlementQueue

if TYPE_CHECKING:
    from policies.api.call import Call
    from policies.api.services import Services
    from policies.api.usage import Usage

MAX_SENSIBLE_WAIT = 60.0
"""Seconds up to which waiting for a rate is worth it; both OpenAI SDKs give up on longer waits, or ignore them."""

_CLAIM_OF_LEASED = itemgetter(0)


LeasedClaim: TypeAlias = tuple[Claim, Lease, StoreFailure]
"""One claim, the lease that charges and refuses it, and what its policy does while the store is down."""


class Reservation(msgspec.Struct, eq=False):
    """What one call has reserved."""

    call: Call
    claims: Sequence[LeasedClaim]
    parts: int = 1
    cost_usd: float | None = None
    """What the call cost in dollars, set by its settlement; None if no claim of it is in dollars."""


class Ledger:
    """Reserves and settles for all chains of a process, with one round trip to the store each."""

    def __init__(self, services: Services) -> None:
        self._services, self._store = services, services.store
        self._settlements, self._rounding = SettlementQueue(services), Rounding()

    @property
    def pending_settlements(self) -> int:
        """How many settlements the store has not taken yet."""
        return len(self._settlements.pending)

    async def reserve(self, hold: Reservation) -> None:
        """Reserve all claims of *hold* in one step, and lower the call's ceiling to what fits.

        Raises `Rejection`: the refusal of a limit, or 503 if the store is down and one of the policies refuses then. A
        reservation that may have reached the store nevertheless is released later.
        """
        call = hold.call
        ceiling = call.max_tokens or 0
        if self._settlements.pending:
            await self._settlements.catch_up()
        claims: list[Claim] = list(map(_CLAIM_OF_LEASED, hold.claims))
        try:
            grant = await self._store.reserve(call.id, claims, ceiling)
        except StoreDown as error:
            if error.taken:
                self._settlements.add(Settlement(call.id, None))
            self._admit_without_store(hold, error)
            return
        call.standings = list(zip(claims, grant.standings, strict=True))
        if grant.refused is not None:
            raise _refusal(hold, grant, grant.refused)
        if ceiling:
            # Set also if nothing was lowered: a client may send several fields, and servers differ in which they obey.
            call.max_tokens = grant.ceiling
            if grant.ceiling < ceiling:
                call.note(
                    f"lowered the answer's ceiling from {ceiling} to {grant.ceiling} tokens, which the limits have left"
                )

    async def top_up(self, hold: Reservation, broken: Usage) -> bool:
        """Reserve what a *broken* attempt has cost, at least the prompt, in addition to what the next one may cost.

        False if there is no room: then there must be no next attempt.
        """
        claims = [
            msgspec.structs.replace(claim, base=max(claim.base, self._charge(hold, lease, claim, broken)), per_token=0)
            for claim, lease, _ in hold.claims
            if claim.unit != "requests"
        ]
        if not claims:
            return True
        try:
            grant = await self._store.reserve(hold.call.id, claims, part=hold.parts)
        except StoreDown:
            return False
        hold.parts += grant.refused is None
        return grant.refused is None

    async def settle(self, hold: Reservation, outcome: Outcome) -> None:
        """Settle *hold*: a call that was refused before its first attempt costs nothing, any other what it used."""
        call, usage = hold.call, outcome.usage
        if not hold.claims:
            return
        if outcome.ending is Ending.REJECTED and not outcome.attempts:
            await self._settlements.send(call.id, None)
            return
        charges: dict[str, int] = {}
        for claim, lease, _ in hold.claims:
            if isinstance(claim.window, Sliding):
                continue  # a sliding window keeps what was reserved
            key = counter_key(claim.policy, claim.identity, claim.unit, claim.window)
            try:
                charge = lease.charge(claim, usage)
                units = self._rounding.whole(call, claim, charge, exact=usage.exact)
                charges[key] = charges.get(key, 0) + units
                if claim.unit == "usd":
                    cost = charge.exact if isinstance(charge, ExactCharge) else charge
                    hold.cost_usd = max(hold.cost_usd or 0.0, float(cost / MICRO_DOLLARS_PER_DOLLAR))
            except Exception as error:  # noqa: BLE001  # of a policy: it must not keep the others from being charged
                # A claim without a charge is charged what was reserved.
                self._services.log.error("policy %r: charge failed: %s", claim.policy, error_report(error))  # noqa: TRY400
        await self._settlements.send(call.id, charges, refund=usage.exact)

    def _charge(self, hold: Reservation, lease: Lease, claim: Claim, usage: Usage) -> int:
        """Return what *usage* costs, or what was reserved for it where `charge` fails."""
        try:
            return math.ceil(lease.charge(claim, usage))
        except Exception as error:  # noqa: BLE001  # of a policy
            self._services.log.error("policy %r: charge failed: %s", claim.policy, error_report(error))  # noqa: TRY400
            return claim.needs(hold.call.max_tokens or 0)

    async def catch_up(self) -> None:
        """Send settlements that the store could not take. Called by a timer, and before a reservation would count them as held."""
        await self._settlements.catch_up()

    def _admit_without_store(self, hold: Reservation, error: StoreDown) -> None:
        refusing = any(when_store_fails == "refuse" for _, _, when_store_fails in hold.claims)
        self._services.state_changed("store", "down", str(error))
        if refusing:
            msg = "The limits cannot be checked just now. Please try again in a moment."
            raise Rejection(503, "store_unavailable", msg, retry_after=1.0) from error
        hold.claims = ()


def _refusal(hold: Reservation, grant: Grant, index: int) -> Rejection:
    claim, lease, _ = hold.claims[index]
    standing = grant.standings[index]
    rejection = lease.refusal(claim, standing)
    wait = max(0.0, standing.resets_at - grant.now)
    rejection.retry_after = wait
    rejection.final = rejection.final if isinstance(claim.window, Calendar) else wait > MAX_SENSIBLE_WAIT
    rejection.details = {
        "policy": claim.policy,
        "limit": _in_units(claim, claim.limit),
        "used": _in_units(claim, standing.used),
        "resets_at": math.ceil(standing.resets_at),
        **rejection.details,
    }
    return rejection


def _in_units(claim: Claim, amount: int) -> float:
    return amount / MICRO_DOLLARS_PER_DOLLAR if claim.unit == "usd" else amount
