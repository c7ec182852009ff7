"""Read and print the state of each budget, for `sidecar usage`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from policies.api.claim import IDENTITY_SEPARATOR, MICRO_DOLLARS_PER_DOLLAR, OVERFLOW_SUFFIX
from policies.api.store import Account, Store
from policies.api.window import Calendar, span_of, zone_of
from policies.builtin.budget import Budget
from policies.stores.opening import open_store
from sidecar.config.settings import Settings

TABLE_HEADER = ("budget", "for", "window", "limit", "spent", "reserved", "left", "resets at")


class BudgetLine(msgspec.Struct, frozen=True):
    """One counter of one budget: amounts in tokens or dollars (*unit*), *resets_at* in seconds since 1970.

    *counts* maps each kind of identity that the budget counts by (tenant, user, model, ip) to its name.
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


class StoreNotReadable(Exception):
    """Raised for a store that other processes cannot read."""


async def read_budgets(settings: Settings, *, tenant: str | None, now: float) -> list[BudgetLine]:
    """Return a line for each counter of the budgets in the base chain, or only for those of *tenant*.

    Unused counters of known tenants are included.  *now* is in seconds since 1970.  Raises `StoreDown`, and
    `StoreNotReadable` for a store in memory.
    """
    accounts = await _accounts(settings)
    budgets = [policy for policy in settings.base.policies if isinstance(policy, Budget)]
    found = [line for budget in budgets for line in _lines(budget, settings, accounts, now)]
    wanted = [line for line in found if tenant is None or line.tenant == tenant]
    return sorted(wanted, key=lambda line: (line.policy, list(line.counts.values())))


async def _accounts(settings: Settings) -> Sequence[Account]:
    location = settings.store.location
    try:
        if not location.is_shared_between_processes:
            msg = "memory:// is private to the process that uses it; use a sqlite:/// or redis:// store"
            raise StoreNotReadable(msg)
        file = location.file(settings.folder)
        if file is not None and not file.exists():
            return ()
        store: Store = open_store(settings.store.url, folder=settings.folder)
    except ValueError as error:  # an installed store that cannot be loaded
        raise StoreNotReadable(str(error)) from error
    try:
        return await store.accounts()
    finally:
        await store.aclose()


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
    counts = _counts(budget, account.identity)
    limit = _limit(budget, settings, counts.get("tenant"))
    amounts = (limit, account.spent, account.reserved, max(0, limit - account.spent - account.reserved))
    limit_shown, spent, reserved, left = (
        amounts if budget.usd is None else (amount / MICRO_DOLLARS_PER_DOLLAR for amount in amounts)
    )
    return BudgetLine(
        policy=budget.name,
        tenant=counts.get("tenant"),
        counts=counts,
        unit=account.unit,
        window=budget.window,
        limit=limit_shown,
        spent=spent,
        reserved=reserved,
        left=left,
        resets_at=round(account.resets_at),
    )


def _counts(budget: Budget, identity: str) -> dict[str, str]:
    by = budget.by if isinstance(budget.by, list) else [budget.by]
    kinds = [kind for who in by for kind in (("tenant", "user") if who == "user" else (who,))]
    if identity.endswith(OVERFLOW_SUFFIX):
        trusted = "tenant" in kinds
        known = {"tenant": identity.removesuffix(OVERFLOW_SUFFIX)} if trusted else {}
        return {kind: known.get(kind, "(others)") for kind in kinds if kind != "global"}
    return {
        kind: name for kind, name in zip(kinds, identity.split(IDENTITY_SEPARATOR), strict=False) if kind != "global"
    }


def _limit(budget: Budget, settings: Settings, tenant: str | None) -> int:
    """Return the budget's limit for *tenant*: the highest among its keys, or that of the chain."""
    of_keys = [
        policy
        for access in settings.keys
        if access.tenant == tenant
        for policy in access.base.policies
        if isinstance(policy, Budget) and policy.name == budget.name
    ]
    return max(_amount(each) for each in of_keys or [budget])


def _amount(budget: Budget) -> int:
    return round((budget.usd or 0) * MICRO_DOLLARS_PER_DOLLAR) if budget.tokens is None else budget.tokens


def as_json(lines: Sequence[BudgetLine]) -> str:
    """Return *lines* as a JSON list of objects."""
    return msgspec.json.format(msgspec.json.encode(lines)).decode()


def as_table(lines: Sequence[BudgetLine], settings: Settings) -> str:
    """Return *lines* as a table; reset times are in each budget's time zone."""
    zones: dict[str, Any] = {
        policy.name: zone_of(policy.timezone) for policy in settings.base.policies if isinstance(policy, Budget)
    }
    rows = [TABLE_HEADER, *(_row(line, zones.get(line.policy, UTC)) for line in lines)]
    widths = [max(len(row[at]) for row in rows) for at in range(len(TABLE_HEADER))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _row(line: BudgetLine, zone: Any) -> tuple[str, ...]:
    def shown(amount: float) -> str:
        return f"{amount:,}" if line.unit == "tokens" else f"${amount:,.6f}"

    who = ", ".join(f"{kind} {name}" if kind != "tenant" else name for kind, name in line.counts.items())
    amounts = (line.limit, line.spent, line.reserved, line.left)
    resets_at = datetime.fromtimestamp(line.resets_at, zone).strftime("%Y-%m-%d %H:%M %Z")
    return (line.policy, who or "all callers", line.window, *map(shown, amounts), resets_at)
