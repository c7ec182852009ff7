"""List the limits that the configuration sets for each tenant and profile, for `sidecar usage`."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any

import msgspec

from policies.api.claim import By, in_units
from policies.api.policy import Policy
from policies.builtin.budget import Budget
from policies.builtin.rate import Rate
from sidecar.config.access import Access
from sidecar.config.settings import Settings

BASE_CHAIN = "chain"
"""Column of the limits of calls without a profile."""
MAX_SHOWN_TENANTS = 3
MAX_LISTED_NAMES = 10


class UnknownTenant(Exception):
    """Raised for a tenant that no key has and that no budget has counted."""


def check_tenant(tenant: str, known: Collection[str]) -> None:
    """Raise `UnknownTenant` with some of the *known* tenants unless *tenant* is one of them."""
    if tenant not in known:
        problem = f"unknown tenant {tenant!r}: no [[key]] has it and no budget has counted it"
        raise UnknownTenant(f"{problem}; known tenants: {listed(sorted(known))}")


def listed(names: Sequence[str]) -> str:
    """Return *names* separated by commas, at most `MAX_LISTED_NAMES` of them."""
    return ", ".join(names[:MAX_LISTED_NAMES]) + (", ..." if len(names) > MAX_LISTED_NAMES else "")


class RateLine(msgspec.Struct, frozen=True):
    """One rate of the chain: *requests* in any *window* seconds, and the limit of each profile."""

    policy: str
    requests: int
    window: float
    by: By
    profiles: dict[str, int]


def rates_of(settings: Settings, tenant: str | None) -> list[RateLine]:
    """Return the rates that apply to *tenant*, or for None those of the chain."""
    return [
        RateLine(
            policy=rate.name,
            requests=limit_of(settings, rate, tenant, ""),
            window=rate.window,
            by=rate.by,
            profiles={name: limit_of(settings, rate, tenant, name) for name in sorted(settings.profiles)},
        )
        for rate in settings.base.policies
        if isinstance(rate, Rate)
    ]


def limit_of(settings: Settings, policy: Policy, tenant: str | None, profile: str) -> int:
    """Return the limit of *policy* for *tenant* in *profile* (empty: the chain): requests, tokens or micro-dollars.

    If keys of the tenant have different limits, the highest one is returned; the counter is shared.
    """
    keys = [access for access in settings.keys if access.tenant == tenant]
    return max(_in_profile(access, policy.name, profile) for access in keys or [settings.default_access])


def _in_profile(access: Access, policy: str, profile: str) -> int:
    chain = access.profiles[profile] if profile else access.base
    (found,) = (each for each in chain.policies if each.name == policy)
    return limit_amount(found)


def limit_amount(policy: Policy) -> int:
    """Return the limit of a rate or a budget in its unit; dollars in micro-dollars."""
    if isinstance(policy, Budget):
        return policy.amount
    assert isinstance(policy, Rate)  # for the type: only rates and budgets have a limit
    return policy.requests


def known_tenants(settings: Settings) -> set[str]:
    """Return the tenants of the configuration."""
    return {access.tenant for access in settings.accesses}


def limits_table(settings: Settings, tenant: str | None) -> str:
    """Return a table with the limit of each rate and budget, by tenant and profile; empty if there is none.

    Tenants with the same limits share a line.  With *tenant* only its own are listed.
    """
    tenants = [tenant] if tenant is not None else sorted(known_tenants(settings))
    profiles = sorted(settings.profiles)
    rows = [("limit", "for", "counted by", "window", BASE_CHAIN, *profiles)]
    for policy in settings.base.policies:
        if isinstance(policy, Rate | Budget):
            rows += _rows(settings, policy, tenants, profiles)
    return columns(rows) if len(rows) > 1 else ""


def _rows(
    settings: Settings, policy: Rate | Budget, tenants: Sequence[str], profiles: Sequence[str]
) -> Iterator[tuple[str, ...]]:
    sharing: dict[tuple[int, ...], list[str]] = {}
    for tenant in tenants:
        limits = tuple(limit_of(settings, policy, tenant, profile) for profile in ("", *profiles))
        sharing.setdefault(limits, []).append(tenant)
    window = policy.window if isinstance(policy, Budget) else f"{policy.window:g} s"
    by = policy.by if isinstance(policy.by, str) else ", ".join(policy.by)
    unit = "usd" if isinstance(policy, Budget) and policy.usd is not None else ""
    for limits, names in sharing.items():
        amounts = (shown_amount(in_units(unit, limit), unit) for limit in limits)
        yield policy.name, _who(names, len(tenants)), by, window, *amounts


def _who(names: Sequence[str], count: int) -> str:
    if len(names) == count > 1:
        return "all tenants"
    more = f" and {len(names) - MAX_SHOWN_TENANTS} more" if len(names) > MAX_SHOWN_TENANTS else ""
    return ", ".join(names[:MAX_SHOWN_TENANTS]) + more


def shown_amount(amount: Any, unit: str) -> str:
    """Return *amount* as text: dollars if *unit* is "usd", else a whole number."""
    if unit != "usd":
        return f"{amount:,}"
    return f"{'-' if amount < 0 else ''}${abs(amount):,.6f}"


def columns(rows: Sequence[tuple[str, ...]]) -> str:
    """Return *rows* as a table with aligned columns."""
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )
