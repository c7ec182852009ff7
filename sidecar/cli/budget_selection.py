"""Select the counters that `sidecar budget` corrects: those of one tenant, in the budgets that count by tenant."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import msgspec

from policies.api.claim import (
    OVERFLOW_SUFFIX,
    Claim,
    Identity,
    Unit,
    identity,
    identity_names,
    is_of_one_tenant,
    kinds_of,
)
from policies.api.match import matches_any
from policies.api.store import Account
from policies.api.window import Calendar
from policies.builtin.budget import Budget
from sidecar.config.settings import Settings

from .limit_report import check_tenant, known_tenants, limit_of, listed

NAMED_KINDS: tuple[Identity, ...] = ("user", "model", "ip")
"""What a counter of a tenant may count by in addition; each has a flag of this name."""
SHARED_COUNTER_NAME = "(others)"
"""How the counter is named that the identities beyond `identities` share."""


class CorrectionRefused(Exception):
    """Raised for a correction that the flags do not describe; the message is `--flag: problem; cure`."""


class Correction(msgspec.Struct, frozen=True, kw_only=True):
    """What to correct: the counters of *tenant*, in one *policy* (None: in all), for the *names* of users, models and addresses.

    *amount* is granted, in *unit* (micro-dollars for "usd"); without it, the counters are reset.
    """

    tenant: str
    policy: str | None = None
    names: Mapping[str, str] = {}
    unit: Unit = "tokens"
    amount: int | None = None

    @property
    def flag(self) -> str:
        """The flag of the amount."""
        return f"--{self.unit}"


class CounterToCorrect(NamedTuple):
    """One counter: its budget, its identity, the names in it by their kinds, and what is spent before the correction."""

    budget: Budget
    identity: str
    counts: Mapping[str, str]
    spent: int

    def claim(self, settings: Settings, tenant: str) -> Claim:
        """Return the claim that names this counter in `CorrectableStore.correct`."""
        return Claim(
            policy=self.budget.name,
            identity=self.identity,
            unit=unit_of(self.budget),
            limit=limit_of(settings, self.budget, tenant, ""),
            window=Calendar(self.budget.window, self.budget.timezone),
            base=0,
            by=self.budget.by,
        )


class _Caller(msgspec.Struct):
    """A call by which identities are named. See `IdentifiedCall`."""

    tenant: str
    user: str = ""
    model: str = ""
    ip: str = ""


def unit_of(budget: Budget) -> Unit:
    """Return the unit that *budget* counts in."""
    return "tokens" if budget.usd is None else "usd"


def selected_counters(
    settings: Settings, wanted: Correction, accounts: Iterable[Account]
) -> list[tuple[Budget, list[CounterToCorrect]]]:
    """Return the counters to correct, by their budgets; *accounts* are the open ones of the store.

    A reset has all open counters of the tenant. A grant has exactly one, which need not be open: its amount is not given
    twice. Raises `UnknownTenant` and `CorrectionRefused`.
    """
    budgets = [policy for policy in settings.base.policies if isinstance(policy, Budget)]
    by_name = {budget.name: budget for budget in budgets}
    opened = [found for account in accounts for found in _counters(by_name, account)]
    check_tenant(wanted.tenant, known_tenants(settings) | {each.counts["tenant"] for each in opened})
    names: dict[str, str] = {
        kind: _as_counted(wanted.tenant, kind, wanted.names[kind]) for kind in NAMED_KINDS if kind in wanted.names
    }
    chosen = _chosen(budgets, wanted)
    mine = {
        budget.name: [each for each in opened if each.budget is budget and _is_named(each, wanted.tenant, names)]
        for budget in chosen
    }
    if wanted.amount is None:
        return [(budget, mine[budget.name]) for budget in chosen if mine[budget.name]]
    (budget,) = chosen
    return [(budget, [_granted(budget, wanted, names, mine[budget.name], opened)])]


def _counters(budgets: Mapping[str, Budget], account: Account) -> Iterator[CounterToCorrect]:
    budget = budgets.get(account.policy)
    if budget is None or not is_of_one_tenant(budget.by):
        return
    if (account.unit, account.window) == (unit_of(budget), Calendar(budget.window, budget.timezone).key):
        counts = identity_names(budget.by, account.identity)
        if "tenant" in counts:
            yield CounterToCorrect(budget, account.identity, counts, account.spent)


def _as_counted(tenant: str, kind: Identity, name: str) -> str:
    """Return *name* as it is in a counter's identity: models in lower case, IPv6 networks, hashes of long names."""
    caller = _Caller(tenant, **{str(kind): name})
    return identity_names(kind, identity(caller, kind).name)[kind]


def _is_named(counter: CounterToCorrect, tenant: str, names: Mapping[str, str]) -> bool:
    counts = counter.counts
    return counts["tenant"] == tenant and all(counts.get(kind) == name for kind, name in names.items())


def _chosen(budgets: Sequence[Budget], wanted: Correction) -> list[Budget]:
    """Return the budgets that the flags describe: at least one, and only one for a grant."""
    known = [budget for budget in budgets if is_of_one_tenant(budget.by)]
    names = listed([budget.name for budget in known])
    if not known:
        raise CorrectionRefused("--tenant: no budget of the configuration counts by tenant; name another --config")
    if wanted.policy is not None:
        known = [_by_name(budgets, wanted.policy, names)]
    mine = [budget for budget in known if _is_for(budget, wanted.tenant)]
    if not mine:
        msg = f"--tenant: the budgets {listed([each.name for each in known])} are not for {wanted.tenant!r} (`only`)"
        raise CorrectionRefused(msg)
    for kind in wanted.names:
        mine, before = [budget for budget in mine if kind in kinds_of(budget.by)], mine
        if not mine:
            which = ", ".join(f"{each.name} by {_by_text(each)}" for each in before[:5])
            raise CorrectionRefused(f"--{kind}: no budget counts by it: {which}")
    if wanted.amount is None:
        return mine
    counting = [budget for budget in mine if unit_of(budget) == wanted.unit]
    if not counting:
        units = ", ".join(f"{each.name} in {unit_of(each)}" for each in mine[:5])
        raise CorrectionRefused(f"{wanted.flag}: no budget counts {wanted.unit}: {units}")
    if len(counting) > 1:
        which = listed([budget.name for budget in counting])
        raise CorrectionRefused(f"--policy: a grant corrects one budget; name one of: {which}")
    return counting


def _by_name(budgets: Sequence[Budget], name: str, known: str) -> Budget:
    found = next((budget for budget in budgets if budget.name == name), None)
    if found is None:
        raise CorrectionRefused(f"--policy: unknown budget {name!r}; budgets that count by tenant: {known}")
    if not is_of_one_tenant(found.by):
        problem = f"--policy: {name!r} counts by {_by_text(found)}, so that tenants share its counters"
        raise CorrectionRefused(f"{problem}; change its limit in the configuration instead")
    return found


def _by_text(budget: Budget) -> str:
    return budget.by if isinstance(budget.by, str) else " and ".join(budget.by)


def _is_for(budget: Budget, tenant: str) -> bool:
    patterns = [budget.match.tenant] if isinstance(budget.match.tenant, str) else budget.match.tenant
    return tenant in patterns or matches_any(tenant, patterns)


def _granted(
    budget: Budget,
    wanted: Correction,
    names: Mapping[str, str],
    mine: Sequence[CounterToCorrect],
    opened: Sequence[CounterToCorrect],
) -> CounterToCorrect:
    """Return the one counter of a grant: it has a name of each kind that *budget* counts by.

    Whether it may be granted depends on the flags alone, not on which counters are open, with one exception: an identity
    without a counter may be counted with the others.
    """
    missing = [kind for kind in kinds_of(budget.by) if kind not in ("tenant", "global", *names)]
    if missing:
        flags = " and ".join(f"--{kind}" for kind in missing)
        shown = listed(["/".join(name for kind, name in each.counts.items() if kind != "tenant") for each in mine])
        problem = f"--{missing[0]}: a grant corrects one counter, and {budget.name!r} counts by {_by_text(budget)}"
        raise CorrectionRefused(f"{problem}; add {flags}; open counters: {shown or 'none'}")
    if len(mine) > 1:  # a client has chosen the name of the shared counter
        raise CorrectionRefused(f"--{next(iter(names))}: several counters have this name; reset them instead")
    if mine:
        return mine[0]
    others = wanted.tenant + OVERFLOW_SUFFIX
    is_full = any(each.budget is budget and each.identity == others for each in opened)
    if names and (is_full or SHARED_COUNTER_NAME in names.values()):
        flags = " ".join(f"--{kind} {SHARED_COUNTER_NAME!r}" for kind in names)
        problem = f"--{next(iter(names))}: {budget.name!r} has no open counter of this name"
        cure = f"it is counted with others, so grant to them: {flags}" if is_full else "name another one"
        raise CorrectionRefused(f"{problem}; {cure}")
    caller = _Caller(wanted.tenant, **names)
    name = identity(caller, budget.by).name
    return CounterToCorrect(budget, name, identity_names(budget.by, name), 0)
