"""What the log says about the store: that it is down and why, what happens to limits meanwhile, and that it is back."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, TypeAlias

from policies.api.policy import Policy, is_built_in, overrides
from policies.engine.reservations.settlement_queue import MAX_PENDING_SETTLEMENTS
from sidecar.observers.entry_format import EntryFormat
from sidecar.observers.state_log import StateLog

if TYPE_CHECKING:
    from policies.api.policy import StoreFailure
    from sidecar.config.settings import Settings

STORE_SUBJECT = "store"
MAX_LOGGED_CAUSES = 8
"""Causes that are logged of one outage."""
STABLE_AFTER_HEARTBEATS = 150
"""Answered heartbeats (five minutes) after which a failure is a new outage, not the same one again."""
MAX_NEEDED_ANSWERS = 128
MAX_NAMED_POLICIES = 8
"""Policies that one line names for each of the two ways to treat calls."""

LimitsMeanwhile: TypeAlias = dict[str, Literal["refuse", "admit"]]
"""What each policy with limits does with its calls while the store is down, by its name."""


def limits_meanwhile(settings: Settings) -> LimitsMeanwhile:
    """Return what each policy with limits does while the store is down. Profiles and keys may have policies of their own."""
    found: dict[str, StoreFailure] = {}
    chains = [chain for access in settings.accesses for chain in (access.base, *access.profiles.values())]
    for policy in (policy for chain in chains for policy in chain.policies):
        if _may_have_claims(policy) and found.get(policy.name) != "refuse":
            found[policy.name] = policy.when_store_fails
    return found


def _may_have_claims(policy: Policy) -> bool:
    """Whether calls reserve from *policy*. Of a deployment's own policy that admits calls, it is not known."""
    kind = type(policy)
    is_limit = kind.admit_returns_lease or overrides(policy, "limits_for")
    return is_limit or (not is_built_in(kind) and overrides(policy, "admit"))


def consequence(limits: LimitsMeanwhile) -> str:
    """Return what happens to calls and settlements while the store is down, as one sentence without full stop."""
    refusing = [name for name, choice in limits.items() if choice == "refuse"]
    admitting = [name for name, choice in limits.items() if choice == "admit"]
    parts: list[str] = []
    if refusing:
        parts.append(f"{_named(refusing)} {'refuse' if len(refusing) > 1 else 'refuses'} calls (503 store_unavailable)")
    if admitting:
        them = "them" if refusing else "calls"
        parts.append(f"{_named(admitting)} {'admit' if len(admitting) > 1 else 'admits'} {them} uncounted")
    if not parts:
        return "no policy has limits, so calls are served"
    settlements = f"settlements are queued (at most {MAX_PENDING_SETTLEMENTS:,}) and sent when it is back"
    return f"{', '.join(parts)}; {settlements}"


def _named(names: list[str]) -> str:
    shown = [repr(name) for name in names[:MAX_NAMED_POLICIES]]
    if more := len(names) - len(shown):
        return f"{', '.join(shown)} and {more} more"
    return " and ".join([", ".join(shown[:-1]), shown[-1]] if len(shown) > 1 else shown)


class StoreState:
    """Writes one line when the store goes down, one for each further cause, and one when it is back.

    Every failed operation may call `failed`. The store counts as back after an answered heartbeat, if no operation has failed
    since the heartbeat before. A store that fails again soon must answer twice as many heartbeats each time. So one that fails
    now and then, such as a damaged file, does not fill the log. *pending* returns how many settlements are queued.
    *known_cause* is the cause of an outage that was logged before.
    """

    def __init__(self, states: StateLog, meanwhile: str, pending: Callable[[], int], *, known_cause: str = "") -> None:
        self._states, self._meanwhile, self._pending = states, meanwhile, pending
        self._causes: set[str] = {known_cause} if known_cause else set()
        self._answered = 0 if known_cause else STABLE_AFTER_HEARTBEATS
        """Answered heartbeats since the last change; -1 after a failure, because the next heartbeat may be too early to tell."""
        self._needed_answers = 1
        """Answered heartbeats after which the store is back."""
        self._most_pending = 0

    def failed(self, cause: str) -> None:
        """Note that an operation failed for *cause*, and log a cause that is new in this outage."""
        if not self._causes:
            is_stable = self._answered >= STABLE_AFTER_HEARTBEATS
            self._needed_answers = 1 if is_stable else min(2 * self._needed_answers, MAX_NEEDED_ANSWERS)
        self._answered = -1
        self._most_pending = max(self._most_pending, self._pending())
        if cause in self._causes or len(self._causes) >= MAX_LOGGED_CAUSES:
            return
        self._causes.add(cause)
        more = {"meanwhile": self._meanwhile}
        self._states.changed(STORE_SUBJECT, "down", cause=cause, level="error", repeats=True, more=more)

    def heartbeat_failed(self, cause: str) -> None:
        """Note that a heartbeat failed for *cause*."""
        self.failed(cause)
        self._answered = 0

    def heartbeat_answered(self) -> bool:
        """Note that a heartbeat was answered; return whether the store is back by that."""
        self._answered += 1
        if not self._causes or self._answered < self._needed_answers:
            return False
        self._causes.clear()
        self._answered = 0
        # A catch-up has just begun to send them: how many have been sent by now is chance.
        queued, self._most_pending = max(self._most_pending, self._pending()), 0
        self._states.changed(STORE_SUBJECT, "up", level="info", more={"settlements_queued": queued})
        return True


def report_fault(settings: Settings, fault: str, write: Callable[[bytes], object]) -> None:
    """Write the line that the store is down for *fault*, in the format of the log."""
    states = StateLog(write, EntryFormat(settings.log.format), settings.log.level, clock=time.time)
    StoreState(states, consequence(limits_meanwhile(settings)), lambda: 0).failed(fault)


def expect_store(states: StateLog, fault: str, now: float) -> None:
    """Set the state of the store that the check at start has found: down for *fault*, or up. *now* is in seconds since 1970."""
    if fault:
        states.expect(STORE_SUBJECT, "down", since=now)
    else:
        states.expect(STORE_SUBJECT, "up")
