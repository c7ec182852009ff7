"""Interleavings of attempts at the circuit breaker: against a model for one tenant, and against rules for several."""

from __future__ import annotations

from collections import deque
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.api.upstream import UpstreamError
from policies.testing import FakeClock
from sidecar.config.upstream import BreakerSettings
from sidecar.upstream.circuit_breaker import Breaker, BreakerOpen, Permit

SETTINGS = BreakerSettings(calls=3, rate=0.6, window=30, probe=5)
BUCKET_SECONDS = SETTINGS.window / 10
BROKEN, REFUSED = UpstreamError(RuntimeError(), "server"), UpstreamError(RuntimeError(), "request")
UNREACHED = UpstreamError(RuntimeError(), "connect")
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["enter", "enter", "fail", "fail", "succeed", "refuse", "release", "wait", "wait long"]),
        st.integers(0, 7),
    ),
    max_size=120,
)


class Model:
    """A breaker with one circuit: results of the last 30 seconds in buckets of 3, and overlapping probes."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock, self.epoch, self.is_open, self.next_probe = clock, 0, False, 0.0
        self.buckets: deque[tuple[float, list[bool]]] = deque()

    def enter(self) -> int | None:
        """Return the epoch of the attempt; None if it is refused."""
        if self.is_open:
            if self.clock() < self.next_probe:
                return None
            self.next_probe = self.clock() + SETTINGS.probe
        return self.epoch

    def end(self, epoch: int, *, failed: bool) -> None:
        if epoch != self.epoch:
            return
        if self.is_open:
            if not failed:
                self.change(is_open=False)
            return
        while self.buckets and self.buckets[0][0] <= self.clock() - SETTINGS.window:
            self.buckets.popleft()
        if not self.buckets or self.buckets[-1][0] <= self.clock() - BUCKET_SECONDS:
            self.buckets.append((self.clock(), []))
        self.buckets[-1][1].append(failed)
        results = [result for _, bucket in self.buckets for result in bucket]
        if failed and len(results) >= SETTINGS.calls and sum(results) >= SETTINGS.rate * len(results):
            self.change(is_open=True)

    def change(self, *, is_open: bool) -> None:
        self.is_open, self.next_probe = is_open, self.clock() + SETTINGS.probe
        self.epoch += 1
        self.buckets.clear()


@pytest.mark.parametrize(
    ("failure", "connected"), [(BROKEN, True), (UNREACHED, True), (UNREACHED, False)], ids=["5xx", "reset", "refused"]
)
@given(steps=STEPS)
def test_one_tenant_with_one_model_sees_one_circuit(
    failure: UpstreamError,
    connected: bool,  # noqa: FBT001  # a column
    steps: list[tuple[str, int]],
) -> None:
    """For one tenant, one model and one kind of failure the breaker is one circuit with a sliding window."""
    clock = FakeClock()
    breaker, model = Breaker(SETTINGS, clock), Model(clock)
    running: list[tuple[Permit, int]] = []
    for step, at in steps:
        if step == "enter":
            epoch = model.enter()
            if epoch is not None:
                running.append((breaker.enter("t", "m", "1.2.3.4"), epoch))
                continue
            with pytest.raises(BreakerOpen) as refused:
                breaker.enter("t", "m", "1.2.3.4")
            assert refused.value.wait == pytest.approx(model.next_probe - clock())
        elif step == "wait":
            clock.advance(0.5 + at)
        elif step == "wait long":
            clock.advance(10.0 * (1 + at))
        elif running:
            permit, epoch = running.pop(at % len(running))
            if step == "release":
                permit.release()
            elif step == "fail":
                permit.failed(failure, connected=connected)
                model.end(epoch, failed=True)
            else:
                _end_well(permit, step)
                model.end(epoch, failed=False)
        assert (breaker.state == "closed") is not model.is_open


def _end_well(permit: Permit, step: str) -> None:
    if step == "succeed":
        permit.answered()
        permit.succeeded()
    else:
        permit.failed(REFUSED)


class Tenants:
    """Attempts of an attacker and of tenants whose attempts never fail, in any order."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.breaker = Breaker(SETTINGS, self.clock)
        self.running: dict[str, list[Permit]] = {}

    def step(self, tenant: str, step: str, model: str, at: int, ends: dict[str, Any]) -> None:
        """Do one *step* of *tenant*; *ends* are the ways in which its attempts end."""
        running = self.running.setdefault(tenant, [])
        if step == "enter":
            running.append(self.breaker.enter(tenant, model))
        elif running and step in ends:
            ends[step](running.pop(at % len(running)))


ATTACKER_ENDS = {
    "succeed": lambda permit: permit.failed(BROKEN),
    "fail": lambda permit: permit.failed(BROKEN),
    "refuse": lambda permit: permit.failed(UNREACHED),
    "release": lambda permit: permit.release(),
}
HEALTHY_ENDS = {
    "succeed": lambda permit: permit.succeeded(),
    "fail": lambda permit: permit.succeeded(),
    "refuse": lambda permit: permit.failed(REFUSED),
    "release": lambda permit: permit.release(),
}


@given(
    steps=st.lists(
        st.tuples(
            st.sampled_from(["attacker", "attacker", "attacker", "one", "two"]),
            st.sampled_from(["enter", "enter", "succeed", "fail", "refuse", "release", "wait"]),
            st.sampled_from(["m", "n"]),
            st.integers(0, 7),
        ),
        max_size=150,
    )
)
def test_no_order_of_one_tenants_failures_blocks_others(steps: list[tuple[str, str, str, int]]) -> None:
    """Tenants whose attempts do not fail are never refused, whatever one other tenant does and in which order."""
    tenants = Tenants()
    for tenant, step, model, at in steps:
        if step == "wait":
            tenants.clock.advance(at)
        elif tenant != "attacker":
            tenants.step(tenant, step, model, at, HEALTHY_ENDS)
        else:
            try:
                tenants.step(tenant, step, model, at, ATTACKER_ENDS)
            except BreakerOpen:
                continue


@given(
    steps=st.lists(
        st.tuples(
            st.integers(0, 5),
            st.sampled_from(["enter", "enter", "succeed", "fail", "refuse", "release", "wait"]),
            st.sampled_from(["m", "n"]),
            st.integers(0, 7),
        ),
        max_size=150,
    ),
    attacks=st.lists(st.sampled_from(["release", "fail", "hang"]), min_size=1, max_size=12),
)
def test_recovered_upstream_is_reached_soon(steps: list[tuple[int, str, str, int]], attacks: list[str]) -> None:
    """After any history, a tenant that asks each second gets an answer within a minute and a half, whatever others do."""
    tenants = Tenants()
    for tenant, step, model, at in steps:
        if step == "wait":
            tenants.clock.advance(at)
            continue
        try:
            tenants.step(f"t{tenant}", step, model, at, ATTACKER_ENDS)
        except BreakerOpen:
            continue
    for _ in range(90):
        for attacker, attack in enumerate(attacks):
            try:
                permit = tenants.breaker.enter(f"t{attacker}", "m")
            except BreakerOpen:
                continue
            if attack != "hang":
                ATTACKER_ENDS[attack](permit)
        try:
            permit = tenants.breaker.enter("victim", "m")
        except BreakerOpen:
            tenants.clock.advance(1)
            continue
        permit.succeeded()
        return
    pytest.fail("the victim was never let through")
