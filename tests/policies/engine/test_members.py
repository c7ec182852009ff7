"""Running policies: one object for all chains of a process, stopped with the last chain."""

from __future__ import annotations

from typing import Any

import pytest

from policies import Call, Chain, HookError, Lease, Match, Policy, Rate, RunningPolicy
from policies.api.services import Services
from policies.engine.members import MAX_REMEMBERED_PATHS, Members
from policies.testing import ScriptedUpstream, make_call, make_services, serve

pytestmark = pytest.mark.anyio

SECRET = "the prompt says hunter2"


class Queue(RunningPolicy):
    def __init__(self, log: list[str], name: str) -> None:
        self.log, self.name = log, name
        log.append(f"{name} starts")

    async def enter(self, call: Call) -> Lease | None:
        self.log.append(f"{self.name} entered")
        return None

    async def stop(self) -> None:
        self.log.append(f"{self.name} stops")


class Queued(Policy, frozen=True):
    log: Any
    limit: int = 4

    def start(self, services: Services) -> RunningPolicy:
        return Queue(self.log, self.name)


def chain(services: Services, *policies: Policy) -> Chain:
    return Chain(policies, ScriptedUpstream(), services)


async def test_chains_share_one_running_policy() -> None:
    """Chains of one process share a running policy by class and name; it stops once, with the last chain."""
    log: list[str] = []
    services = make_services()
    first = chain(services, Queued(name="a", log=log))
    second = chain(services, Queued(name="a", log=log), Queued(name="b", log=log))
    for each in (first, second):
        await serve([], make_call("hi", services=services), chain=each)
    assert log == ["a starts", "b starts", "a entered", "a entered", "b entered"]

    del log[:]
    await first.close()
    await first.close()
    assert log == []
    await second.close()
    assert log == ["b stops", "a stops"]


async def test_different_options_of_one_running_policy_are_refused() -> None:
    """Two chains with different options of one running policy are refused: only one could be in force."""
    services = make_services()
    log: list[str] = []
    chain(services, Queued(name="a", log=log))
    with pytest.raises(ValueError, match="policy 'a' runs once for all chains, but its options differ between them"):
        chain(services, Queued(name="a", log=log, limit=2))


async def test_other_services_start_another_running_policy() -> None:
    """Chains with different services share no running policy."""
    log: list[str] = []
    for _ in range(2):
        chain(make_services(), Queued(name="a", log=log))
    assert log == ["a starts", "a starts"]


class Slots:
    def __init__(self, log: list[str]) -> None:
        self.log = log

    async def stop(self) -> None:
        self.log.append("slots stop")


class PerChain(RunningPolicy):
    def __init__(self, log: list[str], slots: Slots, limit: int) -> None:
        self.log, self.slots, self.limit = log, slots, limit

    async def enter(self, call: Call) -> Lease | None:
        return None

    async def stop(self) -> None:
        self.log.append(f"chain with {self.limit} stops")


class PerProfile(Policy, frozen=True):
    runs_once = False
    log: Any
    limit: int
    seen: Any

    def start(self, services: Services) -> RunningPolicy:
        slots = services.shared(f"{self.name}.slots", lambda: Slots(self.log))
        self.seen.append(slots)
        return PerChain(self.log, slots, self.limit)


def test_policies_of_a_path_are_remembered_for_few_paths() -> None:
    """The policies that may apply to a path are found once. Beyond the bound, what is remembered is forgotten."""
    policies = [Rate(name=name, requests=1, match=Match(path=path)) for name, path in (("a", "/0"), ("b", "/[01]"))]
    members = Members(policies, make_services())
    found = members.admitting_at("/0")
    assert [[each.name for each in members.admitting_at(path)] for path in ("/0", "/1", "/2")] == [
        ["a", "b"],
        ["b"],
        [],
    ]
    assert members.admitting_at("/0") is found
    for at in range(MAX_REMEMBERED_PATHS):
        members.admitting_at(f"/other/{at}")
    assert members.admitting_at("/0") == found
    assert members.admitting_at("/0") is not found


async def test_policy_may_run_for_each_chain() -> None:
    """With `runs_once = False` each chain starts its own running policy; `shared` returns the object they share."""
    services = make_services()
    log: list[str] = []
    seen: list[Slots] = []
    chains = [chain(services, PerProfile(name="p", log=log, limit=limit, seen=seen)) for limit in (4, 2)]
    assert seen[0] is seen[1]

    await chains[0].close()
    assert log == ["chain with 4 stops"]
    await chains[1].close()
    assert log[1:] == ["chain with 2 stops", "slots stop"]


async def test_shared_object_lives_as_long_as_its_users() -> None:
    """An object that a running policy shares is stopped with the last chain that uses the policy."""
    log: list[str] = []

    class Outer(Queued, frozen=True):
        def start(self, services: Services) -> RunningPolicy:
            services.shared("slots", lambda: Slots(self.log))
            return Queue(self.log, self.name)

    services = make_services()
    first, second = (chain(services, Outer(name="a", log=log)) for _ in range(2))
    await first.close()
    assert log == ["a starts"]
    await second.close()
    assert log == ["a starts", "a stops", "slots stop"]


async def test_shared_outside_start_is_refused() -> None:
    """`shared` outside `start` is an error, because no chain would own the object."""
    with pytest.raises(RuntimeError, match=r"services.shared was called outside Policy.start; call it there"):
        make_services().shared("x", list)


async def test_failing_stop_does_not_prevent_the_others(caplog: pytest.LogCaptureFixture) -> None:
    """A running policy whose `stop` raises does not prevent the others from stopping; the log names its class."""
    log: list[str] = []

    class Stubborn(Queue):
        async def stop(self) -> None:
            raise RuntimeError(SECRET)

    class Fails(Queued, frozen=True):
        def start(self, services: Services) -> RunningPolicy:
            return Stubborn(self.log, self.name)

    services = make_services()
    await chain(services, Queued(name="a", log=log), Fails(name="b", log=log)).close()

    assert log[-1] == "a stops"
    assert "Stubborn.stop failed: RuntimeError" in caplog.text
    assert SECRET not in caplog.text


def test_start_must_return_a_running_policy() -> None:
    """A value of `start` that is no `RunningPolicy` is an error."""

    class Odd(Queued, frozen=True):
        def start(self, services: Services) -> RunningPolicy:
            return object()  # type: ignore[return-value]  # the mistake that is tested

    with pytest.raises(HookError, match=r"Odd.start returned a object; return a RunningPolicy"):
        chain(make_services(), Odd(name="o", log=[]))


def test_policy_without_a_hook_is_refused() -> None:
    """A chain refuses a policy that overrides no hook, and two policies of one name."""

    class Idle(Policy, frozen=True):
        async def _admit(self, call: Call) -> None: ...

    services = make_services()
    with pytest.raises(TypeError, match="Idle overrides none of admit, enter, retry; override one of them"):
        Chain([Idle()], ScriptedUpstream(), services)
    with pytest.raises(ValueError, match="two policies are named trim"):
        Chain([Rate(name="trim", requests=1), Rate(name="trim", requests=2)], ScriptedUpstream(), services)


async def test_running_policy_lives_as_long_as_its_chain() -> None:
    """A running policy is started with its chain, serves its calls, and is stopped with it."""
    log: list[str] = []

    class Queue(RunningPolicy):
        async def enter(self, call: Call) -> Lease | None:
            log.append("entered")
            return None

        async def stop(self) -> None:
            log.append("closed")

    class Queued(Policy, frozen=True):
        def start(self, services: Services) -> RunningPolicy:
            log.append("opened")
            return Queue()

    services = make_services()
    chain = Chain([Queued(name="q")], ScriptedUpstream(), services)
    for _ in range(2):
        await serve([], make_call("hi", services=services), chain=chain)
    await chain.close()

    assert log == ["opened", "entered", "entered", "closed"]


class CountsStops(RunningPolicy):
    def __init__(self) -> None:
        self.stops = 0

    async def admit(self, call: Call) -> Lease | None:
        return None

    async def stop(self) -> None:
        self.stops += 1


class ReturnsShared(Policy, frozen=True):
    made: Any
    limit: int = 1

    def start(self, services: Services) -> RunningPolicy:
        return services.shared("shared.queue", self.make)

    def make(self) -> CountsStops:
        queue = self.made["queue"] = CountsStops()
        return queue


class ReturnsSharedPerChain(ReturnsShared, frozen=True):
    runs_once = False


@pytest.mark.parametrize("kind", [ReturnsShared, ReturnsSharedPerChain])
async def test_shared_object_as_running_policy_stops_once(kind: type[ReturnsShared]) -> None:
    """A running policy that is itself shared is stopped once, with the last chain that uses it."""
    services, made = make_services(), dict[str, CountsStops]()
    first, second = (chain(services, kind(name="q", made=made)) for _ in range(2))
    await first.close()
    assert made["queue"].stops == 0
    await second.close()
    assert made["queue"].stops == 1


class Nests(Policy, frozen=True):
    log: Any

    def start(self, services: Services) -> RunningPolicy:
        def outer() -> Slots:
            services.shared("nest.inner", lambda: Slots(self.log))
            return Slots(self.log)

        services.shared("nest.outer", outer)
        return self

    async def admit(self, call: Call) -> Lease | None:
        return None


class NestsPerChain(Nests, frozen=True):
    runs_once = False


@pytest.mark.parametrize("kind", [Nests, NestsPerChain])
async def test_parts_of_a_shared_object_live_as_long_as_it(kind: type[Nests]) -> None:
    """An object that the factory of a shared object takes is stopped after the last chain that uses the latter."""
    services, log = make_services(), list[str]()
    first, second = (chain(services, kind(name="n", log=log)) for _ in range(2))
    await first.close()
    assert log == []
    await second.close()
    assert log == ["slots stop", "slots stop"]
