"""The summary that is printed once the server listens: upstreams, store, chains with their limits, and warnings."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from policies.api.match import Match
from policies.api.policy import Policy
from policies.builtin.budget import Budget
from policies.builtin.rate import Rate

from .access import Profile
from .settings import Settings
from .upstream import ResolvedUpstream

LABEL_WIDTH = 10
SCOPE_FIELDS = ("window", "by")
"""Fields of built-in limits with the identity and window that they count."""
LIMITING_POLICIES = (Rate, Budget)
NO_LIMIT = "warning: no rate and no budget policy is active{where}: calls have no limit"
PARTLY_LIMITED = (
    "warning: the rate and budget policies{where} apply only to some calls, by `only` or by `admit_returns_lease = False`:"
    " other calls have no limit"
)


def summary(settings: Settings) -> str:
    """Return the summary of *settings*, one fact a line.  It holds no secret: no key, header, query or password."""
    lines: list[str] = []
    lines += _block("upstream", (_upstream(each) for each in settings.upstreams))
    lines += _block("store", [_store(settings)])
    lines += _block("chain", map(_policy, settings.base.policies or ()))
    if not settings.base.policies:
        lines += _block("chain", ["empty"])
    lines += _block("profiles", [", ".join(sorted(settings.profiles)) or "none"])
    lines += _block("keys", [_keys(settings)])
    if settings.workers > 1:
        lines += _block("workers", [str(settings.workers)])
    return "\n".join([*lines, *_warnings(settings)])


def _block(label: str, values: Iterable[str]) -> list[str]:
    return [f"{'' if at else label:{LABEL_WIDTH}}{value}" for at, value in enumerate(values)]


def _upstream(choice: ResolvedUpstream) -> str:
    model = f", model {choice.model}" if choice.model else ""
    return f"{choice.name or 'default'}: {choice.base_url}{model}"


def _store(settings: Settings) -> str:
    return settings.store.location.describe(settings.folder)


def _policy(policy: Policy) -> str:
    kind, own = type(policy), not _is_built_in(policy)
    title = policy.name if not own or policy.name == kind.__name__ else f"{policy.name} ({kind.__name__})"
    fields = [*kind.tightened_by_profiles, *(() if own else SCOPE_FIELDS)]
    facts = [
        f"{field} = {_shown(value)}" for field in fields if _is_fact(value := getattr(policy, field, None), own=own)
    ]
    facts += [f"only = {only}"] if (only := _only(policy.match)) else []
    return f"{title}: {', '.join(facts)}" if facts else title


def _is_built_in(policy: Policy) -> bool:
    return type(policy).__module__.partition(".")[0] == "policies"


def _is_fact(value: Any, *, own: bool) -> bool:
    """Whether *value* is shown; of a policy of the user's *own*, numbers alone: its other values may be secrets."""
    if isinstance(value, bool) or value is None:
        return False
    return isinstance(value, int | float) or not own


def _shown(value: Any) -> str:
    if isinstance(value, int):
        return f"{value:_}"
    if isinstance(value, float):
        return f"{value:g}"
    return msgspec.json.encode(value).decode()


def _only(only: Match) -> str:
    shown = {name: value for name in Match.__struct_fields__ if (value := getattr(only, name)) != "*"}
    return f"{{ {', '.join(f'{name} = {_shown(value)}' for name, value in shown.items())} }}" if shown else ""


def _keys(settings: Settings) -> str:
    if not settings.keys:
        return f"none: all callers are tenant {settings.default_access.tenant}"
    tenants = len({access.tenant for access in settings.keys})
    return f"{len(settings.keys)} of {tenants} tenant{'s' if tenants > 1 else ''}"


def _warnings(settings: Settings) -> Iterator[str]:
    """Yield a warning for each chain in which no limit counts over several calls."""
    seen: set[str] = set()
    for access in settings.accesses:
        for profile in (access.base, *access.profiles.values()):
            if profile.name in seen or _limited(profile):
                continue
            seen.add(profile.name)
            where = f" in the profile {profile.name}" if profile.name else ""
            partly = any(isinstance(policy, LIMITING_POLICIES) for policy in profile.policies)
            yield (PARTLY_LIMITED if partly else NO_LIMIT).format(where=where)


def _limited(profile: Profile) -> bool:
    return any(
        isinstance(policy, LIMITING_POLICIES) and policy.match == Match() and policy.admit_returns_lease
        for policy in profile.policies
    )
