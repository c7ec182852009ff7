"""Delivery of records to observers."""

from __future__ import annotations

import asyncio
import logging

import pytest
from records import make_record

from policies.records.observer import Observer, RunningObserver
from policies.records.record import Record
from sidecar.observers.dispatch import Observers

SECRET = "sk-secret-prompt"


class Failing:
    def observe(self, record: Record) -> None:
        raise ValueError(SECRET)

    async def close(self) -> None:
        raise ValueError(SECRET)


class Keeping:
    def __init__(self) -> None:
        self.records: list[Record] = []
        self.closed = False

    def observe(self, record: Record) -> None:
        self.records.append(record)

    async def close(self) -> None:
        self.closed = True


class Endless(Keeping):
    async def close(self) -> None:
        await asyncio.Event().wait()


class Counting(Observer, frozen=True):
    kept: Keeping

    def start(self) -> RunningObserver:
        return self.kept


def test_failing_observer_affects_no_other(caplog: pytest.LogCaptureFixture) -> None:
    """A failing observer is logged once per class, by class names alone; the others get every record."""
    before, after = Keeping(), Keeping()
    observers = Observers([before, Failing(), Counting(kept=after).start()], logging.getLogger("sidecar"))
    records = [make_record(request_id=str(at)) for at in range(3)]
    for record in records:
        observers.observe(record)
    assert before.records == after.records == records
    assert [each.getMessage() for each in caplog.records] == [
        "observer Failing cannot take a record: ValueError; reported once"
    ]
    assert SECRET not in caplog.text


def test_close_is_bounded(caplog: pytest.LogCaptureFixture) -> None:
    """Observers that fail or hang when they are closed do not keep the others from closing, nor the process from ending."""
    kept = Keeping()
    asyncio.run(Observers([Endless(), Failing(), kept], logging.getLogger("sidecar")).close(0.01))
    assert kept.closed
    assert {each.getMessage() for each in caplog.records} == {
        "observer Endless cannot close: TimeoutError; reported once",
        "observer Failing cannot close: ValueError; reported once",
    }
