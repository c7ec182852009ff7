"""Start the policies of one chain, and group them by the hooks that they override."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from policies.api.claim import Claim
from policies.api.hooks import HookError
from policies.api.match import Match
from policies.api.policy import (
    CALL_HOOKS,
    LEASE_CURE,
    Policy,
    RunningPolicy,
    StoreFailure,
    check_policy,
    is_built_in,
    is_shared,
    overrides,
)

from .error_report import HookMisuse, error_report, returned

if TYPE_CHECKING:
    from policies.api.call import Call
    from policies.api.services import Services


MAX_REMEMBERED_PATHS = 256
"""Most paths whose policies are remembered: policies may set any path."""


class Member(msgspec.Struct, frozen=True, eq=False):
    """One started policy of a chain. `match` selects the calls it applies to; None stands for all."""

    match: Match | None
    covers: Callable[[Call], bool]
    """Whether the policy applies to a call, whose fields may have been changed by earlier policies."""
    running: RunningPolicy
    when_store_fails: StoreFailure
    must_claim: bool = False
    """Whether `admit` must return a lease with claims. See `RunningPolicy.admit_returns_lease`."""
    name: str = ""

    def has_no_limit(self, lease: object) -> str:
        """Return the message for an `admit` that returned *lease*, which makes no claims. It contains class names only."""
        kind = "None" if lease is None else f"a {type(lease).__name__} without claims"
        return f"{type(self.running).__name__}.admit returned {kind}; {LEASE_CURE}"


class _Started(msgspec.Struct, frozen=True, eq=False):
    """The running object that all chains of a process share for one policy, and the options it was started with."""

    policy: Policy
    running: RunningPolicy


class UnlistedPolicy(NamedTuple):
    """A policy that may refuse calls and reports no limits, and the calls to which it applies."""

    policy: str
    match: Match


class ListedLimits(NamedTuple):
    """The limits that one policy reports for a call, and the calls to which they apply."""

    policy: str
    match: Match
    claims: Sequence[Claim]


class Members:
    """The policies of one chain, in file order, started with *services*.

    Raises `HookError` for a policy without a usable hook, and `ValueError` for two policies of one name, or for a
    shared policy whose options differ between chains.
    """

    __slots__ = ("_admitting_by_path", "_own", "_reporting", "_services", "admitting", "entering", "judging")

    def __init__(self, policies: Sequence[Policy], services: Services) -> None:
        self._services = services
        self._own: list[RunningPolicy] = []
        _check_names(policies)
        members = [self._member(policy) for policy in policies]
        self.admitting = [member for member in members if overrides(member.running, "admit")]
        self._admitting_by_path: dict[str, Sequence[Member]] = {}
        self.entering = [member for member in members if overrides(member.running, "enter")]
        self.judging = [member for member in members if overrides(member.running, "retry")]
        self._reporting = [member for member in members if overrides(member.running, "limits_for")]

    def _member(self, policy: Policy) -> Member:
        running = self._started(policy)
        name = type(running).__name__
        if not isinstance(running, RunningPolicy):
            raise HookError(f"{type(policy).__name__}.start returned a {name}", "return a RunningPolicy")
        check_policy(type(running))  # a base class may not have called `super().__init_subclass__()`
        for hook in CALL_HOOKS:
            if not overrides(running, hook) and callable(getattr(running, "__dict__", {}).get(hook)):
                problem = f"{name}.{hook} is set on the object and never called"
                raise HookError(problem, f"define {hook} in the class {name}")
        if not any(overrides(running, hook) for hook in CALL_HOOKS):
            problem = f"{name} overrides none of {', '.join(CALL_HOOKS)}"
            raise HookError(problem, "override one of them, or remove the policy")
        must_claim = type(policy).admit_returns_lease
        if must_claim and not overrides(running, "admit"):
            raise HookError(f"{type(policy).__name__}.start returned a {name} without admit", LEASE_CURE)
        match = None if policy.match == Match() else policy.match
        return Member(match, policy.match.covers, running, policy.when_store_fails, must_claim, policy.name)

    def admitting_at(self, path: str) -> Sequence[Member]:
        """Return those of `admitting` that may apply to a call of *path*.

        The result is remembered. Measured: to match two policies of another path takes 3 µs of a call.
        """
        found = self._admitting_by_path.get(path)
        if found is None:
            if len(self._admitting_by_path) >= MAX_REMEMBERED_PATHS:
                self._admitting_by_path.clear()
            found = [each for each in self.admitting if each.match is None or each.match.covers_path(path)]
            self._admitting_by_path[path] = found
        return found

    def after_move(
        self, member: Member, path: str, not_covered: Sequence[Member]
    ) -> tuple[list[Member], Sequence[Member]]:
        """Return those before *member*, which has moved a call away from *path*, that have not admitted it, and all after it.

        Both are in the order of the chain. *not_covered* are those that were asked and did not apply.
        """
        asked, after = self.admitting_at(path), self.admitting.index(member) + 1
        waiting = [each for each in self.admitting[:after] if each in not_covered or each not in asked]
        return waiting, self.admitting[after:]

    def limits_for(self, call: Call) -> Iterator[ListedLimits]:
        """Yield the limits of each policy that overrides `limits_for`, for calls like *call*. Raises `HookMisuse`."""
        for member in self._reporting:
            running = member.running
            made = running.limits_for(call)
            if not isinstance(made, Iterable):
                raise HookMisuse(returned(running, "limits_for", made, "a sequence of claims"))
            claims = tuple(made)
            for each in claims:
                if not isinstance(each, Claim):
                    raise HookMisuse(returned(running, "limits_for", each, "a sequence of claims", is_item=True))
            yield ListedLimits(member.name, member.match or Match(), claims)

    @property
    def unlisted(self) -> list[UnlistedPolicy]:
        """The deployment's own policies that may refuse calls and do not report limits."""
        hidden = {
            id(each): UnlistedPolicy(each.name, each.match or Match())
            for each in (*self.admitting, *self.entering)
            if not (overrides(each.running, "limits_for") or is_built_in(type(each.running)))
        }
        return list(hidden.values())

    def _started(self, policy: Policy) -> RunningPolicy:
        kind, shared = type(policy), self._services.shared_objects
        if is_shared(kind):
            started = shared.get((kind, policy.name), lambda: _Started(policy, policy.start(self._services)), self)
            if started.policy != policy:
                problem = f"policy {policy.name!r} runs once for all chains, but its options differ between them"
                raise ValueError(f"{problem}; make them equal, or give {kind.__name__} runs_once = False")
            return started.running
        running: RunningPolicy = policy
        if kind.start is not Policy.start:
            running = shared.start(lambda: policy.start(self._services), self)
        if not shared.holds(running):
            self._own.append(running)
        return running

    async def stop(self) -> None:
        """Stop the running objects that no other chain uses, newest first.

        An exception is logged; the others are stopped too.
        """
        own, self._own = self._own, []
        stopped: list[object] = []
        shared = self._services.shared_objects
        for running in (*reversed(own), *shared.release(self)):
            target = running.running if isinstance(running, _Started) else running
            stop = getattr(target, "stop", None)
            if stop is None or any(target is each for each in stopped) or shared.holds(target):
                continue
            stopped.append(target)
            try:
                await stop()
            except Exception as error:  # noqa: BLE001  # user code may raise anything
                self._services.log.error("%s.stop failed: %s", type(target).__name__, error_report(error))  # noqa: TRY400


def _check_names(policies: Sequence[Policy]) -> None:
    names = [policy.name or type(policy).__name__.lower() for policy in policies]
    if twice := {name for name in names if names.count(name) > 1}:
        msg = f"two policies are named {', '.join(sorted(twice))}: give each its own `name`"
        raise ValueError(msg)
