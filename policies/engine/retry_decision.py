"""Decide after a failed attempt whether the call makes another one, and where."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from policies.api.failure import GIVE_UP, Failure, GiveUp, Retry
from policies.api.failure_kinds import give_up_reason

from .error_report import HookMisuse, not_configured, returned

if TYPE_CHECKING:
    from policies.api.call import Call
    from policies.api.services import Services
    from policies.api.upstream import Upstream, UpstreamError

    from .call_state import CallState
    from .members import Members
    from .retry_budget import RetryBudgets

DECLINED_BY_CHAIN = GiveUp("declined")


class RetryDecisions:
    """The retry decisions of one chain: those of its policies, bounded by the call's deadline and the retry budgets."""

    def __init__(self, members: Members, services: Services, budgets: RetryBudgets, upstream: Upstream) -> None:
        self._members, self._services, self._budgets, self._upstream = members, services, budgets, upstream

    def decide(self, run: CallState, error: UpstreamError) -> Retry | None:
        """Return the next attempt after *error*; None for none, with the reason in `error.give_up_reason`.

        A call that has sent output is never repeated: its client may repeat it. A retry that names no upstream goes to one
        that was not tried and serves the model as well. It goes at once, because the wait is that of the failed upstream.
        """
        if run.started:
            return None
        if error.is_final:
            error.give_up_reason = "declined"
            return None
        failure = error.failure(attempt=run.attempts, upstream=run.tried[-1], tried=tuple(run.tried))
        verdict = self._verdict(run.call, failure)
        if (name := self._another(run)) is not None:
            if not isinstance(verdict, Retry) and failure.retry_after is not None:
                verdict = self._verdict(run.call, replace(failure, retry_after=None))
            if isinstance(verdict, Retry) and not verdict.upstream:
                verdict = Retry(0.0, name)
        if isinstance(verdict, Retry):
            name = verdict.upstream or failure.upstream
            if name not in run.tried or self._budgets.of(name).withdraw(run.call.tenant):
                return verdict
            verdict = DECLINED_BY_CHAIN
        other = self._verdict(run.call, replace(failure, can_retry_here=False))
        if isinstance(other, Retry) and other.upstream is not None and other.upstream not in run.tried:
            return other
        error.give_up_reason = verdict.reason or give_up_reason(failure)
        return None

    def _another(self, run: CallState) -> str | None:
        call = run.call
        if call.upstream or call.required_upstream or len(self._services.upstreams) == 1:
            return None
        return self._upstream.another(call, run.tried)

    def _verdict(self, call: Call, failure: Failure) -> Retry | GiveUp:
        """Return what the first policy with an opinion wants; a retry only if there is time for it."""
        for member in self._members.judging:
            if not member.covers(call) or (decision := member.running.retry(call, failure)) is None:
                continue
            if isinstance(decision, Retry):
                if decision.upstream and decision.upstream not in (known := self._services.upstreams):
                    what = f"a Retry with {not_configured(known)}"
                    raise HookMisuse(f"{type(member.running).__name__}.retry returned {what}")
                if call.required_upstream and decision.upstream not in (None, call.required_upstream):
                    continue  # no other upstream has what the call names
                in_time = call.deadline is None or self._services.monotonic() + decision.after < call.deadline
                return decision if in_time else DECLINED_BY_CHAIN
            if isinstance(decision, GiveUp):
                return decision
            raise HookMisuse(returned(member.running, "retry", decision, "a Retry, GIVE_UP or None"))
        return GIVE_UP
