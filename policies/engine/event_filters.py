"""The leases that look at a stream, applied to it: the policy nearest the client sees each event last."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from msgspec.structs import replace

from policies.api.event import Batch, Event, rebuilt_answer
from policies.api.lease import Lease
from policies.api.rejection import Stop

if TYPE_CHECKING:
    from typing import Self


class EventFilters:
    """The leases of one call that override `on_event` or `flush`.  Falsy, and left out of the stream, if there are none."""

    __slots__ = ("_leases", "_open")

    def __init__(self, leases: Sequence[Lease], answers: int) -> None:
        self._leases, self._open = leases, answers

    @classmethod
    def of(cls, leases: Sequence[Lease], answers: int) -> Self:
        """Choose the leases that look at events, innermost first; *answers* is how many finishes end the whole."""
        looking = [
            x for x in reversed(leases) if type(x).on_event is not Lease.on_event or type(x).flush is not Lease.flush
        ]
        return cls(looking, answers)

    def __bool__(self) -> bool:
        return bool(self._leases)

    def through(self, batch: Batch) -> Batch:
        """Return *batch* as the client is to see it; the last one where a lease stopped the answer."""
        shown: list[Event] = []
        last = batch.last
        for event in batch.events:
            if event.index < 0:
                shown.append(event)
                continue
            try:
                kept = self._seen(event, self._leases)
            except Stop as stop:
                shown += self._finished(_stopped(event, stop), all_of_it=True)
                last = True
                break
            if kept is None and event.finish is not None:
                kept = event.with_text("")
            if kept is not None:
                shown += [kept] if kept.finish is None else self._finished(kept)
        if last and self._open > 0:
            shown += self._last_words()
        whole = next((event.payload for event in batch.events if event.whole), None)
        raw = rebuilt_answer(whole, shown) if whole is not None else b"".join(event.encode() for event in shown)
        return Batch(events=shown, raw=raw, last=last)

    def _finished(self, event: Event, *, all_of_it: bool = False) -> list[Event]:
        # The last words belong between the last piece of text and the finish.
        self._open = 0 if all_of_it else self._open - 1
        if self._open > 0 or not (words := self._last_words()):
            return [event]
        if event.whole:
            return [event, *words]
        if not event.text:
            return [*words, event]
        return [replace(event, raw=b"", finish=None), *words, replace(event, raw=b"", text="")]

    @staticmethod
    def _seen(event: Event, leases: Sequence[Lease]) -> Event | None:
        seen: Event | None = event
        for lease in leases:
            if seen is None:
                return None
            seen = lease.on_event(seen)
        return seen

    def _last_words(self) -> list[Event]:
        # What an inner policy says last is seen by those between it and the client.
        words: list[Event] = []
        for at, lease in enumerate(self._leases):
            for event in lease.flush():
                kept = self._seen(event, self._leases[at + 1 :])
                if kept is not None:
                    words.append(kept)
        return words


def _stopped(event: Event, stop: Stop) -> Event:
    return replace(event, raw=b"", text="", reasoning="", tool=False, finish=stop.finish)
