"""Base classes of policies: immutable settings, and the running object that serves calls."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, TypeAlias

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
    """The object whose hooks the chain calls. The chain skips hooks that a class does not override."""

    __slots__ = ()

    admit_returns_lease: ClassVar[bool] = False
    """Whether `admit` returns a lease with claims for each call that a model answers: the lease is the limit.

    True for `Rate` and `Budget`. The chain ends a call with status 500 if a subclass returns None. A subclass that exempts
    calls sets it to False.
    """

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        check_policy(cls)

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

    def limits_for(self, call: Call) -> Sequence[Claim]:
        """Return the limits that count calls like *call*, as claims of the least that one such call takes.

        Called for each `GET /v1/usage`; nothing is reserved. It must change nothing and must not block. *call* has the
        caller's tenant, address, profile and headers. Its body has only the model and the user of the query, if any.
        `match` is not checked before: it is shown. Return the same counters as the leases of `admit` do.
        """
        return ()

    async def stop(self) -> None:
        """Release resources. Called once, when the last chain that uses it is closed."""


def check_policy(cls: type[RunningPolicy]) -> None:
    """Raise `HookError` for a mistake in the hooks of *cls*. See `check_hooks`."""
    check_hooks(cls, POLICY_HOOKS, POLICY_CURES)
    if cls.admit_returns_lease and getattr(cls.admit, "__annotations__", {}).get("return", cls) in (None, "None"):
        raise HookError(f"{cls.__name__}.admit returns None", LEASE_CURE)


CALL_HOOKS = ("admit", "enter", "retry")
LEASE_CURE = "return the lease of `await super().admit(call)`: it is the limit"
_OLD_ATTRIBUTES = {"lowers": "tightened_by_profiles", "pinned": "fixed_in_profiles", "only": "match"}


class _PolicyType(msgspec.StructMeta):
    """Describes the mistake of a class with a field `only`, whose name in the file is that of the field `match`."""

    def __new__(cls, name: str, bases: tuple[type, ...], namespace: dict[str, Any], **options: Any) -> _PolicyType:
        """Create a policy class. Raises `HookError`."""
        if "__module__" not in namespace and (frame := inspect.currentframe()) is not None and frame.f_back is not None:
            namespace["__module__"] = frame.f_back.f_globals.get("__name__", "")  # as without this metaclass
        try:
            return super().__new__(cls, name, bases, namespace, **options)
        except ValueError as error:
            if "only" in namespace or "only" in namespace.get("__annotations__", {}):
                raise HookError(f"{name}.only is the option of the field match", "it is now called match") from error
            raise


class Policy(
    msgspec.Struct, RunningPolicy, metaclass=_PolicyType, frozen=True, kw_only=True, forbid_unknown_fields=True
):
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
    fixed_because: ClassVar[str] = "they share one counter: set it in [[policy]] instead"
    """Why the fields of `fixed_in_profiles` cannot differ, and the cure, for the error at start."""
    runs_once: ClassVar[bool] = True
    """Whether all chains of a process share the object that an overridden `start` returns. See `start`."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        for old, new in _OLD_ATTRIBUTES.items():
            if old in vars(cls) and not inspect.ismemberdescriptor(vars(cls)[old]):
                raise HookError(f"{cls.__name__}.{old} has no effect", f"it is now called {new}")

    @property
    def model_options(self) -> Mapping[str, Sequence[str]]:
        """Return the options that make this policy depend on a call's model, with the names or patterns in each.

        If there are any, `/v1` refuses fields by which a client could choose another model than the named one.
        Override it in a policy that reads `call.model`, and keep the options of `super().model_options`.
        """
        model = self.match.model
        return {} if model == "*" else {"only": (model,) if isinstance(model, str) else model}

    def start(self, services: Services) -> RunningPolicy:
        """Return the object that serves the calls: the policy itself, or one with state of the process.

        A process has one chain per profile, and per key with its own limits. An overridden `start` is called once for
        all of them, so a limit of 4 holds for the whole process; profiles cannot change such a policy's options. A class with
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
        answer: int = 0,
        max_identities: int = DEFAULT_MAX_IDENTITIES,
    ) -> Claim:
        """Return a claim of *amount* for *call* on the limit of this policy, to be returned by `Lease.claims`.

        Units are requests, tokens, or micro-dollars with `unit="usd"` (*limit* too). *by* selects the identity that is
        limited. The claim grows by *per_token* for each token of the answer's ceiling; the store may lower the ceiling
        down to *floor*. For a call without a ceiling, *answer* tokens are reserved at a time. Beyond *max_identities*
        values that clients choose (addresses, models, users), further ones share one counter.
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
            answer=answer,
            max_identities=0 if group is None else max_identities,
            identity_group=group or "",
            by=by,
        )


def overrides(running: RunningPolicy, name: str) -> bool:
    """Whether the class of *running* overrides the hook *name*."""
    return getattr(type(running), name) is not getattr(RunningPolicy, name)


def is_built_in(policy: type[RunningPolicy]) -> bool:
    """Whether *policy* is a class of this package."""
    return policy.__module__.partition(".")[0] == __name__.partition(".")[0]


def is_shared(policy: type[Policy]) -> bool:
    """Whether all chains of a process share one running object of *policy*."""
    return policy.runs_once and policy.start is not Policy.start
