"""Compare the configured limits with those of the last start: a limit that counts otherwise has new, empty counters.

The counters of a limit are named by its policy, its unit, its window and what it counts by. The amount of a limit is not part
of that, so it may change freely.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Literal, NamedTuple, TypeAlias

import msgspec

from policies.api.claim import By, Claim

MAX_COUNTINGS = 16
"""Ways of counting that are compared for one policy."""
SHOWN_COUNTINGS = 4
"""Ways of counting of one policy that a message lists."""


class Counting(msgspec.Struct, frozen=True, order=True, array_like=True):
    """What identifies the counters of a limit, besides its policy: the unit, the window's key, and what is counted by."""

    unit: str
    window: str
    by: str

    def __str__(self) -> str:
        return f"{self.unit}, window {self.window}, by {self.by or 'an unknown identity'}"


Countings: TypeAlias = frozenset[Counting]
"""The ways in which one policy counts: one for `rate` and `budget`, any number for a policy of the deployment."""

_stored_countings = msgspec.json.Decoder(list[Counting])


class LimitChange(NamedTuple):
    """One line for the log about a changed limit."""

    level: Literal["info", "warning"]
    text: str


def countings_of(claims: Iterable[Claim]) -> dict[str, Countings]:
    """Return how the limits of *claims* are counted, by their policies."""
    found: dict[str, set[Counting]] = {}
    for claim in claims:
        found.setdefault(claim.policy, set()).add(Counting(claim.unit, claim.window.key, _by_text(claim.by)))
    return {policy: frozenset(countings) for policy, countings in found.items()}


def first_of(countings: Countings) -> Countings:
    """Return the first `MAX_COUNTINGS` of *countings*: what a store remembers is bounded."""
    return frozenset(sorted(countings)[:MAX_COUNTINGS])


def _by_text(by: By | None) -> str:
    return "" if by is None else by if isinstance(by, str) else "+".join(by)


def described(limits: Mapping[str, Countings]) -> dict[str, str]:
    """Return *limits* as a store remembers them."""
    return {policy: msgspec.json.encode(sorted(countings)).decode() for policy, countings in limits.items()}


def remembered(limits: Mapping[str, str]) -> dict[str, Countings]:
    """Return what a store has remembered; limits that another version has described in another way are left out."""
    found = {}
    for policy, description in limits.items():
        try:
            found[policy] = frozenset(_stored_countings.decode(description))
        except msgspec.DecodeError:
            continue
    return found


def limit_changes(before: Mapping[str, str], after: Mapping[str, Countings]) -> Iterator[LimitChange]:
    """Yield a line for each limit that counts in other counters than *before*, which is as a store remembers it.

    Without any limits before, the store is new or was used by an older version: there is nothing to compare with. A limit
    that another version has described in a way that cannot be read is not compared either.
    """
    if not before:
        return
    known = remembered(before)
    for policy in sorted(known.keys() & after.keys()):
        if known[policy] != after[policy]:
            yield _changed(policy, known[policy], after[policy])
    removed, added = sorted(known.keys() - after.keys()), sorted(after.keys() - before.keys())
    for old in removed:
        new = next((each for each in added if after[each] == known[old]), None)
        if new is None:
            text = f"limit {old!r} is no longer configured; its counters stay until their windows end"
            yield LimitChange("info", text)
        else:
            added.remove(new)
            yield _renamed(old, new, after[new])
    for policy in added:
        yield LimitChange("info", f"limit {policy!r} is new: it counts from now")


def _changed(policy: str, before: Countings, after: Countings) -> LimitChange:
    gone, new = sorted(before - after), sorted(after - before)
    if not new:
        text = f"limit {policy!r} no longer counts {_listed(gone)}; its counters stay until their windows end"
        return LimitChange("info", text)
    if not gone:
        return LimitChange("info", f"limit {policy!r} also counts {_listed(new)}: that counts from now")
    what = f"from {_listed(gone)} to {_listed(new)}"
    if len(gone) == len(new) == 1:
        pairs = zip(("unit", "window", "by"), *map(msgspec.structs.astuple, (gone[0], new[0])), strict=True)
        what = " and ".join(
            f"{field} from {old or 'unknown'} to {now or 'unknown'}" for field, old, now in pairs if old != now
        )
    windows = ", ".join(dict.fromkeys(each.window for each in gone[:SHOWN_COUNTINGS]))
    text = f"limit {policy!r} has changed its {what}: it counts anew from now"
    return LimitChange("warning", f"{text}; what was spent in the old counters (window {windows}) stays there")


def _renamed(old: str, new: str, countings: Countings) -> LimitChange:
    text = (
        f"limit {old!r} is no longer configured, and limit {new!r} is new and counts the same ({_listed(sorted(countings))})."
        f" If it was renamed: it counts anew from now, and what was spent stays in the counters of {old!r};"
        f" to count on in them, use the name {old!r} again"
    )
    return LimitChange("warning", text)


def _listed(countings: list[Counting]) -> str:
    more = f" and {len(countings) - SHOWN_COUNTINGS} more" if len(countings) > SHOWN_COUNTINGS else ""
    return "; ".join(map(str, countings[:SHOWN_COUNTINGS])) + more
