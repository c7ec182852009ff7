"""Errors of policies: reported by class and place, without values that may hold a prompt."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from policies import Call, Chain, Lease, Outcome, Policy, Usage
from policies.testing import ScriptedUpstream, make_call, serve

pytestmark = pytest.mark.anyio

SECRET = "the prompt says hunter2"


class Revealing:
    def __repr__(self) -> str:
        return SECRET


class RevealingLease(Lease):
    """Holds the prompt in its `repr`; `settle` raises *error*, or hangs without one."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error

    def __repr__(self) -> str:
        return SECRET

    async def settle(self, outcome: Outcome) -> None:
        if self.error is None:
            await anyio.sleep_forever()
        else:
            raise self.error


class Returns(Policy, frozen=True):
    what: Any

    async def admit(self, call: Call) -> Lease | None:
        lease: Lease | None = self.what
        return lease


async def test_wrong_lease_is_named_by_class() -> None:
    """A value of `admit` that is not a lease is an error that names its class and shows no `repr`."""
    with pytest.raises(TypeError) as found:
        await serve([Returns(name="x", what=Revealing())], make_call("hi"))
    assert str(found.value) == "Returns.admit returned a Revealing; return a Lease or None"


@pytest.mark.parametrize(
    ("lease", "line"),
    [
        (RevealingLease(ValueError(SECRET)), "RevealingLease.settle failed: ValueError"),
        (RevealingLease(), "RevealingLease.settle took more than 0.01 s: cancelled"),
    ],
)
async def test_failing_lease_is_logged_by_class(lease: Lease, line: str, caplog: pytest.LogCaptureFixture) -> None:
    """The log names a lease that fails or hangs by class, and its exception by class and place: both may hold a prompt."""
    call = make_call("hi")
    chain = Chain([Returns(name="x", what=lease)], ScriptedUpstream(), call.services, settle_within=0.01)
    served = await serve([], call, chain=chain)

    assert served.outcome is not None
    assert line in caplog.text
    assert "hunter2" not in caplog.text


async def test_failing_charge_is_logged_by_class(caplog: pytest.LogCaptureFixture) -> None:
    """The log names an exception of `charge` by class and place, without its message."""
    from policies import Calendar, Claim, ClaimLease

    class Broken(ClaimLease):
        def charge(self, claim: Claim, usage: Usage) -> int:
            raise ValueError(SECRET)

    class Charges(Policy, frozen=True):
        async def admit(self, call: Call) -> Lease:
            return Broken(self.claim(call, 5, limit=1000, window=Calendar("day"), unit="tokens"))

    await serve([Charges(name="c")], make_call("hi"))

    assert "policy 'c': charge failed: ValueError" in caplog.text
    assert "test_error_report.py" in caplog.text
    assert "hunter2" not in caplog.text
