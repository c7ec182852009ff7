"""`sidecar usage`: where each budget stands."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from policies.api.claim import MILLION, OVERFLOW_SUFFIX
from policies.api.identity import SEPARATOR
from policies.api.store import Account, Store
from policies.api.window import Calendar, zone_of
from policies.builtin.budget import Budget
from policies.stores.opening import open_store
from sidecar.config.settings import Settings

HEAD = ("budget", "for", "window", "limit", "spent", "reserved", "left", "resets at")


class Standing(msgspec.Struct, frozen=True):
    """One counter of one budget, in tokens or dollars; *resets_at* is in seconds since 1970.

    *counts* says whom it counts, by the kind of identity; *tenant* is among them where the budget counts by it.
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


class NothingToRead(Exception):
    """The store is of a kind that other processes cannot look into."""


async def usage(settings: Settings, *, tenant: str | None, now: float) -> list[Standing]:
    """Return where all budgets of the base chain stand, or those of *tenant*; unused ones too, where they are known.

    Raises `StoreDown`, and `NothingToRead` for a store in memory.
    """
    accounts = await _accounts(settings)
    budgets = [policy for policy in settings.base.policies if isinstance(policy, Budget)]
    found = [standing for budget in budgets for standing in _standings(budget, settings, accounts, now)]
    wanted = [standing for standing in found if tenant is None or standing.tenant == tenant]
    return sorted(wanted, key=lambda standing: (standing.policy, list(standing.counts.values())))


async def _accounts(settings: Settings) -> Sequence[Account]:
    location = settings.store.location
    try:
        if not location.is_shared_between_processes:
            msg = "a store in memory ends with its process: use sqlite:/// or redis:// to look into it from outside"
            raise NothingToRead(msg)
        file = location.file(settings.folder)
        if file is not None and not file.exists():
            return ()
        store: Store = open_store(settings.store.url, folder=settings.folder)
    except ValueError as error:  # an installed store that cannot be loaded
        raise NothingToRead(str(error)) from error
    try:
        return await store.accounts()
    finally:
        await store.aclose()


def _standings(budget: Budget, settings: Settings, accounts: Iterable[Account], now: float) -> Iterator[Standing]:
    window = Calendar(budget.window, budget.timezone)
    unit = "usd" if budget.usd is not None else "tokens"
    seen = set()
    for account in accounts:
        if (account.policy, account.unit, account.window) == (budget.name, unit, window.key):
            seen.add(account.identity)
            yield _standing(budget, settings, account)
    unused = {"tenant": {access.tenant for access in settings.accesses}, "global": {""}}
    for identity in unused.get(budget.by if isinstance(budget.by, str) else "", set()) - seen:
        fresh = Account(budget.name, identity, unit, window.key, 0, 0, window.span(now)[1])
        yield _standing(budget, settings, fresh)


def _standing(budget: Budget, settings: Settings, account: Account) -> Standing:
    counts = _counts(budget, account.identity)
    limit = _limit(budget, settings, counts.get("tenant"))
    amounts = (limit, account.spent, account.reserved, max(0, limit - account.spent - account.reserved))
    limit_shown, spent, reserved, left = amounts if budget.usd is None else (amount / MILLION for amount in amounts)
    return Standing(
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
    return {kind: name for kind, name in zip(kinds, identity.split(SEPARATOR), strict=False) if kind != "global"}


def _limit(budget: Budget, settings: Settings, tenant: str | None) -> int:
    """Return the budget's limit for *tenant*: the highest that one of its keys has."""
    of_keys = [
        policy
        for access in settings.keys
        if access.tenant == tenant
        for policy in access.base.policies
        if isinstance(policy, Budget) and policy.name == budget.name
    ]
    return max(_amount(each) for each in of_keys or [budget])


def _amount(budget: Budget) -> int:
    return round((budget.usd or 0) * MILLION) if budget.tokens is None else budget.tokens


def as_json(standings: Sequence[Standing]) -> str:
    """Return *standings* as JSON, a list of objects."""
    return msgspec.json.format(msgspec.json.encode(standings)).decode()


def as_table(standings: Sequence[Standing], settings: Settings) -> str:
    """Return *standings* as people read them; moments are in each budget's own time zone."""
    zones: dict[str, Any] = {
        policy.name: zone_of(policy.timezone) for policy in settings.base.policies if isinstance(policy, Budget)
    }
    rows = [HEAD, *(_row(standing, zones.get(standing.policy, UTC)) for standing in standings)]
    widths = [max(len(row[at]) for row in rows) for at in range(len(HEAD))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _row(standing: Standing, zone: Any) -> tuple[str, ...]:
    def shown(amount: float) -> str:
        return f"{amount:,}" if standing.unit == "tokens" else f"${amount:,.6f}"

    who = ", ".join(f"{kind} {name}" if kind != "tenant" else name for kind, name in standing.counts.items())
    amounts = (standing.limit, standing.spent, standing.reserved, standing.left)
    resets_at = datetime.fromtimestamp(standing.resets_at, zone).strftime("%Y-%m-%d %H:%M %Z")
    return (standing.policy, who or "everybody", standing.window, *map(shown, amounts), resets_at)
