"""Mistakes in the methods of policies and leases are refused when the class is made, with the cure."""

from __future__ import annotations

import abc
import functools
import types
from collections.abc import Callable
from typing import Any, Protocol

import pytest

from policies import Budget, Call, Claim, HookError, Lease, Match, Policy, Rate, RunningPolicy


def make(base: type[Any], **methods: Any) -> type[Any]:
    options = {"frozen": True} if issubclass(base, Policy) else {}
    return types.new_class("Mine", (base,), options, lambda body: body.update(methods))


async def awaited(self: Any, call: Any) -> None: ...


async def awaited_alone(self: Any) -> None: ...


async def awaited_with_two(self: Any, call: Any, other: Any) -> None: ...


def plain(self: Any, call: Any) -> None: ...


def plain_alone(self: Any) -> None: ...


def plain_with_two(self: Any, call: Any, failure: Any) -> None: ...


def yields(self: Any, event: Any) -> Any:
    yield event


@pytest.mark.parametrize("base", [Policy, RunningPolicy])
@pytest.mark.parametrize(
    ("name", "method", "problem"),
    [
        ("admitt", awaited, "Mine.admitt is never called; did you mean admit? Otherwise start its name with an underscore"),
        ("retyr", plain_with_two, "Mine.retyr is never called; did you mean retry?"),
        ("open", plain, "Mine.open is never called; it is now called start"),
        ("close", awaited_alone, "Mine.close is never called; it is now called stop"),
        ("claims", plain, "Mine.claims is never called; define claims on the lease that admit returns"),
        ("charge", plain, "define charge on the lease that admit returns"),
        ("refusal", plain, "define refusal on the lease that admit returns"),
        ("event", plain, "define it on the lease that admit returns, as on_event"),
        ("end", plain_alone, "define it on the lease that admit returns, as flush"),
        ("admit", plain, "Mine.admit is awaited; write `async def admit`"),
        ("enter", plain, "Mine.enter is awaited; write `async def enter`"),
        ("stop", plain_alone, "Mine.stop is awaited; write `async def stop`"),
        ("retry", awaited_with_two, "Mine.retry is called without await; write `def retry`, without async"),
        ("start", awaited, "Mine.start is called without await"),
        ("admit", awaited_alone, "Mine.admit is called with 1 argument; let it take 1 argument beside self"),
        ("admit", awaited_with_two, "Mine.admit is called with 1 argument"),
        ("retry", plain, "Mine.retry is called with 2 arguments; let it take 2 arguments beside self"),
        ("stop", awaited, "Mine.stop is called with no arguments"),
    ],
)  # fmt: skip
def test_mistakes_of_a_policy_class_are_refused(
    base: type[Any], name: str, method: Callable[..., Any], problem: str
) -> None:
    """A misspelt hook, one of another class or an old name, a wrong kind and a wrong number of arguments are refused."""
    with pytest.raises(HookError) as refused:
        make(base, **{name: method})
    assert problem in str(refused.value)
    assert isinstance(refused.value, TypeError)


@pytest.mark.parametrize(
    ("name", "method", "problem"),
    [
        ("setle", awaited, "Mine.setle is never called; did you mean settle?"),
        ("on_events", plain, "Mine.on_events is never called; did you mean on_event?"),
        ("event", plain, "Mine.event is never called; it is now called on_event"),
        ("end", plain_alone, "Mine.end is never called; it is now called flush"),
        ("retry", plain_with_two, "Mine.retry is never called; define retry on the policy"),
        ("on_event", awaited, "Mine.on_event is called without await; write `def on_event`, without async"),
        ("on_event", yields, "Mine.on_event is a generator; return the value instead of yielding it"),
        ("settle", plain, "Mine.settle is awaited; write `async def settle`"),
        ("settle", awaited_alone, "Mine.settle is called with 1 argument"),
        ("charge", plain, "Mine.charge is called with 2 arguments"),
        ("claims", plain, "Mine.claims is called with no arguments"),
    ],
)  # fmt: skip
def test_mistakes_of_a_lease_class_are_refused(name: str, method: Callable[..., Any], problem: str) -> None:
    """A misspelt, old or wrong method of a lease is refused, too."""
    with pytest.raises(HookError) as refused:
        make(Lease, **{name: method})
    assert problem in str(refused.value)


@pytest.mark.parametrize(("old", "new"), [("lowers", "tightened_by_profiles"), ("pinned", "fixed_in_profiles")])
def test_renamed_class_attribute_is_refused(old: str, new: str) -> None:
    """A class attribute that was renamed is refused instead of being ignored; a field of that name is none."""
    with pytest.raises(HookError, match=f"Mine.{old} has no effect; it is now called {new}"):
        make(Policy, **{old: ("limit",)})
    make(Policy, __annotations__={old: bool}, **{old: True})


def test_own_methods_are_allowed() -> None:
    """Private methods, properties and names that resemble no hook are the author's; extra parameters need defaults."""

    async def admit(self: Any, call: Any, *, quick: bool = False) -> None: ...

    made = make(Policy, admit=admit, _admitt=plain, measure=plain, charged=property(plain_alone))
    assert made().name == ""
    make(Lease, kept=plain_alone, settle=awaited, on_event=plain)
    make(RunningPolicy, admit=awaited, release=plain_alone, size=plain_alone)


class Called:
    def __call__(self, *given: Any) -> None: ...


class AsyncCalled:
    async def __call__(self, call: Any) -> None: ...


@functools.wraps(awaited)
def decorated(self: Any, call: Any) -> Any:
    return awaited(self, call)


async def awaited_with_number(self: Any, number: int, call: Any) -> None: ...


@pytest.mark.parametrize(
    ("base", "name", "value", "problem"),
    [
        (Lease, "event", functools.partialmethod(plain_with_two, 1), "Mine.event is never called; it is now called on_event"),
        (Lease, "event", Called(), "Mine.event is never called; it is now called on_event"),
        (Lease, "end", property(plain_alone), "Mine.end is never called; it is now called flush"),
        (Lease, "claims", property(plain_alone), "Mine.claims is a property, but the chain calls it; write `def claims`"),
        (Lease, "claims", functools.cached_property(plain_alone), "Mine.claims is a cached_property, but the chain calls it"),
        (Lease, "claims", (), "Mine.claims is a tuple, but the chain calls it; write `def claims`"),
        (Policy, "claims", functools.partial(plain, 1), "Mine.claims is never called"),
        (Policy, "admit", functools.partialmethod(plain_with_two, 1), "Mine.admit is awaited; write `async def admit`"),
        (RunningPolicy, "admit", Called(), "Mine.admit is awaited; write `async def admit`"),
    ],
)  # fmt: skip
def test_whatever_takes_the_place_of_a_method_is_checked(base: type[Any], name: str, value: Any, problem: str) -> None:
    """Partial methods, callable objects, properties and values under the name of a hook are checked like functions."""
    with pytest.raises(HookError) as refused:
        make(base, **{name: value})
    assert problem in str(refused.value)


def test_other_kinds_of_methods_are_allowed() -> None:
    """A hook may be a partial method, a static method, a class method or a callable object, if its signature fits."""
    make(Policy, admit=functools.partialmethod(awaited_with_number, 3))
    make(Policy, admit=decorated)
    make(Policy, admit=classmethod(awaited), retry=staticmethod(plain))
    make(RunningPolicy, admit=AsyncCalled())


@pytest.mark.parametrize(
    ("bases", "problem"),
    [
        ((types.new_class("Old", (), {}, lambda body: body.update(claims=plain)), Policy), "Mine.claims is never called"),
        ((Policy, types.new_class("Old", (), {}, lambda body: body.update(claims=plain))), "Mine.claims is never called"),
        ((types.new_class("Old", (), {}, lambda body: body.update(event=plain)), Lease), "it is now called on_event"),
        ((types.new_class("Odd", (), {}, lambda body: body.update(admitt=awaited)), Policy), "did you mean admit?"),
        (
            (Lease, types.new_class("Late", (), {}, lambda body: body.update(claims=plain_alone))),
            "Late.claims is never called: Lease.claims comes before it; list Late first among the bases of Mine",
        ),
    ],
)  # fmt: skip
def test_methods_of_a_mixin_are_checked(bases: tuple[type[Any], ...], problem: str) -> None:
    """What a class inherits from a mixin is checked, too, also whether it hides behind the base class."""
    options = {"frozen": True} if Policy in bases else {}
    with pytest.raises(HookError) as refused:
        types.new_class("Mine", bases, options)
    assert problem in str(refused.value)


def test_abstract_methods_of_a_mixin_are_allowed() -> None:
    """A protocol and an abstract class may declare the methods of a lease."""

    class Declares(Protocol):
        def settle(self, outcome: Any) -> Any: ...

    class Abstract(abc.ABC):
        @abc.abstractmethod
        def claims(self) -> Any: ...

    class _Mine(Lease, Declares):
        async def settle(self, outcome: Any) -> None: ...

    class _Other(Lease, Abstract): ...


def typing_error(name: str, hook: str) -> dict[str, Any]:
    return {
        name: {"admit": awaited, "settle": awaited, "on_event": plain, "retry": plain_with_two}.get(hook, plain_alone)
    }


@pytest.mark.parametrize(
    ("base", "name", "hook"),
    [
        (Policy, "admitt", "admit"),
        (Policy, "amdit", "admit"),
        (Policy, "Admit", "admit"),
        (Policy, "retri", "retry"),
        (Policy, "retyr", "retry"),
        (Lease, "setle", "settle"),
        (Lease, "on_evnt", "on_event"),
        (Lease, "onEvent", "on_event"),
        (Lease, "claim", "claims"),
        (Lease, "flsh", "flush"),
    ],
)
def test_one_typing_error_is_refused(base: type[Any], name: str, hook: str) -> None:
    """A method one typing error away from a hook, with the hook's signature, is refused."""
    with pytest.raises(HookError, match=f"Mine.{name} is never called; did you mean {hook}?"):
        make(base, **typing_error(name, hook))


def with_three(self: Any, one: Any, two: Any, three: Any) -> None: ...


OWN_NAMES = ["state", "audit", "entry", "admin", "started", "restart", "center", "retries", "step", "shop", "store"]
OWN_LEASE_NAMES = ["change", "charged", "settled", "flushed", "flushes", "settings", "state", "recharge"]


@pytest.mark.parametrize(
    ("base", "name"), [*((Policy, name) for name in OWN_NAMES), *((Lease, name) for name in OWN_LEASE_NAMES)]
)
def test_ordinary_names_are_allowed(base: type[Any], name: str) -> None:
    """Words that resemble a hook are names of helpers."""
    make(base, **{name: plain_alone})
    make(base, **{name: with_three})


def test_helper_beside_its_hook_is_allowed() -> None:
    """A helper one letter away from a hook is allowed beside that hook, or with another signature."""
    make(Lease, claims=plain_alone, claim=plain_alone)
    make(Lease, claim=plain)
    make(Policy, admit=awaited, admin=awaited)


def test_field_with_the_name_of_a_hook_is_refused() -> None:
    """A field of a policy must not have the name of a method that the chain calls; other names are free."""
    with pytest.raises(
        HookError, match="Mine.retry is a field, but the chain calls retry; give the field another name"
    ):
        make(Policy, __annotations__={"retry": int}, retry=3)
    make(Policy, __annotations__={"claims": int, "event": str}, claims=3, event="")


def test_field_of_the_former_name_of_match_is_refused() -> None:
    """A default for `only`, as older versions had it, is refused with the new name."""
    with pytest.raises(HookError, match="Mine.only is the option of the field match; it is now called match"):
        make(Policy, __annotations__={"only": Match}, only=Match(path="/api/chat"))
    assert make(Policy, admit=awaited).__module__ == types.__name__


@pytest.mark.parametrize("base", [Rate, Budget])
def test_limit_that_returns_no_lease_is_refused(base: type[Any]) -> None:
    """A subclass of a limit whose `admit` is annotated to return None is refused: its lease is the limit."""
    cure = "return the lease of `await super\\(\\).admit\\(call\\)`: it is the limit"
    with pytest.raises(HookError, match=f"Tagged.admit returns None; {cure}"):

        class Tagged(base):  # type: ignore[misc]  # a parameter
            async def admit(self, call: Call) -> None:
                await super().admit(call)

    class _Exempts(base):  # type: ignore[misc]  # a parameter
        admit_returns_lease = False

        async def admit(self, call: Call) -> None: ...


def test_claim_of_a_policy_is_no_hook() -> None:
    """A policy may override the helper `claim`."""

    class _Own(Policy, frozen=True):
        def claim(self, call: Call, amount: int, **options: Any) -> Claim:
            return super().claim(call, 2 * amount, **options)
