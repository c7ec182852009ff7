"""Mistakes in the methods of policies and leases are refused when the class is made, with the cure."""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any

import pytest

from policies import HookError, Lease, Policy, RunningPolicy


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
