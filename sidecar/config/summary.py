"""The summary that is printed once the server listens: upstreams, store, chains with their limits, and warnings."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from policies.api.match import Match
from policies.api.policy import Policy, overrides
from policies.builtin.budget import Budget
from policies.builtin.rate import Rate

from .relay.passthrough import Passthrough
from .settings import Settings
from .upstream import ResolvedUpstream

LABEL_WIDTH = 10
SCOPE_FIELDS = ("window", "by")
"""Fields of built-in limits with the identity and window that they count."""
LIMITING_POLICIES = (Rate, Budget)
MAX_SHOWN_PROFILES = 8
MAX_SHOWN_MODELS = 8
"""Names and patterns of models that are shown of one upstream."""
NO_LIMIT = "warning: no rate and no budget policy is active: calls have no limit"
OWN_LIMITS = "warning: no rate and no budget policy is active: only your own policies can limit calls ({names})"
PARTLY_LIMITED = (
    "warning: the rate and budget policies apply only to some calls, by `only` or by `admit_returns_lease = False`:"
    " other calls have no limit"
)

OUTSIDE_V1 = (
    "warning: passthrough {paths}: outside of /v1 some servers check no key (vLLM's --api-key covers only /v1, /v2,"
    " /inference and /cohere), so let only the sidecar reach them"
)
SHARED_ACCOUNT = "warning: passthrough {paths}: all tenants share what is stored in the upstream's account, and can read and delete it"


def summary(settings: Settings) -> str:
    """Return the summary of *settings*, one fact a line.  It holds no secret: no key, header, query or password."""
    lines: list[str] = []
    lines += _block("upstream", upstream_lines(settings))
    lines += _block("store", [_store(settings)])
    lines += _block("chain", map(_policy, settings.base.policies or ()))
    if not settings.base.policies:
        lines += _block("chain", ["empty"])
    lines += _block("profiles", _profiles(settings))
    lines += _block("keys", [_keys(settings)])
    lines += _block("relayed", map(_relayed, settings.passthrough))
    if settings.workers > 1:
        lines += _block("workers", [str(settings.workers)])
    return "\n".join([*lines, *_warnings(settings)])


def _block(label: str, values: Iterable[str]) -> list[str]:
    return [f"{'' if at else label:{LABEL_WIDTH}}{value}" for at, value in enumerate(values)]


def upstream_lines(settings: Settings) -> list[str]:
    """Return a line for each upstream: its address, its default model, and, of several, the models that it serves."""
    several = len(settings.upstreams) > 1
    return [_upstream(each) + (_routing(each) if several else "") for each in settings.upstreams]


def _upstream(choice: ResolvedUpstream) -> str:
    model = f", model {choice.model}" if choice.model else ""
    return f"{choice.name or 'default'}: {choice.base_url}{model}"


def _routing(choice: ResolvedUpstream) -> str:
    names = [*choice.models, "what it lists"] if choice.serves is None else list(choice.serves)
    left_out = len(names) - MAX_SHOWN_MODELS
    shown = ", ".join([*names[:MAX_SHOWN_MODELS], *([f"and {left_out} more"] if left_out > 0 else [])])
    return f", serves {shown}" + (f", weight {choice.weight:g}" if choice.weight != 1 else "")


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


def _profiles(settings: Settings) -> Iterator[str]:
    """Yield a line for each profile with what it changes in the chain."""
    names = sorted(settings.profiles)
    for name in names[:MAX_SHOWN_PROFILES]:
        profile = settings.profiles[name]
        pairs = zip(settings.base.policies, profile.policies, strict=True)
        facts = [fact for base, own in pairs for fact in _changes(base, own)]
        facts += [] if profile.temperature is None else [f"temperature = {profile.temperature:g}"]
        yield f"{name}: {', '.join(facts) or 'as the chain'}"
    if len(names) > MAX_SHOWN_PROFILES:
        yield f"and {len(names) - MAX_SHOWN_PROFILES} more"
    if not names:
        yield "none"


def _changes(base: Policy, policy: Policy) -> Iterator[str]:
    own = not _is_built_in(policy)
    for field in policy.__struct_fields__:
        value = getattr(policy, field)
        if value != getattr(base, field) and _is_fact(value, own=own):
            yield f"{policy.name}.{field} = {_shown(value)}"


def _only(only: Match) -> str:
    shown = {name: value for name in Match.__struct_fields__ if (value := getattr(only, name)) != "*"}
    return f"{{ {', '.join(f'{name} = {_shown(value)}' for name, value in shown.items())} }}" if shown else ""


def _keys(settings: Settings) -> str:
    if not settings.keys:
        return f"none: all callers are tenant {settings.default_access.tenant}"
    tenants = len({access.tenant for access in settings.keys})
    own = sum(bool(access.base.owner) for access in settings.keys)
    with_limits = f", {own} with limits of {'its' if own == 1 else 'their'} own" if own else ""
    return f"{len(settings.keys)} of {tenants} tenant{'s' if tenants > 1 else ''}{with_limits}"


def _relayed(route: Passthrough) -> str:
    bound = f", {route.tokens_each:_} tokens each" if route.tokens_each else ""
    return f"{' '.join(route.methods)} {route.path}{bound}"


def _relay_warnings(settings: Settings) -> Iterator[str]:
    """Yield a warning for relayed routes that the upstream may serve without its key, and for those of an account."""
    if outside := [route.path for route in settings.passthrough if not route.is_below_v1]:
        yield OUTSIDE_V1.format(paths=", ".join(outside))
    shared = [route.path for route in settings.passthrough if route.is_of_account]
    if shared and len({access.tenant for access in settings.accesses}) > 1:
        yield SHARED_ACCOUNT.format(paths=", ".join(shared))


def _warnings(settings: Settings) -> Iterator[str]:
    """Yield a warning if no limit counts over several calls.  Profiles and keys have the policies of the base chain."""
    yield from _relay_warnings(settings)
    policies = settings.base.policies
    limits = [policy for policy in policies if isinstance(policy, LIMITING_POLICIES)]
    own = [policy.name for policy in policies if not _is_built_in(policy) and _may_limit(policy)]
    if limits and not any(policy.match == Match() and policy.admit_returns_lease for policy in limits):
        yield PARTLY_LIMITED
    elif not limits:
        yield OWN_LIMITS.format(names=", ".join(own)) if own else NO_LIMIT


def _may_limit(policy: Policy) -> bool:
    """Whether the class of *policy* can refuse calls, or returns an object that can."""
    return overrides(policy, "admit") or overrides(policy, "enter") or type(policy).start is not Policy.start
