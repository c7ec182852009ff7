"""What a policy is: settings that act on each call. What it holds for one call is a lease; only the chain cleans up."""

from __future__ import annotations

import inspect
from typing import ClassVar, Literal, TypeAlias

import msgspec

from .call import Call
from .claim import DEFAULT_MAX_IDENTITIES, By, Claim, Unit, Window, identity
from .failure import Decision, Failure
from .hooks import POLICY_CURES, POLICY_HOOKS, HookError, check_hooks
from .lease import Lease
from .match import Match
from .services import Services

StoreFailure: TypeAlias = Literal["refuse", "admit"]


class RunningPolicy:
    """What serves the calls. Hooks that a class does not override cost nothing."""

    __slots__ = ()

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        check_hooks(cls, POLICY_HOOKS, POLICY_CURES)

    async def admit(self, call: Call) -> Lease | None:
        """Rewrite *call*, raise `Rejection`, or return a `Lease`.

        Called once per call, in the order of the file, never again for a retry. It is cancelled when the client leaves, so
        take last what must be given back, and return the lease at once.
        """
        return None

    async def enter(self, call: Call) -> Lease | None:
        """Wait for a slot (a queue); raise `Rejection` if there is none.

        Called once, after the reservation. The client receives heartbeats meanwhile. It is cancelled when the client
        leaves.
        """
        return None

    def retry(self, call: Call, failure: Failure) -> Decision | None:
        """Judge a failed attempt: return `Retry`, `GIVE_UP`, or None for no opinion. The first opinion decides."""
        return None

    async def stop(self) -> None:
        """Release resources. Called once, when the last chain that uses it is closed."""


CALL_HOOKS = ("admit", "enter", "retry")
_OLD_ATTRIBUTES = {"lowers": "tightened_by_profiles", "pinned": "fixed_in_profiles", "only": "match"}


class Policy(msgspec.Struct, RunningPolicy, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One rule for calls: an immutable settings object. Its fields are its options in the configuration file.

    One instance serves all calls at once, so state of a call belongs into a `Lease` or `call.state`, and anything that runs
    (a queue, a breaker, what was learnt) into the object that `start` returns.
    """

    name: str = ""
    """Its name in counters, messages and headers; `use` where the file gives none."""
    match: Match = msgspec.field(default=Match(), name="only")
    """The calls that it is for; `only` in the file."""
    when_store_fails: StoreFailure = "refuse"
    """What happens to calls that its lease claims for while the store is down."""

    tightened_by_profiles: ClassVar[tuple[str, ...]] = ()
    """Fields that a profile may only lower; None is the loosest value."""
    fixed_in_profiles: ClassVar[tuple[str, ...]] = ("name", "match", "when_store_fails")
    """Fields that a profile cannot change, because its calls share the base chain's counters."""
    runs_once: ClassVar[bool] = True
    """Whether all chains of a process share what `start` returns, where it is overridden. See `start`."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        for old, new in _OLD_ATTRIBUTES.items():
            if old in vars(cls) and not inspect.ismemberdescriptor(vars(cls)[old]):
                raise HookError(f"{cls.__name__}.{old} has no effect", f"it is now called {new}")

    def start(self, services: Services) -> RunningPolicy:
        """Return what serves the calls: the policy itself, unless something has to run.

        A process has one chain for each profile and each key with limits of its own. An overridden `start` is called once
        for all of them, so a limit of 4 is 4; then profiles cannot change the policy's options. A class with
        `runs_once = False` is started for each chain, and finds what they have in common by `services.shared`.
        """
        return self

    def claim(
        self,
        call: Call,
        amount: int,
        *,
        limit: int,
        window: Window,
        by: By = "tenant",
        unit: Unit = "requests",
        per_token: int = 0,
        floor: int = 0,
        max_identities: int = DEFAULT_MAX_IDENTITIES,
    ) -> Claim:
        """Return a claim of *amount* for *call* from the limit of this policy; a lease hands it out.

        Units are requests, tokens, or micro-dollars with `unit="usd"` (*limit* too). *by* says for whom the limit counts. The
        claim grows by *per_token* for each token of the answer's ceiling; the store may lower the ceiling down to *floor*.
        Beyond *max_identities* values that clients choose (addresses, models, users), further ones share one counter.
        """
        name, group = (call.tenant, None) if by == "tenant" else identity(call, by)
        return Claim(
            policy=self.name,
            identity=name,
            unit=unit,
            limit=limit,
            window=window,
            base=amount,
            per_token=per_token,
            floor=floor,
            max_identities=0 if group is None else max_identities,
            identity_group=group or "",
        )


def overrides(running: RunningPolicy, name: str) -> bool:
    """Whether the class of *running* has a hook *name* of its own."""
    return getattr(type(running), name) is not getattr(RunningPolicy, name)


def is_shared(policy: type[Policy]) -> bool:
    """Whether all chains of a process share one running object of *policy*."""
    return policy.runs_once and policy.start is not Policy.start
