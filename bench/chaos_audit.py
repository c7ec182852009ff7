"""The audit of `chaos.py`: what upstream produced for each tenant, beside what the store counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence

import msgspec
from chaos_load import PROMPT_BOUND, PROMPT_TOKENS, Record

ANSWER_STEP = 64
"""Tokens by which the reservation of a stream without a ceiling grows; it may run ahead of it by one step."""
MOST_PENDING_SECONDS = 40.0
"""Time for which a settlement may be queued after its call: a suspended process may have locked the file."""
SETTLEMENT_SECONDS = 5.0
"""Time for which a settlement may be in progress, or is sent again after a lock."""
BOUND_ANSWER = 400
"""The ceiling of calls without one."""
CLOCK_STEP_SECONDS = 1e-3
"""Spans of a window are this much shorter, so that rounding breaks no rule."""


class Spans(msgspec.Struct, frozen=True):
    """The fullest spans of a sliding window: by the arrivals at upstream, and counted so that delays do not matter."""

    arrivals: int
    certain: int


class Counted(msgspec.Struct, frozen=True):
    """The state of one budget at the end, in tokens."""

    spent: int
    reserved: int
    limit: int


class Row(msgspec.Struct, frozen=True):
    """The figures of one tenant, and the rules that they break."""

    tenant: str
    outcomes: Mapping[str, int]
    produced: int
    unread: int
    unreserved: int
    """The most that was produced beyond reservations by streams whose process was killed."""
    explained: int | None
    """The most that may have been charged; None where it is not known."""
    counted: Counted
    spans: Spans
    rate_limit: int

    @property
    def broken(self) -> list[str]:
        """The rules that do not hold."""
        found = {
            "produced more than spent": self.produced - self.unread - self.unreserved > self.counted.spent,
            "spent more than the limit": self.counted.spent > self.counted.limit,
            "spent more than its calls explain": self.explained is not None and self.counted.spent > self.explained,
            "reserved at the end": self.counted.reserved != 0,
            "a span of the rate is exceeded": self.spans.certain > self.rate_limit,
        }
        return [rule for rule, is_broken in found.items() if is_broken]


def fullest_spans(records: Iterable[Record], window: float) -> Spans:
    """Return the largest number of calls that upstream got in a span of *window* seconds.

    A call was counted by the store between the moment at which its client sent it and its arrival at upstream. It counts
    as `certain` in a span that contains both moments: a delay between them, of a suspended process, breaks no rule.
    """
    span = window - CLOCK_STEP_SECONDS
    both = sorted((each.sent_at, each.arrived_at) for each in records if each.arrived_at)
    return Spans(_fullest([(arrived, arrived) for _, arrived in sorted(both, key=_last)], span), _fullest(both, span))


def _last(both: tuple[float, float]) -> float:
    return both[1]


def _fullest(intervals: Sequence[tuple[float, float]], span: float) -> int:
    """Return the largest number of *intervals* inside a span; they are sorted by their beginning."""
    most = after = 0
    for at, (begins, _) in enumerate(intervals):
        while after < len(intervals) and intervals[after][0] <= begins + span:
            after += 1
        most = max(most, sum(ends <= begins + span for _, ends in intervals[at:after]))
    return most


class Disturbances(msgspec.Struct):
    """When which process was killed, and the spans in which the file was locked for longer than a call waits for it.

    `killed` is by instance; times are in seconds since 1970.
    """

    killed: dict[int, float] = {}
    locked: list[tuple[float, float]] = []

    def may_be_unsettled(self, record: Record) -> bool:
        """Return whether the process of *record* was killed before the store took the settlement of the ended call."""
        killed_at = self.killed.get(record.instance)
        if killed_at is None or killed_at - record.ended_at > MOST_PENDING_SECONDS:
            return False
        was_running = record.ended_at > killed_at - SETTLEMENT_SECONDS
        return was_running or any(
            begins <= record.ended_at <= ends + SETTLEMENT_SECONDS for begins, ends in self.locked
        )


def most_charged(record: Record, disturbances: Disturbances) -> int:
    """Return the most that *record* may have cost its tenant.

    That is the reservation of a call whose process was killed before its settlement, and of a whole answer whose client left.
    A call of a patient client costs exactly what upstream produced, however long its process was suspended.
    """
    if record.tenant.is_patient:
        return record.produced
    if record.outcome == "429":
        return 0
    if not disturbances.may_be_unsettled(record):
        if record.outcome == "503":
            return 0
        if record.outcome == "done" or record.is_stream:
            return record.produced - PROMPT_TOKENS + PROMPT_BOUND if record.arrived_at else PROMPT_BOUND
    return PROMPT_BOUND + (record.ceiling or record.asked_ceiling or BOUND_ANSWER)


def row_of(
    records: Collection[Record], counted: Counted, disturbances: Disturbances, *, rate: int, window: float
) -> Row:
    """Return the row of one tenant, from all of its *records*."""
    tenant = next(iter(records)).tenant
    died = [
        each for each in records if each.instance in disturbances.killed and each.outcome != "done" and each.arrived_at
    ]
    return Row(
        tenant=tenant.name,
        outcomes=Counter(each.outcome for each in records),
        produced=sum(each.produced for each in records),
        unread=sum(each.unread for each in records),
        unreserved=ANSWER_STEP * len(died) if tenant.grows else 0,
        explained=None if tenant.grows else sum(most_charged(each, disturbances) for each in records),
        counted=counted,
        spans=fullest_spans(records, window),
        rate_limit=rate,
    )


SHOWN_OUTCOMES = ("done", "left", "cut", "error", "429", "503")


def print_table(rows: Sequence[Row]) -> None:
    """Print one line for each tenant."""
    outcomes = " ".join(f"{name:>6}" for name in SHOWN_OUTCOMES)
    print(
        f"{'tenant':8} {outcomes} {'other':>6} {'produced':>9} {'unread':>7} {'spent':>9} {'explained':>10} {'limit':>9}"
        f" {'reserved':>9} {'fullest span':>13} {'rate':>5}  rules"
    )
    for row in rows:
        shown = " ".join(f"{row.outcomes.get(name, 0):6}" for name in SHOWN_OUTCOMES)
        other = sum(row.outcomes.values()) - sum(row.outcomes.get(name, 0) for name in SHOWN_OUTCOMES)
        explained = "-" if row.explained is None else f"{row.explained:,}"
        span = f"{row.spans.certain} ({row.spans.arrivals})"
        print(
            f"{row.tenant:8} {shown} {other:6} {row.produced:9,} {row.unread + row.unreserved:7,}"
            f" {row.counted.spent:9,} {explained:>10} {row.counted.limit:9,} {row.counted.reserved:9,} {span:>13}"
            f" {row.rate_limit:5}  {'BROKEN: ' + ', '.join(row.broken) if row.broken else 'kept'}"
        )
