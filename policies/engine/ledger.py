"""Turn the claims of a call into one reservation in the store, and its usage into one settlement."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec

from policies.api.claim import MICRO_DOLLARS_PER_DOLLAR, Claim, counter_key
from policies.api.lease import Ending, ExactCharge, Lease, Outcome
from policies.api.rejection import Rejection
from policies.api.store import Grant, ReservationGone, StoreDown
from policies.api.window import Sliding
from policies.engine.reservations.refusals import CallDurations, refusal_of
from policies.engine.reservations.reservation import Reservation, claims_of_leased
from policies.engine.reservations.rounding import Rounding
from policies.engine.reservations.settlement_queue import Settlement, SettlementQueue

from .error_report import error_report

if TYPE_CHECKING:
    from policies.api.services import Services
    from policies.api.usage import Usage

AGAIN_TEXT = "the store had lost its reservation; reserved again"


class Ledger:
    """Reserves and settles for all chains of a process, with one round trip to the store each."""

    def __init__(self, services: Services) -> None:
        self._services, self._store = services, services.store
        self._settlements, self._rounding = SettlementQueue(services), Rounding()
        self.durations = CallDurations(services.random)
        """How long calls hold what they have reserved, for the wait of a call that has no room meanwhile."""

    @property
    def pending_settlements(self) -> int:
        """How many settlements the store has not taken yet."""
        return len(self._settlements)

    async def reserve(self, hold: Reservation) -> None:
        """Reserve all claims of *hold* in one step, and lower the call's ceiling to what fits.

        Raises `Rejection`: the refusal of a limit, or 503 if the store is down and one of the policies refuses then. A
        reservation that may have reached the store nevertheless is released later.
        """
        call = hold.call
        claims: list[Claim] = claims_of_leased(hold.claims)
        ceiling = call.max_tokens or 0
        expected = ceiling or expected_answer(claims)
        if self._settlements.pending or self._settlements.sending:
            await self._settlements.delay_call()
        try:
            grant = await self._store.reserve(call.id, claims, expected)
        except StoreDown as error:
            if error.taken:
                self._settlements.add(Settlement(call.id, None))
            self._admit_without_store(hold, error)
            return
        except BaseException:
            hold.may_be_missing = True
            raise
        call.standings = list(zip(claims, grant.standings, strict=True))
        if grant.refused is not None:
            claim, lease, _ = hold.claims[grant.refused]
            raise refusal_of(claim, lease, grant, self.durations)
        hold.ceiling = grant.ceiling
        if ceiling:
            # Set also if nothing was lowered: a client may send several fields, and servers differ in which they obey.
            call.max_tokens = grant.ceiling
            if grant.ceiling < ceiling:
                call.note(
                    f"lowered the answer's ceiling from {ceiling} to {grant.ceiling} tokens, which the limits have left"
                )
        elif expected and call.stream:
            hold.step = expected
        elif grant.ceiling < expected:
            call.max_tokens, call.ceiling_may_be_dropped = grant.ceiling, True
            call.note(f"set the answer's ceiling to {grant.ceiling} tokens, which the limits have left")

    async def grow(self, hold: Reservation) -> Rejection | int:
        """Reserve up to `hold.step` more output tokens, over all answers together; return how many, or the refusal.

        They are reserved from all limits that depend on the answer's length, in the windows of the first reservation. A
        repeated call after an error reserves nothing twice. Raises `StoreDown`.
        """
        many = hold.call.choices_generated
        growing = [
            (msgspec.structs.replace(claim, base=0, per_token=-(-claim.per_token // many)), lease, when_store_fails)
            for claim, lease, when_store_fails in hold.claims
            if claim.per_token
        ]
        claims = claims_of_leased(growing)
        try:
            grant = await self._reserve_part(hold, claims, hold.step)
        except StoreDown as error:
            if not hold.is_settled:
                self._report_down(error)
            raise
        if grant.refused is not None:
            claim, lease, _ = growing[grant.refused]
            return refusal_of(claim, lease, grant, self.durations, own=hold.amounts.get(claim.key, 0))
        return grant.ceiling

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
            return (await self._reserve_part(hold, claims, 0)).refused is None
        except StoreDown:
            return False

    async def _reserve_part(self, hold: Reservation, claims: Sequence[Claim], ceiling: int) -> Grant:
        """Reserve a further part of *hold*. A reservation that the store has lost is reserved again before, under a new id.

        What it had reserved is debt then: it counts, whether it fits or not, in the windows of now.
        """
        was_lost = False
        while True:
            try:
                if not hold.next_part and (debts := hold.claims_to_register()):
                    hold.registered(debts, await self._store.reserve(hold.store_id, debts))
                grant = await self._store.reserve(hold.store_id, claims, ceiling, hold.next_part)
            except ReservationGone:
                if was_lost or hold.is_settled:
                    raise
                was_lost = True
                hold.mark_as_lost()
            else:
                break
        if grant.refused is None:
            hold.later_parts.append((claims, grant.ceiling))
            hold.next_part += 1
        if was_lost:
            self._settlements.log.add(logging.WARNING, AGAIN_TEXT, hold.call.id)
        return grant

    async def settle(self, hold: Reservation, outcome: Outcome) -> None:
        """Settle *hold*: a call that was refused before its first attempt costs nothing, any other what it used."""
        call, usage = hold.call, outcome.usage
        if not hold.claims:
            return
        hold.is_settled = True
        if not outcome.attempts and outcome.ending is Ending.REJECTED:
            await self._settlements.send(hold, None)
            return
        charges: dict[str, int] = {}
        for claim, lease, _ in hold.claims:
            if isinstance(claim.window, Sliding):
                continue  # a sliding window keeps what was reserved
            key = counter_key(claim.policy, claim.identity, claim.unit, claim.window)
            try:
                charge = lease.charge(claim, usage)
                units = charge
                if type(charge) is not int:
                    units = self._rounding.whole(call, claim, charge, exact=usage.exact)
                charges[key] = charges.get(key, 0) + units
                if claim.unit == "usd":
                    cost = charge.exact if isinstance(charge, ExactCharge) else charge
                    hold.cost_usd = max(hold.cost_usd or 0.0, float(cost / MICRO_DOLLARS_PER_DOLLAR))
            except Exception as error:  # noqa: BLE001  # of a policy: it must not keep the others from being charged
                # A claim without a charge is charged what was reserved.
                self._services.log.error("policy %r: charge failed: %s", claim.policy, error_report(error))  # noqa: TRY400
        if charges:
            self.durations.add(outcome.ended_at - outcome.started_at)
        await self._settlements.send(hold, charges, refund=usage.exact)

    def _charge(self, hold: Reservation, lease: Lease, claim: Claim, usage: Usage) -> int:
        """Return what *usage* costs, or what was reserved for it where `charge` fails."""
        try:
            return math.ceil(lease.charge(claim, usage))
        except Exception as error:  # noqa: BLE001  # of a policy
            self._services.log.error("policy %r: charge failed: %s", claim.policy, error_report(error))  # noqa: TRY400
            return claim.needs(hold.call.max_tokens or 0)

    async def catch_up(self) -> None:
        """Send settlements that the store could not take, and wait for the end of that. See `SettlementQueue.catch_up`."""
        await self._settlements.catch_up()

    def begin_catch_up(self) -> None:
        """Begin to send settlements that the store could not take. Called by a timer, whose heartbeats must not wait."""
        self._settlements.log.summarise()
        self._settlements.begin_catch_up()

    def stop(self) -> None:
        """End the sending of queued settlements; `pending_settlements` counts what is left."""
        self._settlements.stop()

    def _admit_without_store(self, hold: Reservation, error: StoreDown) -> None:
        refusing = any(when_store_fails == "refuse" for _, _, when_store_fails in hold.claims)
        self._report_down(error)
        hold.claims = ()  # nothing is reserved, or its release is queued: refused calls must not fill the queue
        if refusing:
            msg = "The limits cannot be checked just now. Please try again in a moment."
            raise Rejection(503, "store_unavailable", msg, retry_after=1.0) from error

    def _report_down(self, error: StoreDown) -> None:
        if not isinstance(error, ReservationGone):  # the store has answered
            self._services.state_changed("store", "down", str(error))


def expected_answer(claims: Sequence[Claim]) -> int:
    """Return the tokens to reserve for each answer of a call without a ceiling; 0 if no claim depends on its length."""
    expected = 0
    for claim in claims:  # a generator costs more
        answer = claim.answer
        if answer and claim.per_token and (not expected or answer < expected):
            expected = answer
    return expected
