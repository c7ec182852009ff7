"""Run one call through the policies: admit, reserve, enter, forward with retries, settle.

1. Each policy admits, in the order of the file; then the claims of all leases are reserved in one step; then policies that
   make calls wait (a queue) let the call enter. All of it happens once per call, never again for a retry.
2. Attempts are made until one gives output or no policy wants another. Each batch but the last is written to the client's
   sink in the event-loop iteration in which its bytes arrived.
3. However the call ends, everything is settled once, in reverse order, shielded from cancellation, in bounded time. The last
   batch is written after that: a client that has read it may call again at once (BerriAI/litellm#40846).

Only the chain has a `try/finally`, a shield and a retry loop, so that a policy cannot get them wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import anyio
import anyio.lowlevel

from policies.api.call import Call
from policies.api.event import Batch
from policies.api.lease import Lease, Outcome
from policies.api.policy import Policy
from policies.api.services import Services
from policies.api.upstream import Upstream, UpstreamError
from policies.api.usage import Usage
from policies.engine.reservations.reservation import Reservation

from .call_control import CallControl
from .call_state import CANCELLED_END, DONE_END, CallState, end_by, end_of_cut
from .delivery import deliver
from .error_report import HookMisuse, error_report, not_configured
from .event_filters import EventFilters
from .growth import growth_of
from .leases import claims_of, keep, keep_entered
from .ledger import Ledger
from .members import ListedLimits, Member, Members, UnlistedPolicy
from .retry_budget import RetryBudgets
from .retry_decision import RetryDecisions
from .sink import BatchSink

Admitted: TypeAlias = Callable[[], None]


class Chain:
    """The policies of one profile, the first nearest the client, and the upstream behind them.

    *ledger* and *retries* are shared by all chains of a process; made here where there is only one chain.
    """

    def __init__(
        self,
        policies: Sequence[Policy],
        upstream: Upstream,
        services: Services,
        *,
        ledger: Ledger | None = None,
        retries: RetryBudgets | None = None,
        settle_within: float = 5.0,
    ) -> None:
        self._upstream, self._services, self._settle_within = upstream, services, settle_within
        self._ledger = ledger or Ledger(services)
        self._retries = retries or RetryBudgets(services.monotonic)
        self._members = Members(policies, services)
        self._decisions = RetryDecisions(self._members, services, self._retries, upstream)

    async def run(
        self,
        call: Call,
        sink: BatchSink,
        *,
        admitted: Admitted | None = None,
        control: CallControl | None = None,
        last_lease: Lease | None = None,
    ) -> Outcome:
        """Serve *call* and write its batches to *sink*; everything is settled on return, however the call ends.

        *admitted* is called once, when the call holds its reservation. The last batch is written after settlement; the caller's
        own *last_lease* is settled after all others, and its event hooks are not called.
        Raises `Rejection` or `UpstreamError`. A cancellation closes upstream, then settles; `control.settling` is True while it must not
        come.
        """
        services = self._services
        run = CallState(call, Reservation(call, ()), services, services.clock(), services.monotonic())
        run.last_lease = last_lease
        end = CANCELLED_END
        try:
            await self._admit(run, admitted)
            last = await self._forward(run, sink)
            end = DONE_END if last.refusal is None else end_of_cut(last.refusal)
        except Exception as error:
            end = end_by(error)
            raise
        finally:
            if run.growth is not None:
                run.growth.close()
            outcome = run.outcome(end)
            if control is None:
                await self._settle(run, outcome)
            else:
                control.settling, control.outcome = True, outcome
                try:
                    await self._settle(run, outcome)
                finally:
                    control.settling = False
                    run.report(control)
        sink.write_nowait(last)
        return outcome

    def limits_for(self, call: Call) -> list[ListedLimits]:
        """Return the limits that count calls like *call*, in the order of the chain; nothing is reserved.

        Raises what a policy raises.
        """
        return list(self._members.limits_for(call))

    @property
    def unlisted(self) -> list[UnlistedPolicy]:
        """The policies that may refuse calls and do not report limits."""
        return self._members.unlisted

    async def close(self) -> None:
        """Stop what the policies have running and no other chain uses, newest first."""
        await self._members.stop()

    async def _admit(self, run: CallState, admitted: Admitted | None) -> None:
        call = run.call
        claiming: list[tuple[Member, Lease]] = []
        if not_covered := await self._admit_in_order(run, claiming):
            await self._admit_late(run, not_covered, claiming)
        if call.is_large:
            await anyio.lowlevel.checkpoint()
        if claiming and not call.operation.is_free and (claims := claims_of(call, claiming)):
            run.hold.claims = claims
            await self._ledger.reserve(run.hold)
            if run.hold.step:
                run.growth = growth_of(run.hold, self._ledger.grow, self._services)
        if admitted is not None:
            admitted()
        for member in self._members.entering:
            if member.covers(call) and (lease := await member.running.enter(call)) is not None:
                keep_entered(run, member, lease)

    async def _admit_in_order(self, run: CallState, claiming: list[tuple[Member, Lease]]) -> list[Member]:
        """Let the policies admit the call that apply to it at their turn; return the others that may apply later."""
        call, path = run.call, run.call.path
        not_covered: list[Member] = []
        members, is_moved = self._members.admitting_at(path), False
        while members:
            for member in members:
                if call.is_large:
                    await anyio.lowlevel.checkpoint()
                if member.match is not None and not member.match.covers(call):
                    not_covered.append(member)
                elif (lease := await member.running.admit(call)) is not None:
                    keep(run, member, lease, claiming)
                elif member.must_claim and call.has_completion:
                    raise HookMisuse(member.has_no_limit(None))
                if call.path is not path and not is_moved:  # then others may apply from here on, in their order
                    is_moved = True
                    not_covered, members = self._members.after_move(member, path, not_covered)
                    break
            else:
                break
        return not_covered

    @staticmethod
    async def _admit_late(run: CallState, waiting: list[Member], claiming: list[tuple[Member, Lease]]) -> None:
        """Let policies admit that did not apply to the call, but do since another one has rewritten it.

        Each rewrite may bring in others, so it is repeated until none is left that applies. Each admits once.
        """
        call = run.call
        while waiting:
            skipped: list[Member] = []
            for member in waiting:
                if call.is_large:
                    await anyio.lowlevel.checkpoint()
                if not member.covers(call):
                    skipped.append(member)
                elif (lease := await member.running.admit(call)) is not None:
                    keep(run, member, lease, claiming)
                elif member.must_claim and call.has_completion:
                    raise HookMisuse(member.has_no_limit(None))
            if len(skipped) == len(waiting):
                return
            waiting = skipped

    async def _forward(self, run: CallState, sink: BatchSink) -> Batch:
        """Make attempts until one gives output or no policy wants another; return the last batch."""
        filters = None  # a list of models has no events, and a relayed answer is not read
        if run.leases and run.call.has_completion and not run.call.tokens_each:
            filters = EventFilters.of(run.leases, run.call.choices_returned)
        known = self._services.upstreams
        name = run.call.required_upstream or run.call.upstream
        if not name:
            name = known[0] if len(known) == 1 else await self._upstream.choose(run.call)
        if name not in known:
            raise HookMisuse(f"a policy set call.upstream to {not_configured(known)}")
        while True:
            run.begin_attempt(name)
            stream = run.stream = self._upstream.open(run.call, name)
            try:
                async with stream:
                    self._count(run)
                    return await deliver(run, stream, filters, sink)
            except UpstreamError as error:
                spent = run.bank()
                if error.kind != "unavailable":
                    self._count(run)
                verdict = self._decisions.decide(run, error)
                if verdict is None or (spent.paid_prompt and not await self._ledger.top_up(run.hold, spent)):
                    if error.instead is None or run.started:
                        raise
                    return filters.apply(error.instead) if filters else error.instead
                run.attempt_failed(error)
                name, wait = verdict.upstream or name, verdict.after
            await self._services.sleep(wait)

    def _count(self, run: CallState) -> None:
        """Let the call pay into its upstream's retry budget: once, and not where the breaker never let it through."""
        name = run.tried[-1]
        if name not in run.counted and not run.call.is_client_retry:
            run.counted.add(name)
            (self._retries.by_name.get(name) or self._retries.of(name)).deposit(run.call.tenant)

    async def _settle(self, run: CallState, outcome: Outcome) -> None:
        # In a cancelled scope of anyio every further await is cancelled too, hence the shield. A lease that hangs is cancelled
        # with its scope; the next one gets a new scope.
        cancelled: BaseException | None = None
        try:
            if self._services.store.is_remote:
                with anyio.move_on_after(self._settle_within, shield=True):
                    await self._ledger.settle(run.hold, outcome)
            else:
                await self._ledger.settle(run.hold, outcome)
            self._learn(run, outcome.usage)
        except anyio.get_cancelled_exc_class() as error:
            cancelled = error  # raised at the end: the reservation is settled before
        except Exception as error:  # noqa: BLE001  # the leases are settled, whatever fails
            self._services.log.error("call %s: settlement failed: %s", run.call.id, error_report(error))  # noqa: TRY400
        leases = run.leases
        if run.last_lease is not None:
            leases.insert(0, run.last_lease)
        while leases:
            lease = leases[-1]
            with anyio.move_on_after(self._settle_within, shield=True) as scope:
                while leases:
                    lease = leases.pop()
                    try:
                        await lease.settle(outcome)
                    except anyio.get_cancelled_exc_class() as error:
                        if scope.cancel_called:
                            raise
                        cancelled = error
                    except Exception as error:  # noqa: BLE001  # of a policy; the others are settled
                        report = error_report(error)
                        self._services.log.error("%s.settle failed: %s", type(lease).__name__, report)  # noqa: TRY400
            if scope.cancelled_caught:
                name, limit = type(lease).__name__, self._settle_within
                self._services.log.error("%s.settle took more than %s s: cancelled", name, limit)
        if cancelled is not None:
            raise cancelled

    def _learn(self, run: CallState, usage: Usage) -> None:
        size, call, tokens = run.call.size, run.call, self._services.tokens
        if (
            size is None
            or size.bytes < tokens.MIN_LEARNT_BYTES
            or not usage.input
            or run.attempts != 1
            or call.hidden_prompt_tokens
            or call.prompt_turns != 1
        ):
            return
        tokens.learn(call.model, size, usage.input, tenant=call.tenant)
