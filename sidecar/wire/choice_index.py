"""Which choice a chunk belongs to, where servers count chunks instead of choices.

Some servers raise `choice.index` with every chunk although they give one answer: text-generation-inference before 1.4.4
(huggingface/text-generation-inference#1648), VMware's Private AI, Foundry Local (microsoft/foundry-local#263).
"""

from __future__ import annotations

import msgspec

CERTAIN_RISES = 2
"""Chunks with a new, higher index in a row after which the index certainly counts chunks."""


class ChoiceIndexes(msgspec.Struct, eq=False):
    """The choices of one stream that were seen, and those that have finished.

    `steady` has the indexes that are known to be those of their choices: `take` is not called for them. With one
    requested answer, these are the indexes that were seen twice.
    """

    seen: set[int] = set()
    finished: set[int] = set()
    steady: set[int] = set()
    _first: int = -1
    _last: int = -1
    _rises: int = 0
    """How often the index has risen; -1 once it is known to count choices."""

    def take(self, index: int, *, can_rise: bool) -> int:
        """Return the choice of a chunk with *index*, which is not in `steady`.

        *can_rise*: one answer was requested, and the chunk has no other choice.
        """
        if not can_rise:
            self._count_choices()
        elif self._last < 0:
            self._first = self._last = index
            self.seen.add(0)
            return 0
        elif index == self._last == self._rises == 0:  # the second chunk of nearly every answer
            self._rises = -1
            self.steady.add(0)
            return 0
        if self._rises < 0:
            return self._own(index)
        if self._rises < CERTAIN_RISES:
            if index <= self._last or self.finished:
                self._count_choices()
                return self._own(index)
            self._rises += 1
            self._last = index
        return 0

    def _count_choices(self) -> None:
        """Note that the index counts choices.  A single rise was then the first chunk of another choice."""
        if self._rises == 1:
            self.seen.add(self._last)
            if self.finished:  # by that chunk: nothing had finished before it
                self.finished = {self._last}
        self._rises = -1

    def _own(self, index: int) -> int:
        if index == self._first and self._first:
            return 0
        self.seen.add(index)
        self.steady.add(index)
        return index
