"""Events pass through the leases on their way to the client."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from claims import totals
from counting_store import services_with_counting_store

from policies import Batch, Budget, Call, Chain, Event, Lease, Policy, Stop
from policies.engine.error_report import HookMisuse
from policies.testing import CollectingSink, ScriptedUpstream, make_call, piece, serve

pytestmark = pytest.mark.anyio


class FilterLease(Lease):
    """Calls *see* with each event, and flushes the text *last*."""

    def __init__(self, see: Callable[[Event], Event | None], last: str = "") -> None:
        self.see, self.last = see, last

    def on_event(self, event: Event) -> Event | None:
        return self.see(event)

    def flush(self) -> Sequence[Event]:
        return [piece(self.last)] if self.last else []


class Filter(Policy, frozen=True):
    """Filters events by *see*, and flushes the text *last*."""

    see: Any
    last: str = ""

    async def admit(self, call: Call) -> Lease:
        return FilterLease(self.see, self.last)


async def test_leases_change_drop_and_add_events() -> None:
    """A lease can change, drop and add events; the policy nearest to the client filters last."""
    outer = Filter(lambda event: event.with_text(event.text + "1"), name="outer")
    inner = Filter(lambda event: None if event.text == "b" else event.with_text(event.text.upper()), "z", name="inner")
    served = await serve([outer, inner], make_call("hi"), ScriptedUpstream(["a", "b", "c"]))

    raw = b"".join(batch.raw for batch in served.batches)
    assert served.text == "A1C11z1"
    assert [text for text in (b'"A1"', b'"B1"', b'"C1"', b'"z1"') if text in raw] == [b'"A1"', b'"C1"', b'"z1"']
    assert raw.index(b'"z1"') < raw.index(b'"stop"')


async def test_flush_precedes_the_finish_with_best_of() -> None:
    """Flushed text precedes the finish of the returned choices, also if `best_of` generates more of them."""
    last = Filter(lambda event: event, "z", name="last")
    served = await serve([last], make_call("hi", body={"best_of": 2}), ScriptedUpstream(["a"]))

    raw = b"".join(batch.raw for batch in served.batches)
    assert raw.index(b'"a"') < raw.index(b'"z"') < raw.index(b'"stop"')


async def test_stop_ends_an_answer_cleanly() -> None:
    """`Stop` ends an answer with its finish reason, closes upstream, and the call is charged what was read."""

    def see(event: Event) -> Event:
        if event.text == "bad":
            raise Stop("content_filter")
        return event

    services, store = services_with_counting_store()
    upstream = ScriptedUpstream(["a", "bad", "c"])
    served = await serve(
        [Filter(see, name="t"), Budget(name="b", tokens=1000)], make_call("hi", services=services), upstream
    )

    assert served.text == "a"
    assert served.batches[-1].last
    assert b'"finish_reason":"content_filter"' in served.batches[-1].raw
    assert upstream.open_attempts == 0
    assert await totals(store) == [(5 + 2, 0)]


@pytest.mark.parametrize("wrong", ["hunter2", True, 1])
async def test_wrong_event_is_named_by_class(wrong: Any) -> None:
    """A value of `on_event` other than an event or None is an error that names the lease's class."""
    with pytest.raises(
        HookMisuse, match=rf"^FilterLease.on_event returned a {type(wrong).__name__}; return an Event or None$"
    ):
        await serve([Filter(lambda _: wrong, name="f")], make_call("hi"))


@pytest.mark.parametrize(
    ("flushed", "problem"),
    [(None, "None"), (["hunter2"], "a sequence with a str"), ([b"data: x"], "a sequence with a bytes")],
)
async def test_wrong_flush_is_named_by_class(flushed: Any, problem: str) -> None:
    """A value of `flush` other than events is an error that names the lease's class, and nothing of it is written."""

    class Odd(Lease):
        def flush(self) -> Sequence[Event]:
            events: Sequence[Event] = flushed
            return events

    class Flushes(Policy, frozen=True):
        async def admit(self, call: Call) -> Lease:
            return Odd()

    upstream, batches = ScriptedUpstream(["a"]), list[Batch]()
    call = make_call("hi")
    with pytest.raises(HookMisuse, match=f"^Odd.flush returned {problem}; return a sequence of events$"):
        await Chain([Flushes(name="f")], upstream, call.services).run(call, CollectingSink(batches))
    assert b"hunter2" not in b"".join(batch.raw for batch in batches)
