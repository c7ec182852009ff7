"""Apply leases to the events of an answer, in reverse order of the chain: the first policy sees each event last."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextvars import Context, copy_context
from operator import is_
from typing import TYPE_CHECKING

from msgspec.structs import replace

from policies.api.event import Batch, Event, EventForm, OrderedForm, WholeBatch
from policies.api.lease import Lease
from policies.api.rejection import Stop

from .error_report import HookMisuse, returned
from .rebuilt_answer import rebuilt_answer

if TYPE_CHECKING:
    from typing import Self

    from policies.api.event import EventForm


class EventFilters:
    """The leases of one call that override `on_event` or `flush`.

    Batches arrive in callbacks of the upstream connection, whose context (contextvars) is that of another call. So the
    leases run in the context of their own call, which `of` captures.
    """

    __slots__ = ("_choices_left", "_context", "_form", "_leases", "_may_hold", "_ordered", "_part")

    def __init__(self, leases: Sequence[Lease], choices: int, context: Context) -> None:
        self._leases, self._choices_left, self._context = leases, choices, context
        self._form: EventForm | None = None
        """The form of the answer, which also writes events that policies create; None for chat completions."""
        self._ordered: OrderedForm | None = None
        """The form of an answer whose texts end each on its own; None for other answers, which end once for each choice."""
        self._part = 0
        """The part of the last event of such an answer: what leases flush belongs to it."""
        self._may_hold = True
        """Whether leases may hold something back: in such an answer, whether they have read an event since the last flush."""

    @classmethod
    def of(cls, leases: Sequence[Lease], choices: int) -> Self | None:
        """Return the filters among *leases*, None if there are none. The answer is complete after *choices* finishes.

        Called once per call, in the call's own task.
        """
        chosen = [
            lease
            for lease in reversed(leases)
            if type(lease).on_event is not Lease.on_event or type(lease).flush is not Lease.flush
        ]
        return cls(chosen, choices, copy_context()) if chosen else None

    def apply(self, batch: Batch) -> Batch:
        """Return *batch* as the client gets it; `last` is set if a lease stopped the answer. Called for each batch.

        Raises what a lease raises, except `Stop`.
        """
        return self._context.run(self._apply, batch)

    def flush(self) -> Batch | None:
        """Return the text that leases still hold back of an answer that failed; None if there is none.

        Called at most once per call. Exceptions of a lease are ignored and its text is lost: the failure of the answer
        itself is reported.
        """
        if self._choices_left <= 0 or not self._may_hold:
            return None
        try:
            events = self._context.run(self._flush)
        except Exception:  # noqa: BLE001  # user code may raise anything
            return None
        return Batch(events=events, raw=self._encoded(events)) if events else None

    def _apply(self, batch: Batch) -> Batch:
        shown: list[Event] = []
        last, events = batch.last, batch.events
        if events and (form := events[0].form) is not None:
            self._form = form
            if isinstance(form, OrderedForm):
                self._ordered = form
        for event in events:
            if event.index < 0:
                shown.append(event)
                continue
            if self._ordered is not None:
                self._part, self._may_hold = event.index, self._may_hold or event.finish is None
            try:
                kept = self._filtered(event, self._leases)
            except Stop as stop:
                shown += self._with_flushed(_stopped(event, stop), ends_all=True)
                last = True
                break
            if kept is None and event.finish is not None:
                kept = event.with_text("")
            if kept is not None:
                shown += [kept] if kept.finish is None else self._with_flushed(kept)
        if last and self._choices_left > 0 and self._may_hold:
            shown += self._flush()
        return Batch(events=shown, raw=self._raw(batch, shown), last=last)

    def _with_flushed(self, event: Event, *, ends_all: bool = False) -> list[Event]:
        """Return *event*, which finishes a choice; the last finish comes after the text that leases flush.

        With an ordered form, each text of the answer finishes, and leases flush before each finish.
        """
        if self._ordered is None or ends_all:
            self._choices_left = 0 if ends_all else self._choices_left - 1
        is_open = not self._may_hold if self._ordered is not None else self._choices_left > 0
        if is_open or not (flushed := self._flush()):
            return [event]
        if event.whole:
            return [event, *flushed]
        if not event.text:
            return [*flushed, event]
        return [replace(event, raw=b"", finish=None), *flushed, replace(event, raw=b"", text="")]

    @staticmethod
    def _filtered(event: Event, leases: Sequence[Lease]) -> Event | None:
        kept: Event | None = event
        for lease in leases:
            if kept is None:
                return None
            kept = lease.on_event(kept)
            if kept is not None and not isinstance(kept, Event):
                raise HookMisuse(returned(lease, "on_event", kept, "an Event or None"))
        return kept

    def _flush(self) -> list[Event]:
        # Text that a lease flushes passes the leases between it and the client.
        flushed: list[Event] = []
        self._may_hold = self._ordered is None
        for at, lease in enumerate(self._leases):
            events = lease.flush()
            if not isinstance(events, Iterable):
                raise HookMisuse(returned(lease, "flush", events, "a sequence of events"))
            for event in events:
                if not isinstance(event, Event):
                    raise HookMisuse(returned(lease, "flush", event, "a sequence of events", is_item=True))
                if self._ordered is not None and event.form is None:
                    event = replace(event, form=self._ordered, index=self._part)  # noqa: PLW2901  # the same event
                kept = self._filtered(event, self._leases[at + 1 :])
                if kept is not None:
                    flushed.append(kept)
        return flushed

    def _raw(self, batch: Batch, shown: Sequence[Event]) -> bytes:
        """Return the bytes of *shown*, what policies have made of *batch*; a whole answer that they left alone is as it was."""
        events = batch.events
        if isinstance(batch, WholeBatch):
            is_same = len(shown) == len(events) and all(map(is_, shown, events))
            return batch.raw if is_same else _rebuilt(batch.payload, shown, events)
        whole = next((event.payload for event in events if event.whole), None)
        return self._encoded(shown) if whole is None else _rebuilt(whole, shown, ())

    def _encoded(self, events: Sequence[Event]) -> bytes:
        if self._ordered is not None:
            return self._ordered.written(events)
        if (form := self._form) is None:
            return b"".join(event.encode() for event in events)
        return b"".join(form.encoded(event) if event.form is None else event.encode() for event in events)


def _rebuilt(payload: bytes, shown: Sequence[Event], unchanged: Sequence[Event]) -> bytes:
    """Return the whole answer *payload* with its texts as in *shown*; *unchanged* are the events before the policies."""
    form = next((event.form for event in (*unchanged, *shown) if event.form is not None), None)
    write = rebuilt_answer if form is None else form.rebuilt_answer
    return write(payload, shown, unchanged)


def _stopped(event: Event, stop: Stop) -> Event:
    payload = b"" if isinstance(event.form, OrderedForm) else event.payload
    return replace(event, raw=b"", payload=payload, text="", reasoning="", tool=False, finish=stop.finish)
