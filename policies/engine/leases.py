"""Check the leases that policies return, and keep those whose class has something to do later."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from policies.api.claim import Claim
from policies.api.hooks import LEASE_CURES, LEASE_HOOKS, HookError, check_hooks
from policies.api.lease import Lease, needs_charge

from .error_report import HookMisuse, returned

if TYPE_CHECKING:
    from policies.api.call import Call

    from .call_state import CallState
    from .members import Member
    from .reservations.reservation import LeasedClaim

MAX_LEASE_CLASSES = 1_024
"""Classes of leases that are remembered; a policy may create classes as it runs."""


class LeaseKind(NamedTuple):
    """Facts about a class of leases."""

    makes_claims: bool
    """Whether it overrides `claims`."""
    acts_later: bool
    """Whether it overrides an event hook or `settle`."""
    unused: frozenset[str]
    """The hooks that it does not override, if its objects may have attributes of these names."""


_KINDS_WITHOUT_ATTRIBUTES: dict[type, LeaseKind] = {}
"""Checked kinds of classes whose objects cannot have attributes with the names of hooks, so their objects need no check.

Measured: 0.35 µs instead of 0.6 µs for each lease.
"""


@functools.lru_cache(MAX_LEASE_CLASSES)
def kind_of(cls: type) -> LeaseKind:
    """Return the facts about *cls*; computed once per class.

    Raises `HookMisuse` for a mistake in its hooks that was not found when the class was created: a base class may not
    have called `super().__init_subclass__()`, and attributes may be set later.
    """
    try:
        check_hooks(cls, LEASE_HOOKS, LEASE_CURES)
    except HookError as error:
        raise HookMisuse(str(error)) from None
    own = {hook.name for hook in LEASE_HOOKS if getattr(cls, hook.name) is not getattr(Lease, hook.name)}
    unused = {hook.name for hook in LEASE_HOOKS} - own if cls.__dictoffset__ else ()
    return LeaseKind("claims" in own, not own.isdisjoint(("on_event", "flush", "settle")), frozenset(unused))


def keep(run: CallState, member: Member, lease: Lease, claiming: list[tuple[Member, Lease]]) -> None:
    """Keep a lease of `admit` where its class has something to do later. Raises `HookMisuse`."""
    kind = _KINDS_WITHOUT_ATTRIBUTES.get(type(lease)) or _checked(member, "admit", lease)
    if kind.makes_claims:
        claiming.append((member, lease))
    elif member.must_claim and run.call.has_completion:
        raise HookMisuse(member.has_no_limit(lease))
    if kind.acts_later:
        run.leases.append(lease)


def keep_entered(run: CallState, member: Member, lease: Lease) -> None:
    """Keep a lease of `enter`. Raises `HookMisuse`, also if it makes claims, because they would come too late."""
    kind = _checked(member, "enter", lease)
    run.leases.append(lease)
    if kind.makes_claims:
        cure = "return a lease with claims from admit: all claims are reserved before any policy lets the call enter"
        raise HookMisuse(f"{type(member.running).__name__}.enter returned a {type(lease).__name__} with claims; {cure}")


def claims_of(call: Call, claiming: Sequence[tuple[Member, Lease]]) -> list[LeasedClaim]:
    """Return the claims of all leases whose policy still applies to *call*. Raises `HookMisuse`."""
    claims: list[LeasedClaim] = []
    for member, lease in claiming:
        if member.match is None or member.match.covers(call):
            made = lease.claims()
            if not isinstance(made, tuple) and not isinstance(made, Iterable):
                raise HookMisuse(returned(lease, "claims", made, "a sequence of claims"))
            for claim in made:
                if not isinstance(claim, Claim):
                    raise HookMisuse(returned(lease, "claims", claim, "a sequence of claims", is_item=True))
                if claim.unit == "usd" and type(lease).charge is Lease.charge:
                    raise HookMisuse(needs_charge(lease))
                claims.append((claim, lease, member.when_store_fails))
    return claims


def _checked(member: Member, hook: str, lease: Lease) -> LeaseKind:
    if not isinstance(lease, Lease):
        raise HookMisuse(returned(member.running, hook, lease, "a Lease or None"))
    cls: type = type(lease)
    kind = kind_of(cls)
    if kind.unused and not kind.unused.isdisjoint(vars(lease)):
        name = min(kind.unused & vars(lease).keys())
        where = f"{cls.__name__}.{name}"
        raise HookMisuse(f"{where} is set on the object and never called; define {name} in the class {cls.__name__}")
    if not kind.unused:
        if len(_KINDS_WITHOUT_ATTRIBUTES) >= MAX_LEASE_CLASSES:
            _KINDS_WITHOUT_ATTRIBUTES.clear()
        _KINDS_WITHOUT_ATTRIBUTES[cls] = kind
    return kind
