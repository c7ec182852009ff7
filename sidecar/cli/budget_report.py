"""Read and print the state of each budget, for `sidecar usage`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from policies.api.claim import identity_names, in_units
from policies.api.store import Account
from policies.api.window import Calendar, span_of, zone_of
from policies.builtin.budget import Budget
from sidecar.config.settings import Settings
from sidecar.downstream.usage.entry import LimitOfProfile

from .limit_report import RateLine, check_tenant, columns, known_tenants, limit_of, rates_of, shown_amount
from .shared_store import shared_store

TABLE_HEADER = ("budget", "for", "window", "limit", "spent", "reserved", "left", "resets at")


class BudgetLine(msgspec.Struct, frozen=True):
    """One counter of one budget: amounts in tokens or dollars (*unit*), *resets_at* in seconds since 1970.

    *counts* maps each kind of identity that the budget counts by (tenant, user, model, ip) to its name.  *rates* are the
    rates that the same calls pass.
    """

    policy: str
    tenant: str | None
    counts: dict[str, str]
    unit: str
    window: str
    limit: float
    spent: float
    reserved: float
    left: float
    resets_at: int
    profiles: dict[str, LimitOfProfile]
    rates: list[RateLine]


async def read_budgets(settings: Settings, *, tenant: str | None, now: float) -> list[BudgetLine]:
    """Return a line for each counter of the budgets in the base chain, or only for those of *tenant*.

    Unused counters of known tenants are included.  *now* is in seconds since 1970.  Raises `StoreDown`, `UnknownTenant`,
    and `StoreNotReadable` for a store in memory and for one that does not exist.
    """
    async with shared_store(settings) as store:
        accounts = await store.accounts()
    budgets = [policy for policy in settings.base.policies if isinstance(policy, Budget)]
    found = [line for budget in budgets for line in _lines(budget, settings, accounts, now)]
    if tenant is not None:
        check_tenant(tenant, known_tenants(settings) | {line.tenant for line in found if line.tenant is not None})
    wanted = [line for line in found if tenant is None or line.tenant == tenant]
    return sorted(wanted, key=lambda line: (line.policy, list(line.counts.values())))


def _lines(budget: Budget, settings: Settings, accounts: Iterable[Account], now: float) -> Iterator[BudgetLine]:
    window = Calendar(budget.window, budget.timezone)
    unit = "usd" if budget.usd is not None else "tokens"
    seen = set()
    for account in accounts:
        if (account.policy, account.unit, account.window) == (budget.name, unit, window.key):
            seen.add(account.identity)
            yield _line(budget, settings, account)
    unused = {"tenant": {access.tenant for access in settings.accesses}, "global": {""}}
    for identity in unused.get(budget.by if isinstance(budget.by, str) else "", set()) - seen:
        fresh = Account(budget.name, identity, unit, window.key, 0, 0, span_of(window, now)[1])
        yield _line(budget, settings, fresh)


def _line(budget: Budget, settings: Settings, account: Account) -> BudgetLine:
    counts = identity_names(budget.by, account.identity)
    tenant = counts.get("tenant")

    def within(profile: str) -> LimitOfProfile:
        limit = limit_of(settings, budget, tenant, profile)
        return LimitOfProfile.of(account.unit, limit, account.spent + account.reserved)

    chain = within("")
    return BudgetLine(
        policy=budget.name,
        tenant=tenant,
        counts=counts,
        unit=account.unit,
        window=budget.window,
        limit=chain.limit,
        spent=in_units(account.unit, account.spent),
        reserved=in_units(account.unit, account.reserved),
        left=chain.left,
        resets_at=round(account.resets_at),
        profiles={name: within(name) for name in sorted(settings.profiles)},
        rates=rates_of(settings, tenant),
    )


def as_json(lines: Sequence[BudgetLine]) -> str:
    """Return *lines* as a JSON list of objects."""
    return msgspec.json.format(msgspec.json.encode(lines)).decode()


def as_table(lines: Sequence[BudgetLine], settings: Settings) -> str:
    """Return *lines* as a table; reset times are in each budget's time zone."""
    zones: dict[str, Any] = {
        policy.name: zone_of(policy.timezone) for policy in settings.base.policies if isinstance(policy, Budget)
    }
    rows = [TABLE_HEADER, *(_row(line, zones.get(line.policy, UTC)) for line in lines)]
    return columns(rows)


def _row(line: BudgetLine, zone: Any) -> tuple[str, ...]:
    who = ", ".join(f"{kind} {name}" if kind != "tenant" else name for kind, name in line.counts.items())
    amounts = (line.limit, line.spent, line.reserved, line.left)
    resets_at = datetime.fromtimestamp(line.resets_at, zone).strftime("%Y-%m-%d %H:%M %Z")
    return (
        line.policy,
        who or "all callers",
        line.window,
        *(shown_amount(amount, line.unit) for amount in amounts),
        resets_at,
    )
