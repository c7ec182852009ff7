"""A large call lets the event loop run between its policies."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from policies import Call, Claim, ClaimLease, Lease, Match, Policy, Sliding
from policies.testing import make_call, serve

pytestmark = pytest.mark.anyio


class Iterations:
    """Counts event-loop iterations."""

    def __init__(self) -> None:
        self.passed = 0
        self._loop = asyncio.get_running_loop()
        self._loop.call_soon(self._tick)

    def _tick(self) -> None:
        self.passed += 1
        self._loop.call_soon(self._tick)


class NotingLease(ClaimLease):
    """Notes the iteration in which it makes its claims."""

    def __init__(self, claim: Claim, seen: list[int], iterations: Iterations) -> None:
        super().__init__(claim)
        self._seen, self._iterations = seen, iterations

    def claims(self) -> Sequence[Claim]:
        self._seen.append(self._iterations.passed)
        return super().claims()


class Noting(Policy, frozen=True):
    """Notes the iteration in which it admits, and calls the model `late`."""

    seen: list[int]
    iterations: Iterations

    async def admit(self, call: Call) -> Lease:
        self.seen.append(self.iterations.passed)
        call.model = "late"
        claim = self.claim(call, 1, limit=9, window=Sliding(60.0))
        return NotingLease(claim, self.seen, self.iterations)


@pytest.mark.parametrize("is_large", [True, False])
async def test_each_policy_of_a_large_call_has_its_own_iteration(*, is_large: bool) -> None:
    """Between two policies of a large call, and before its claims, other tasks run; a small call does not wait."""
    seen: list[int] = []
    iterations = Iterations()
    late = Match(model="late")
    names = {"b": late, "a": Match(), "c": Match()}  # b applies only after a, which admits behind it
    policies = [Noting(name=name, match=match, seen=seen, iterations=iterations) for name, match in names.items()]
    served = await serve(policies, make_call("hi", is_large=is_large))

    assert served.rejection is None
    assert len(seen) == 6
    admitted, claimed = seen[:3], seen[3:]
    assert len(set(admitted)) == (3 if is_large else 1)
    assert len(set(claimed)) == 1
    assert (claimed[0] > admitted[-1]) is is_large
