"""Read `[server] passthrough`: the routes that are relayed, and the budget that each one which can generate must have."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Literal, NamedTuple

import msgspec

from policies.api.match import Match
from policies.api.policy import Policy
from policies.builtin.budget import Budget
from policies.builtin.option_checks import raise_faults
from sidecar.wire.relay.path_pattern import PathPattern

from .known_routes import RouteFacts, RouteKind, facts_of, served_by_sidecar, without_prefixes

MAX_PASSTHROUGH_ROUTES = 64
V1_SEGMENT = "v1"
_MANY_TOKENS = 10_000_000

Method = Literal["GET", "POST", "PUT", "PATCH", "DELETE"]


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


class RouteFault(NamedTuple):
    """Why a route is not opened: the key path, the problem and the cure."""

    path: str
    problem: str
    cure: str

    def at(self, where: str) -> RouteFault:
        """Return this fault for the entry at the key path *where*, of which `path` is the end."""
        return self._replace(path=where + self.path)


class _RelayedCall(msgspec.Struct):
    """The fields of a call, except its model, that decide whether a policy covers it."""

    path: str
    tenant: str
    model: str = ""
    candidate_models: Sequence[str] = ()
    served_models: Sequence[str] = ()
    has_completion: bool = True


def opened_routes(
    entries: Sequence[tuple[str, PassthroughSettings]],
    max_body: int,
    upstreams: Sequence[str],
    chains: Sequence[TenantChain],
) -> Iterator[Passthrough | RouteFault]:
    """Yield the relayed route of each of *entries*, or why it cannot be opened; *entries* are by key path.

    *upstreams* are the configured names; none are known where only settings are read. *chains* are all chains of the file.
    """
    if len(entries) > MAX_PASSTHROUGH_ROUTES:
        problem = f"has {len(entries)} routes"
        yield RouteFault("server.passthrough", problem, f"name at most {MAX_PASSTHROUGH_ROUTES}")
        return
    shapes: dict[tuple[str | None, ...], str] = {}
    for where, settings in entries:
        pattern = PathPattern.parse(settings.path)
        if (other := shapes.setdefault(pattern.segments, where)) != where:
            yield RouteFault(where, f"the same paths as {other}", "remove one of the two")
            continue
        route = _route(settings, pattern, max_body, upstreams)
        if isinstance(route, Passthrough):
            fault = _uncovered(route, chains)
            yield route if fault is None else fault.at(where)
        else:
            yield route.at(where)


def _route(
    settings: PassthroughSettings,
    pattern: PathPattern,
    max_body: int,
    upstreams: Sequence[str],
) -> Passthrough | RouteFault:
    facts = facts_of(pattern.segments)
    fault = _path_fault(pattern, facts) or _kind_fault(settings, facts)
    if fault is not None:
        return fault
    if settings.upstream is not None and upstreams and settings.upstream not in upstreams:
        cure = f"use one of {', '.join(map(repr, upstreams))}"
        return RouteFault(".upstream", f"unknown upstream {settings.upstream!r}", cure)
    return Passthrough(
        pattern=pattern,
        methods=_methods(settings, facts),
        max_body=settings.max_body or max_body,
        tokens_each=settings.tokens_each or 0,
        upstream=settings.upstream or "",
        names_model=facts.names_model,
    )


def _path_fault(pattern: PathPattern, facts: RouteFacts) -> RouteFault | None:
    """Return problem and cure of a path that is never relayed."""
    shown = repr(pattern.text)
    if served := served_by_sidecar(pattern.segments):
        return RouteFault("", f"{shown} is served as {served!r}, under all policies", "remove it")
    names = without_prefixes(pattern.segments)
    if not names or names[0] is None:
        cure = "write the first part of the route itself, as in '/v1/files/{id}'"
        return RouteFault("", f"{shown} names no route: it could stand for any", cure)
    if facts.kind is RouteKind.REFUSED:
        return RouteFault(
            "", f"{shown} is not relayed: {facts.reason}", "remove it, and send such requests to the server itself"
        )
    return None


def _kind_fault(settings: PassthroughSettings, facts: RouteFacts) -> RouteFault | None:
    """Return problem and cure of a path that may generate, and for which nothing bounds that."""
    if settings.tokens_each is not None:
        if settings.generates is False:
            return RouteFault("", "`tokens_each` has no effect beside `generates = false`", "remove one of the two")
        return None
    shown, bound = repr(settings.path), "set `tokens_each` to the tokens that a budget charges for each call"
    if facts.kind is RouteKind.GENERATES:
        return RouteFault("", f"{shown} needs a budget that bounds it: {facts.reason}", bound)
    if settings.generates is False:
        return None
    if settings.generates:
        return RouteFault("", f"{shown} needs a budget that bounds it: `generates` is true", bound)
    if facts.kind is RouteKind.UNKNOWN:
        return RouteFault(
            "",
            f"{shown} needs a budget that bounds it: {facts.reason}",
            f"{bound}, or `generates = false` if it cannot",
        )
    unknown = [method for method in settings.methods or () if method not in facts.methods]
    if unknown:
        known = ", ".join(facts.methods)
        return RouteFault(
            "", f"{unknown[0]} {settings.path} is not known to be harmless", f"use {known}, or set `generates = false`"
        )
    return None


def _methods(settings: PassthroughSettings, facts: RouteFacts) -> tuple[str, ...]:
    return tuple(dict.fromkeys(settings.methods or facts.methods or ("POST",)))


def _uncovered(route: Passthrough, chains: Sequence[TenantChain]) -> RouteFault | None:
    """Return the fault if there is a chain without a budget for all calls of *route*, which can generate."""
    if not route.tokens_each:
        return None
    for tenant, policies, place in chains:
        call = _RelayedCall(route.path, tenant)
        if not any(_bounds(policy, call) for policy in policies):
            of_chain = f" of {place}" if place else ""
            problem = (
                f"no budget covers every call of {route.path!r} in the chain{of_chain}, so `tokens_each` bounds nothing"
            )
            cure = 'add a [[policy]] with use = "budget" whose `only`, if it has one, has this path and no model'
            return RouteFault("", problem, cure)
    return None


def _bounds(policy: Policy, call: _RelayedCall) -> bool:
    """Whether *policy* is a budget that charges *call* for every model."""
    kind = type(policy)
    if not isinstance(policy, Budget) or kind.admit is not Budget.admit or not kind.admit_returns_lease:
        return False
    return policy.match.model == "*" and Match(path=policy.match.path, tenant=policy.match.tenant).covers(call)
