"""Runs one call through the policies: admit, reserve, enter, forward with retries, settle.

1. Each policy admits, in the order of the file; then all their claims are reserved in one step; then those that wait
   (a queue) let the call enter.  All of it once per call, never again for a retry.
2. Attempts are made until one gives output, or nobody wants another.  Batches are pushed to `emit` as they come.
3. However it ends, everything is settled once, in reverse, shielded from cancellation, in bounded time.  The last batch
   goes out after that: a client that has read it may call again at once (BerriAI/litellm#40846).

Only the chain has a `try/finally`, a shield and a retry loop, so that a policy cannot get them wrong.
"""

from __future__ import annotations

from collections.abc import Sequence

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
from policies.api.upstream import PushedStream, Stream, Upstream, UpstreamError
from policies.api.usage import Usage

from .call_state import CallState, then
from .event_filters import EventFilters
from .ledger import Ledger, Reservation
from .retry_budget import RetryBudgets
from .sink import Admitted, ClientLeft, Emit, Sink


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
        self, call: Call, emit: Emit, *, admitted: Admitted | None = None, sink: Sink | None = None
    ) -> Outcome:
        """Serve *call*, pushing its batches to *emit*; everything is settled on return, however it ends.

        *admitted* is awaited when the call holds its reservation.  With a *sink* all batches but the last go there.
        Raises `Rejection`, `UpstreamError`, or `ClientLeft` where *emit* or *sink* raised; a cancellation closes upstream.
        """
        run = CallState(call, Reservation(call, ()))
        ending = Ending.CANCELLED
        try:
            await self._admit(run, admitted)
            last = await self._forward(run, emit, sink)
            ending = Ending.DONE
        except ClientLeft:
            raise
        except Exception as error:
            ending = Ending.REJECTED if isinstance(error, Rejection) else Ending.FAILED
            raise
        finally:
            outcome = Outcome(ending, run.usage, run.attempts)
            call.settling = True
            try:
                await self._settle(run, outcome)
            finally:
                call.settling = False
        await emit(last)
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
            await admitted()
        for only, hooks in self._entering:
            if (only is None or only.covers(call)) and (lease := await hooks.enter(call)) is not None:
                run.leases.append(lease)

    async def _forward(self, run: CallState, emit: Emit, sink: Sink | None) -> Batch:
        taps = EventFilters.of(run.leases, run.call.shown) if run.leases else None
        name = self._services.upstreams[0]
        while True:
            run.attempts += 1
            run.tried.append(name)
            stream = run.stream = self._upstream.open(run.call, name)
            try:
                async with stream:
                    self._count(run)
                    if sink is None or not isinstance(stream, PushedStream):
                        last = await self._pulled(run, stream, taps, emit)
                    else:
                        last = await self._pushed(run, stream, taps, sink)
                    if last is not None:
                        return last
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
                    return taps.through(error.instead) if taps else error.instead
                name, wait = verdict.upstream or name, verdict.after
            else:
                msg = "the upstream's stream ended without a last batch"
                raise RuntimeError(msg)
            await self._services.sleep(wait)

    @staticmethod
    async def _pulled(run: CallState, stream: Stream, taps: EventFilters | None, emit: Emit) -> Batch | None:
        async for batch in stream:
            shown = taps.through(batch) if taps else batch
            if shown.last:
                return shown
            run.started = True
            try:
                await emit(shown)
            except Exception as error:
                raise ClientLeft from error
        return None

    @staticmethod
    async def _pushed(run: CallState, stream: PushedStream, taps: EventFilters | None, sink: Sink) -> Batch:
        last: Batch | None = None

        def show(batch: Batch) -> bool:
            nonlocal last
            shown = taps.through(batch) if taps else batch
            if shown.last:
                last = shown
                return False
            run.started = True
            try:
                return sink.put(shown)
            except Exception as error:
                raise ClientLeft from error

        while True:
            try:
                await stream.push(show)
            except UpstreamError:
                if last is None:  # else a policy has ended the answer before upstream failed
                    raise
            if last is not None:
                return last
            await sink.drained()

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
            if self._services.store.is_remote:
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
