"""A policy that logs in which order the chain calls its hooks."""

from __future__ import annotations

from typing import Any

import anyio

from policies import Call, Lease, Outcome, Policy, Rejection


class LoggedLease(Lease):
    """Logs its settlement; *error* is raised by it, or is `hang`."""

    def __init__(self, log: list[str], name: str, outcomes: list[Outcome] | None = None, error: str = "") -> None:
        self.log, self.name, self.outcomes, self.error = log, name, outcomes, error

    async def settle(self, outcome: Outcome) -> None:
        await anyio.lowlevel.checkpoint()
        self.log.append(f"{self.name} settled")
        if self.outcomes is not None:
            self.outcomes.append(outcome)
        if self.error == "hang":
            await anyio.sleep_forever()
        if self.error:
            raise RuntimeError(self.error)


class LoggedPolicy(Policy, frozen=True):
    """Logs each hook that the chain calls, and collects the outcomes of its leases."""

    log: Any
    rejects: bool = False
    error: str = ""
    outcomes: Any = None

    async def admit(self, call: Call) -> Lease:
        self.log.append(f"{self.name} admits")
        if self.rejects:
            raise Rejection(403, "forbidden", "no")
        return LoggedLease(self.log, self.name, self.outcomes, self.error)

    async def enter(self, call: Call) -> Lease | None:
        self.log.append(f"{self.name} enters")
        return None
