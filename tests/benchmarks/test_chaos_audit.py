"""The audit of `make chaos` finds each kind of fault, and accepts what is allowed."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
from places import BENCH

pytestmark = pytest.mark.skipif(not BENCH.exists(), reason="the bench is not part of an installed package")

LIMIT, WINDOW = 1_000, 10.0


class Audit:
    """The modules of the audit, and calls for it."""

    def __init__(self) -> None:
        self.audit, self._load = importlib.import_module("chaos_audit"), importlib.import_module("chaos_load")

    def call(self, outcome: str = "done", *, made: int = 20, at: float = 100.0, **more: Any) -> Any:
        """Return the record of a call that was sent and arrived at *at*, with a ceiling of 100."""
        tenant = self._load.Tenant("t", LIMIT, grows=more.pop("grows", False), is_patient=more.pop("is_patient", False))
        record = self._load.Record("1", tenant, more.pop("instance", 0))
        record.outcome, record.made, record.ceiling = outcome, made, 100
        record.sent_at = record.arrived_at = record.ended_at = at
        for name, value in more.items():
            setattr(record, name, value)
        return record

    def broken(self, *records: Any, spent: int, reserved: int = 0, rate: int = 80, **disturbances: Any) -> list[str]:
        """Return the broken rules of a tenant with these calls."""
        counted = self.audit.Counted(spent, reserved, LIMIT)
        found = self.audit.row_of(
            records, counted, self.audit.Disturbances(**disturbances), rate=rate, window=WINDOW
        ).broken
        assert isinstance(found, list)
        return found


@pytest.fixture
def audit(monkeypatch: pytest.MonkeyPatch) -> Audit:
    """Return the audit, imported from the bench."""
    monkeypatch.syspath_prepend(BENCH)
    return Audit()


def test_exact_charge_breaks_no_rule(audit: Audit) -> None:
    """A call that is charged what upstream produced, its prompt of 5 tokens included, is right."""
    assert audit.broken(audit.call(), spent=25) == []


def test_call_that_costs_too_little_is_found(audit: Audit) -> None:
    """Upstream produced more than was charged."""
    assert audit.broken(audit.call(), spent=24) == ["produced more than spent"]


def test_token_that_was_not_read_needs_no_charge(audit: Audit) -> None:
    """Where upstream waits for the client of each token, the last one may be unread when the client leaves."""
    left = audit.call("left", in_steps=True, received=19)
    assert audit.broken(left, spent=24) == []
    assert audit.broken(left, spent=23) == ["produced more than spent"]


def test_limit_that_is_exceeded_is_found(audit: Audit) -> None:
    """More was spent than the limit allows."""
    many = [audit.call(made=1_000, ceiling=1_000)]
    assert audit.broken(*many, spent=1_005) == ["spent more than the limit"]


def test_reservation_that_stays_is_found(audit: Audit) -> None:
    """Something is reserved although all calls have ended."""
    assert audit.broken(audit.call(), spent=25, reserved=1) == ["reserved at the end"]


def test_unexplained_charge_is_found(audit: Audit) -> None:
    """A call that ended, or was refused, costs no reservation; one whose process was killed does."""
    assert audit.broken(audit.call(), spent=116) == ["spent more than its calls explain"]
    assert audit.broken(audit.call("429", made=0, arrived_at=0.0), spent=1) == ["spent more than its calls explain"]
    assert audit.broken(audit.call("cut"), spent=116, killed={0: 100.0}) == []
    assert audit.broken(audit.call("cut"), spent=117, killed={0: 100.0}) == ["spent more than its calls explain"]


def test_settlement_during_a_lock_may_die_with_its_process(audit: Audit) -> None:
    """A call that ended while the file was locked may be charged in full, if its process was killed soon after."""
    killed = {0: 120.0}
    assert audit.broken(audit.call(), spent=116, killed=killed, locked=[(98.0, 103.0)]) == []
    assert audit.broken(audit.call(), spent=116, killed=killed) == ["spent more than its calls explain"]
    assert audit.broken(audit.call(at=50.0), spent=116, killed=killed, locked=[(48.0, 53.0)]) != []


def test_patient_clients_pay_exactly_what_was_produced(audit: Audit) -> None:
    """Where no process was killed, a suspended one may charge nothing beyond what upstream produced."""
    assert audit.broken(audit.call(is_patient=True), spent=26) == ["spent more than its calls explain"]


def test_growing_stream_may_run_ahead_by_one_step(audit: Audit) -> None:
    """The debt of a growing stream is lost with its process, at most one step of it."""
    cut = audit.call("cut", grows=True, made=200)
    assert audit.broken(cut, spent=205 - 64, killed={0: 100.0}) == []
    assert audit.broken(cut, spent=204 - 64, killed={0: 100.0}) == ["produced more than spent"]
    assert audit.broken(cut, spent=204) == ["produced more than spent"]


def test_span_with_too_many_calls_is_found(audit: Audit) -> None:
    """Calls in less than a window count together; those that are a window apart do not."""
    calls = [audit.call(at=100.0 + second) for second in range(10)]
    assert audit.broken(*calls, spent=250, rate=9) == ["a span of the rate is exceeded"]
    assert audit.broken(*calls, spent=250, rate=10) == []
    later = audit.call(at=110.0)
    assert audit.broken(*calls, later, spent=275, rate=10) == []


def test_delayed_arrival_breaks_no_rule(audit: Audit) -> None:
    """A suspended process sends upstream late what it reserved in time; that is shown, and is no fault of the rate."""
    late = [audit.call(at=100.0, arrived_at=133.0) for _ in range(5)]
    spans = audit.audit.fullest_spans([*late, *(audit.call(at=133.5) for _ in range(5))], WINDOW)
    assert (spans.arrivals, spans.certain) == (10, 5)
