"""Steps that fall into one turn of the event loop, made in one transaction.

1. Where several calls are running, a step is queued; what else is asked for in the same turn is queued behind it.
2. At the end of the turn all of them are made, in their order, between one beginning and one commit.  With `patience`
   they wait for some more turns, as long as each brings another step, and for some milliseconds.
3. Then each is answered.  If the transaction fails, all of it is undone and each of them has failed.

Nothing is locked while steps are queued.  One that breaks by itself is made again alone, and so are the others.  Whether
to queue is learnt: where a step found no company, the next ones do not wait for any.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from policies.api.store import StoreDown

MOST_LONELY = 63
"""So many steps at most are made at once before one of them is queued again."""
LONGEST = 0.005
"""Seconds after which no further turn is waited for."""


class Firm(asyncio.Future[Any]):
    """The answer to a step that is made even if whoever waits for it is cancelled: that is told afterwards."""

    def cancel(self, msg: Any = None) -> bool:
        """Refuse, so that the task remembers it."""
        return False


Step: TypeAlias = tuple["asyncio.Future[Any]", Callable[..., Any], tuple[Any, ...]]
"""One step: where its answer goes, what makes it, and of what."""


class GroupCommit:
    """The queue of one store.  *make* makes steps in one transaction and returns their results.

    `patience` is how many more turns are waited for, at most.
    """

    patience = 0

    def __init__(self, make: Callable[[Sequence[Step]], Sequence[Any]]) -> None:
        self._make = make
        self.steps: list[Step] = []
        """Those that are queued: whatever is asked for while there are any belongs behind them."""
        self._lonely = self._at_once = 0
        self._known = self._more = 0
        self._begun = 0.0

    def wanted(self) -> bool:
        """Whether a step is to be queued where none is, and several calls are running."""
        if self._at_once:
            self._at_once -= 1
            return False
        return True

    def cancellable(self, make: Callable[..., Any], of: tuple[Any, ...]) -> asyncio.Future[Any]:
        """Make a step, unless its answer is cancelled before the end of the turn."""
        return self._queued(asyncio.get_running_loop().create_future(), make, of)

    def firm(self, make: Callable[..., Any], of: tuple[Any, ...]) -> asyncio.Future[Any]:
        """Make a step, also if whoever waits for its answer is cancelled: that is told when the step has been made."""
        return self._queued(Firm(loop=asyncio.get_running_loop()), make, of)

    def _queued(
        self, answer: asyncio.Future[Any], make: Callable[..., Any], of: tuple[Any, ...]
    ) -> asyncio.Future[Any]:
        loop = answer.get_loop()
        if self.steps and self.steps[-1][0].get_loop() is not loop:
            self.end()  # that loop was stopped under them, and may never run again
        if not self.steps:
            self._known, self._more, self._begun = 0, self.patience, loop.time()
            loop.call_soon(self._turned, loop)
        self.steps.append((answer, make, of))
        return answer

    def _turned(self, loop: asyncio.AbstractEventLoop) -> None:
        if not self.steps or self.steps[-1][0].get_loop() is not loop:
            return
        if self._more and len(self.steps) > self._known and loop.time() - self._begun < LONGEST:
            self._known, self._more = len(self.steps), self._more - 1
            loop.call_soon(self._turned, loop)
        else:
            self.end()

    def end(self) -> None:
        """Make all steps that are queued, but for those that nobody can want any more."""
        steps, self.steps = self.steps, []
        if not steps:
            return
        self._lonely = 0 if len(steps) > 1 else min(2 * self._lonely + 1, MOST_LONELY)
        self._at_once = self._lonely
        self._end([step for step in steps if _is_wanted(step[0])])

    def _end(self, steps: Sequence[Step]) -> None:
        try:
            results = self._make(steps)
        except StoreDown as error:
            for answer, *_ in steps:
                _answered(answer, StoreDown(*error.args, taken=error.taken))
                answer.exception()  # it has been heard of, even where whoever waits for it is cancelled in the same turn
        except Exception as error:  # noqa: BLE001  # it is told to whoever asked for the step
            if len(steps) == 1:
                _answered(steps[0][0], error)
                return
            for step in steps:
                self._end([step])
        else:
            for (answer, *_), result in zip(steps, results, strict=True):
                try:
                    answer.set_result(result)
                except RuntimeError:
                    continue  # its loop is closed


def _is_wanted(answer: asyncio.Future[Any]) -> bool:
    """Whether a step is to be made: not where it was cancelled, nor a reservation for a loop that is closed."""
    return not answer.cancelled() and (isinstance(answer, Firm) or not answer.get_loop().is_closed())


def _answered(answer: asyncio.Future[Any], error: Exception) -> None:
    with contextlib.suppress(RuntimeError):  # where its loop is closed
        answer.set_exception(error)
