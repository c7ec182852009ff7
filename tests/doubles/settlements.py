"""Reservations of calls, as the settlement queue gets them."""

from __future__ import annotations

from policies.api.claim import Claim
from policies.api.lease import ClaimLease
from policies.api.store import Store
from policies.engine.reservations.reservation import Reservation
from policies.testing import make_call


def hold_of(call_id: str, *claims: Claim) -> Reservation:
    """Return the reservation of *claims* by the call *call_id*."""
    return Reservation(make_call("hi", id=call_id), [(claim, ClaimLease(claim), "refuse") for claim in claims])


async def reserved(store: Store, call_id: str, *claims: Claim) -> Reservation:
    """Reserve *claims* in *store*, and return the reservation."""
    await store.reserve(call_id, claims)
    return hold_of(call_id, *claims)
