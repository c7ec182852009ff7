"""Write the batches of one attempt to the client: through the leases' filters, within the growing reservation."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import anyio

from policies.api.rejection import Rejection
from policies.api.upstream import UpstreamError

from .growth import Next

if TYPE_CHECKING:
    from collections.abc import Callable

    from policies.api.event import Batch
    from policies.api.upstream import Stream

    from .call_state import CallState
    from .event_filters import EventFilters
    from .growth import Growth
    from .sink import BatchSink


_GO_ON = Next.GO_ON  # a look-up in the class of an enumeration calls its metaclass


async def deliver(run: CallState, stream: Stream, filters: EventFilters | None, sink: BatchSink) -> Batch:
    """Write the batches of *stream* to *sink*, through *filters*; return the last one unwritten.

    If the reservation is used up and cannot grow, the answer is ended there. If it has just finished, its end and the
    usage that upstream reports are awaited instead. Raises `UpstreamError`, what a lease raises, and `Rejection` if the
    store does not answer. After a cancellation or an error, text that a lease holds back is written.
    """
    last: Batch | None = None
    paused = False
    growth, next_step, newest = run.growth, _GO_ON, None
    finished_at: int | None = None  # the tokens that were read when the answer was found to have finished

    def write(batch: Batch) -> bool:
        nonlocal last, paused, next_step, newest
        shown = filters.apply(batch) if filters else batch
        if not run.started:
            run.started, run.first_output = True, run.services.monotonic()
        if shown.last:
            last = shown
            return False
        paused = not sink.write_nowait(shown)
        if growth is not None and batch.outputs >= growth.ask_at:
            next_step, newest = growth.advance(batch.outputs), batch
            return next_step is Next.GO_ON and not paused
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
            if growth is not None and next_step is not Next.GO_ON:
                assert newest is not None  # for the type: it is set with `next_step`
                if stream.has_finished and finished_at is None:
                    finished_at = newest.outputs
                is_over = newest.outputs == finished_at
                if not is_over and not await _may_go_on(
                    growth, newest.outputs, next_step, partial(_flush_held, run, filters, sink)
                ):
                    return _cut_off(run, stream, newest, filters)
                next_step = Next.GO_ON
            elif not paused:
                msg = "the upstream's stream ended without a last batch"
                raise RuntimeError(msg)
            if paused:
                await sink.drain()
    except (UpstreamError, anyio.get_cancelled_exc_class()):
        if last is None:
            _flush_held(run, filters, sink)
        raise


def _flush_held(run: CallState, filters: EventFilters | None, sink: BatchSink) -> None:
    """Write the text that leases hold back of an answer that has not ended well."""
    if filters and run.started and (held := filters.flush()) is not None:
        sink.write_nowait(held)


async def _may_go_on(growth: Growth, read: int, next_step: Next, flush_held: Callable[[], None]) -> bool:
    """Wait until the reservation has grown, after *read* tokens; return False if it cannot grow. Raises `Rejection`."""
    while next_step is Next.WAIT:
        try:
            await growth.wait()
        except Rejection:
            flush_held()
            raise
        next_step = growth.advance(read) if read >= growth.ask_at else Next.GO_ON
    return next_step is Next.GO_ON


def _cut_off(run: CallState, stream: Stream, newest: Batch, filters: EventFilters | None) -> Batch:
    """Return the last batch of an answer that ends after the *newest* one, because a limit has no room for more."""
    assert run.growth is not None  # for the type: only a growing reservation can be used up
    call, size = run.call, run.call.size
    prompt = 0 if size is None else run.services.tokens.estimate(call.model, size, tenant=call.tenant)
    prompt += call.hidden_prompt_tokens
    sample = next((event.payload for event in reversed(newest.events) if event.payload), b"")
    cut = stream.cut_off(sample, prompt)
    shown = filters.apply(cut) if filters else cut
    shown.refusal = refusal = run.growth.refusal
    refusal.final, refusal.retry_after = True, None
    call.note("ended the answer: the limits have no room for more")
    return shown
