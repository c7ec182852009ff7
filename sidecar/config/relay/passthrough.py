"""Read `[server] passthrough`: the routes that are relayed, and the budget that each one which can generate must have."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Literal, NamedTuple

import msgspec

from policies.api.match import Match
from policies.api.policy import Policy
from policies.builtin.budget import Budget
from policies.builtin.option_checks import raise_faults
from sidecar.config.tables import ConfigFault, to_struct
from sidecar.wire.relay.path_pattern import PathPattern

from .known_routes import RouteFacts, RouteKind, facts_of, served_by_sidecar, without_prefixes

MAX_PASSTHROUGH_ROUTES = 64
V1_SEGMENT = "v1"
_MANY_TOKENS = 10_000_000

Method = Literal["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"]


class PassthroughSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One entry of `passthrough`; a string stands for its *path*.

    *tokens_each* are charged for each call, or what upstream reports if that is more. *generates* = false declares that an
    unknown route generates nothing. *upstream* is the name of the upstream that gets the calls, by default the first.
    *max_body* is in bytes, by default `server.max_body`.
    """

    path: Annotated[str, msgspec.Meta(min_length=1)]
    methods: Annotated[tuple[Method, ...], msgspec.Meta(min_length=1)] | None = None
    tokens_each: Annotated[int, msgspec.Meta(ge=1, le=_MANY_TOKENS)] | None = None
    generates: bool | None = None
    upstream: Annotated[str, msgspec.Meta(min_length=1)] | None = None
    max_body: Annotated[int, msgspec.Meta(ge=1, extra={"unit": "bytes"})] | None = None

    def __post_init__(self) -> None:
        raise_faults(self._path_faults())

    def _path_faults(self) -> Iterator[str]:
        try:
            PathPattern.parse(self.path)
        except ValueError as error:
            yield f"path: {self.path[:100]!r} {error}"


class Passthrough(msgspec.Struct, frozen=True, kw_only=True):
    """One relayed route. *tokens_each* is 0 for a route that generates nothing.

    *names_model* is False for a route whose requests name no model, such as those of files.
    """

    pattern: PathPattern
    methods: tuple[str, ...]
    max_body: int
    tokens_each: int = 0
    upstream: str = ""
    names_model: bool = True

    @property
    def path(self) -> str:
        """The path as configured: the label of the route in records and policies."""
        return self.pattern.text

    @property
    def is_below_v1(self) -> bool:
        """Whether it is requested below the `base_url`; else at the origin of the upstream."""
        return self.pattern.segments[0] == V1_SEGMENT and len(self.pattern.segments) > 1

    @property
    def is_of_account(self) -> bool:
        """Whether it shows what all clients of the upstream's account have stored there."""
        return not self.names_model


class TenantChain(NamedTuple):
    """One chain, as the check of budgets reads it; an empty *where* is the base chain."""

    tenant: str
    policies: Sequence[Policy]
    where: str


class _RelayedCall(NamedTuple):
    """The fields of a call that decide whether a policy covers it, whatever its model."""

    path: str
    tenant: str
    model: str = ""
    candidate_models: Sequence[str] = ()
    served_models: Sequence[str] = ()
    has_completion: bool = True


def read_passthrough(
    entries: Sequence[object],
    max_body: int,
    upstreams: Sequence[str],
    chains: Sequence[TenantChain],
    faults: list[ConfigFault],
) -> tuple[Passthrough, ...]:
    """Return the relayed routes of *entries*; add a fault to *faults* for each that cannot be opened.

    *upstreams* are the configured names; none are known where only settings are read. *chains* are all chains of the file.
    """
    if len(entries) > MAX_PASSTHROUGH_ROUTES:
        cure = f"name at most {MAX_PASSTHROUGH_ROUTES}"
        faults.append(ConfigFault("server.passthrough", f"has {len(entries)} routes", cure))
        return ()
    found: list[Passthrough] = []
    shapes: dict[tuple[str | None, ...], str] = {}
    for at, entry in enumerate(entries):
        if not isinstance(entry, str | dict):
            continue  # a fault of its type already
        where = f"server.passthrough[{at}]"
        table = {"path": entry} if isinstance(entry, str) else entry
        mine: list[ConfigFault] = []
        settings = to_struct(PassthroughSettings, table, where, mine)
        if isinstance(entry, str):  # a string has no key `path`
            mine = [msgspec.structs.replace(fault, path=where) for fault in mine]
        faults += mine
        if settings is None:
            continue
        pattern = PathPattern.parse(settings.path)
        if pattern.segments in shapes:
            problem = f"the same paths as {shapes[pattern.segments]}"
            faults.append(ConfigFault(where, problem, "remove one of the two"))
            continue
        shapes[pattern.segments] = where
        route = _route(settings, pattern, where, max_body, upstreams, faults)
        if route is not None:
            found.append(route)
            faults += _uncovered(route, where, chains)
    return tuple(found)


def _route(
    settings: PassthroughSettings,
    pattern: PathPattern,
    where: str,
    max_body: int,
    upstreams: Sequence[str],
    faults: list[ConfigFault],
) -> Passthrough | None:
    facts = facts_of(pattern.segments)
    fault = _path_fault(pattern, facts) or _kind_fault(settings, facts)
    if fault is not None:
        faults.append(ConfigFault(where, *fault))
        return None
    if settings.upstream is not None and upstreams and settings.upstream not in upstreams:
        cure = f"use one of {', '.join(map(repr, upstreams))}"
        faults.append(ConfigFault(f"{where}.upstream", f"unknown upstream {settings.upstream!r}", cure))
        return None
    return Passthrough(
        pattern=pattern,
        methods=_methods(settings, facts),
        max_body=settings.max_body or max_body,
        tokens_each=settings.tokens_each or 0,
        upstream=settings.upstream or "",
        names_model=facts.names_model,
    )


def _path_fault(pattern: PathPattern, facts: RouteFacts) -> tuple[str, str] | None:
    """Return problem and cure of a path that is never relayed."""
    shown = repr(pattern.text)
    if served := served_by_sidecar(pattern.segments):
        return f"{shown} is served as {served!r}, under all policies", "remove it"
    names = without_prefixes(pattern.segments)
    if not names or names[0] is None:
        cure = "write the first part of the route itself, as in '/v1/files/{id}'"
        return f"{shown} names no route: it could stand for any", cure
    if facts.kind is RouteKind.REFUSED:
        return f"{shown} is not relayed: {facts.reason}", "remove it, and send such requests to the server itself"
    return None


def _kind_fault(settings: PassthroughSettings, facts: RouteFacts) -> tuple[str, str] | None:
    """Return problem and cure of a path that may generate, and for which nothing bounds that."""
    if settings.tokens_each is not None:
        if settings.generates is False:
            return "`tokens_each` has no effect beside `generates = false`", "remove one of the two"
        return None
    shown, bound = repr(settings.path), "set `tokens_each` to the tokens that a budget charges for each call"
    if facts.kind is RouteKind.GENERATES:
        return f"{shown} needs a budget that bounds it: {facts.reason}", bound
    if settings.generates is False:
        return None
    if settings.generates:
        return f"{shown} needs a budget that bounds it: `generates` is true", bound
    if facts.kind is RouteKind.UNKNOWN:
        return f"{shown} needs a budget that bounds it: {facts.reason}", f"{bound}, or `generates = false` if it cannot"
    unknown = [method for method in settings.methods or () if method not in facts.methods]
    if unknown:
        known = ", ".join(facts.methods)
        return f"{unknown[0]} {settings.path} is not known to be harmless", f"use {known}, or set `generates = false`"
    return None


def _methods(settings: PassthroughSettings, facts: RouteFacts) -> tuple[str, ...]:
    return tuple(dict.fromkeys(settings.methods or facts.methods or ("POST",)))


def _uncovered(route: Passthrough, where: str, chains: Sequence[TenantChain]) -> Iterator[ConfigFault]:
    """Yield a fault if there is a chain without a budget for all calls of *route*, which can generate."""
    if not route.tokens_each:
        return
    for tenant, policies, place in chains:
        call = _RelayedCall(route.path, tenant)
        if not any(_bounds(policy, call) for policy in policies):
            of_chain = f" of {place}" if place else ""
            problem = f"no budget covers every call of {route.path!r} in the chain{of_chain}, so `tokens_each` bounds nothing"
            cure = "add a [[policy]] with use = \"budget\" whose `only`, if it has one, has this path and no model"
            yield ConfigFault(where, problem, cure)
            return


def _bounds(policy: Policy, call: _RelayedCall) -> bool:
    """Whether *policy* is a budget that charges *call*, whatever its model."""
    kind = type(policy)
    if not isinstance(policy, Budget) or kind.admit is not Budget.admit or not kind.admit_returns_lease:
        return False
    return policy.match.model == "*" and Match(path=policy.match.path, tenant=policy.match.tenant).covers(call)

