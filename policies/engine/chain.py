"""Runs one call through the policies: admit, reserve, enter, forward with retries, settle.

1. Each policy admits, in the order of the file; then all their claims are reserved in one step; then those that wait
   (a queue) let the call enter.  All of it once per call, never again for a retry.
2. Attempts are made until one gives output or no policy wants another. Each batch is written to the client's sink in the
   event-loop iteration in which its bytes arrived.
3. However the call ends, everything is settled once, in reverse order, shielded from cancellation, in bounded time. The last
   batch is written after that: a client that has read it may call again at once (BerriAI/litellm#40846).

Only the chain has a `try/finally`, a shield and a retry loop, so that a policy cannot get them wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import anyio
from msgspec.structs import replace

from policies.api.call import Call
from policies.api.claim import Claim
from policies.api.event import Batch
from policies.api.failure import Failure, Retry
from policies.api.lease import Ending, Outcome
from policies.api.match import Match
from policies.api.policy import HOOKS, Policy, RunningPolicy, overrides
from policies.api.rejection import Rejection
from policies.api.services import Services
from policies.api.upstream import Stream, Upstream, UpstreamError
from policies.api.usage import Usage

from .call_control import CallControl
from .call_state import CallState, then
from .event_filters import EventFilters
from .ledger import Ledger, Reservation
from .retry_budget import RetryBudgets
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
        self._hooks: list[tuple[Match | None, RunningPolicy]] = []
        for policy in _named(policies):
            hooks = policy.open(services)
            if not any(overrides(hooks, name) for name in HOOKS):
                msg = f"{type(policy).__name__} overrides none of {', '.join(HOOKS)}: is a hook misspelt?"
                raise TypeError(msg)
            self._hooks.append((None if policy.only == Match() else policy.only, hooks))
        self._admitting = self._overriding("admit")
        self._claiming = self._overriding("claims")
        self._entering = self._overriding("enter")
        self._judging = self._overriding("retry")

    def _overriding(self, name: str) -> list[tuple[Match | None, RunningPolicy]]:
        return [(only, hooks) for only, hooks in self._hooks if overrides(hooks, name)]

    async def run(
        self, call: Call, sink: BatchSink, *, admitted: Admitted | None = None, control: CallControl | None = None
    ) -> Outcome:
        """Serve *call* and write its batches to *sink*; everything is settled on return, however the call ends.

        *admitted* is called once, when the call holds its reservation. The last batch is written after settlement.
        Raises `Rejection` or `UpstreamError`. A cancellation closes upstream, then settles; *control* tells when it must not
        come.
        """
        run = CallState(call, Reservation(call, ()))
        ending = Ending.CANCELLED
        try:
            await self._admit(run, admitted)
            last = await self._forward(run, sink)
            ending = Ending.DONE
        except Exception as error:
            ending = Ending.REJECTED if isinstance(error, Rejection) else Ending.FAILED
            raise
        finally:
            outcome = Outcome(ending, run.usage, run.attempts)
            if control is None:
                await self._settle(run, outcome)
            else:
                control.settling = True
                try:
                    await self._settle(run, outcome)
                finally:
                    control.settling = False
        sink.write_nowait(last)
        return outcome

    async def close(self) -> None:
        """Close what the policies have running, newest first."""
        for _, hooks in reversed(self._hooks):
            await hooks.close()

    async def _admit(self, run: CallState, admitted: Admitted | None) -> None:
        call = run.call
        for only, hooks in self._admitting:
            if (only is None or only.covers(call)) and (lease := await hooks.admit(call)) is not None:
                run.leases.append(lease)
        claims: list[tuple[RunningPolicy, Claim]] = []
        for only, hooks in self._claiming:
            if only is None or only.covers(call):
                for claim in hooks.claims(call):
                    claims.append((hooks, claim))  # noqa: PERF401  # a comprehension is a call of its own
        if claims:
            run.hold.claims = claims
            await self._ledger.reserve(run.hold)
        if admitted is not None:
            admitted()
        for only, hooks in self._entering:
            if (only is None or only.covers(call)) and (lease := await hooks.enter(call)) is not None:
                run.leases.append(lease)

    async def _forward(self, run: CallState, sink: BatchSink) -> Batch:
        """Make attempts until one gives output or no policy wants another; return the last batch."""
        filters = EventFilters.of(run.leases, run.call.shown) if run.leases else None
        name = self._services.upstreams[0]
        while True:
            run.attempts += 1
            run.tried.append(name)
            stream = run.stream = self._upstream.open(run.call, name)
            try:
                async with stream:
                    self._count(run)
                    return await self._deliver(run, stream, filters, sink)
            except UpstreamError as error:
                spent = run.bank()
                if error.kind != "unavailable":
                    self._count(run)
                verdict = self._judge(run, error)
                said = f"{error.kind} ({error.reason}){then(run.call, verdict)}"
                self._services.log.warning("call %s: %s failed: %s", run.call.id, name, said)
                if verdict is None or (spent.paid_prompt and not await self._ledger.top_up(run.hold, spent)):
                    if error.instead is None or run.started:
                        raise
                    return filters.apply(error.instead) if filters else error.instead
                name, wait = verdict.upstream or name, verdict.after
            await self._services.sleep(wait)

    @staticmethod
    async def _deliver(run: CallState, stream: Stream, filters: EventFilters | None, sink: BatchSink) -> Batch:
        """Write the batches of one attempt to *sink*, through *filters*; return the last one unwritten."""
        last: Batch | None = None
        paused = False

        def write(batch: Batch) -> bool:
            nonlocal last, paused
            shown = filters.apply(batch) if filters else batch
            if shown.last:
                last = shown
                return False
            run.started = True
            paused = not sink.write_nowait(shown)
            return not paused

        try:
            while True:
                paused = False
                try:
                    await stream.deliver(write)
                except UpstreamError:
                    if last is None:  # else a policy had ended the answer before upstream failed
                        raise
                if last is not None:
                    return last
                if not paused:
                    msg = "the upstream's stream ended without a last batch"
                    raise RuntimeError(msg)
                await sink.drain()
        except (UpstreamError, anyio.get_cancelled_exc_class()):
            if filters and run.started and last is None and (held := filters.flush()) is not None:
                sink.write_nowait(held)
            raise

    def _count(self, run: CallState) -> None:
        """Let the call pay into its upstream's retry budget: once, and not where the breaker never let it through."""
        name = run.tried[-1]
        if name not in run.counted and not run.call.repeated:
            run.counted.add(name)
            (self._retries.by_name.get(name) or self._retries.of(name)).deposit()

    def _judge(self, run: CallState, error: UpstreamError) -> Retry | None:
        if run.started:
            return None
        failure = Failure(
            run.attempts,
            error.cause,
            error.kind,
            error.retry_after,
            error.should_retry,
            run.tried[-1],
            tuple(run.tried),
            by_code=error.by_code,
        )
        verdict = self._verdict(run.call, failure)
        if verdict is not None:
            name = verdict.upstream or failure.upstream
            if name not in run.tried or self._retries.of(name).withdraw():
                return verdict
        verdict = self._verdict(run.call, replace(failure, may_repeat=False))
        elsewhere = verdict is not None and verdict.upstream is not None and verdict.upstream not in run.tried
        return verdict if elsewhere else None

    def _verdict(self, call: Call, failure: Failure) -> Retry | None:
        """Return what the first policy with an opinion says, if there is time for it."""
        for only, hooks in self._judging:
            if (only is None or only.covers(call)) and (verdict := hooks.retry(call, failure)) is not None:
                in_time = call.deadline is None or self._services.monotonic() + verdict.after < call.deadline
                return verdict if verdict.after >= 0 and in_time else None
        return None

    async def _settle(self, run: CallState, outcome: Outcome) -> None:
        # Whoever cancels tasks lets one be that is `settling`; in a cancelled scope of anyio every further await is
        # cancelled too, hence the shield.  A lease that hangs costs one scope, and the next turn opens another.
        cancelled: BaseException | None = None
        try:
            if self._services.store.waits:
                with anyio.move_on_after(self._settle_within, shield=True):
                    await self._ledger.settle(run.hold, outcome)
            else:
                await self._ledger.settle(run.hold, outcome)
            self._learn(run, outcome.usage)
        except anyio.get_cancelled_exc_class() as error:
            cancelled = error  # told at the end: what is held is settled whoever cancels
        except Exception:
            self._services.log.exception("settling what call %s holds failed", run.call.id)
        leases = run.leases
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
                    except Exception:
                        self._services.log.exception("settling %r failed", lease)
            if scope.cancelled_caught:
                self._services.log.error("settling %r took over %s s", lease, self._settle_within)
        if cancelled is not None:
            raise cancelled

    def _learn(self, run: CallState, usage: Usage) -> None:
        size = run.call.size
        if size is not None and usage.input and run.attempts == 1:
            self._services.tokens.learn(run.call.model, size, usage.input)


def _named(policies: Sequence[Policy]) -> Sequence[Policy]:
    names = [policy.name or type(policy).__name__.lower() for policy in policies]
    if twice := {name for name in names if names.count(name) > 1}:
        msg = f"two policies are called {', '.join(sorted(twice))}: give each a `name` of its own"
        raise ValueError(msg)
    return policies
