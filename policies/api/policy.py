"""Base classes of policies: immutable settings, and the running object that serves calls."""

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
    """The object whose hooks the chain calls. Hooks that a class does not override cost nothing."""

    __slots__ = ()

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        check_hooks(cls, POLICY_HOOKS, POLICY_CURES)

    async def admit(self, call: Call) -> Lease | None:
        """Rewrite *call*, raise `Rejection`, or return a `Lease`.

        Called once per call, in file order, never again for a retry. It is cancelled if the client disconnects. So
        acquire what must be released as the last step, without an `await` between it and the return of its lease.
        """
        return None

    async def enter(self, call: Call) -> Lease | None:
        """Wait for a slot (a queue); raise `Rejection` if there is none.

        Called once per call, after the reservation. The client receives heartbeats meanwhile. It is cancelled if the
        client disconnects.
        """
        return None

    def retry(self, call: Call, failure: Failure) -> Decision | None:
        """Decide about a failed attempt: return `Retry`, `GIVE_UP`, or None to leave it to the next policy.

        Called for each failed attempt before the first output. It must not block.
        """
        return None

    async def stop(self) -> None:
        """Release resources. Called once, when the last chain that uses it is closed."""


CALL_HOOKS = ("admit", "enter", "retry")
_OLD_ATTRIBUTES = {"lowers": "tightened_by_profiles", "pinned": "fixed_in_profiles", "only": "match"}


class Policy(msgspec.Struct, RunningPolicy, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One rule for calls: an immutable settings object. Its fields are its options in the configuration file.

    One instance serves all calls concurrently. State of a call belongs in a `Lease` or `call.state`; state of the
    process (a queue, a breaker, a cache) belongs in the object that `start` returns.
    """

    name: str = ""
    """Its name in counters, messages and headers; by default the value of `use`."""
    match: Match = msgspec.field(default=Match(), name="only")
    """The calls to which it applies; `only` in the file."""
    when_store_fails: StoreFailure = "refuse"
    """Whether a call with claims of this policy is refused or admitted while the store is down."""

    tightened_by_profiles: ClassVar[tuple[str, ...]] = ()
    """Fields that a profile may only lower; None is the loosest value."""
    fixed_in_profiles: ClassVar[tuple[str, ...]] = ("name", "match", "when_store_fails")
    """Fields that a profile cannot change, because its calls share the base chain's counters."""
    runs_once: ClassVar[bool] = True
    """Whether all chains of a process share the object that an overridden `start` returns. See `start`."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        for old, new in _OLD_ATTRIBUTES.items():
            if old in vars(cls) and not inspect.ismemberdescriptor(vars(cls)[old]):
                raise HookError(f"{cls.__name__}.{old} has no effect", f"it is now called {new}")

    def start(self, services: Services) -> RunningPolicy:
        """Return the object that serves the calls: the policy itself, or one with state of the process.

        A process has one chain per profile, and per key with its own limits. An overridden `start` is called once for
        all of them, so a limit of 4 is 4; profiles cannot change such a policy's options. A class with
        `runs_once = False` is started for each chain, and can share objects between them by `services.shared`.
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
        """Return a claim of *amount* for *call* on the limit of this policy, to be returned by `Lease.claims`.

        Units are requests, tokens, or micro-dollars with `unit="usd"` (*limit* too). *by* selects the identity that is
        limited. The claim grows by *per_token* for each token of the answer's ceiling; the store may lower the ceiling
        down to *floor*. Beyond *max_identities* values that clients choose (addresses, models, users), further ones
        share one counter.
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
    """Whether the class of *running* overrides the hook *name*."""
    return getattr(type(running), name) is not getattr(RunningPolicy, name)


def is_shared(policy: type[Policy]) -> bool:
    """Whether all chains of a process share one running object of *policy*."""
    return policy.runs_once and policy.start is not Policy.start
