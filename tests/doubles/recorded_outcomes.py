"""A policy that records how calls ended."""

from __future__ import annotations

from typing import Any

from policies import Call, Lease, Outcome, Policy


class RecordingLease(Lease):
    def __init__(self, outcomes: list[Outcome]) -> None:
        self._outcomes = outcomes

    async def settle(self, outcome: Outcome) -> None:
        self._outcomes.append(outcome)


class RecordOutcomes(Policy, frozen=True):
    """Appends the outcome of each call to *outcomes*."""

    outcomes: Any

    async def admit(self, call: Call) -> Lease:
        return RecordingLease(self.outcomes)
