"""What was read of one answer: the state that the readers of all APIs share, and the counts of answers with choices."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from policies.api.usage import Usage

from .choice_index import ChoiceIndexes
from .chunk import Choice, other_outputs
from .decoding.one_step import result_of
from .decoding.own_choice import with_index
from .error_object import MODEL_FAILED, MalformedAnswer, error_of_list
from .output_tokens import CountedOutput, tokens_of
from .reported_usage import Report, least_tokens_of
from .whole_answer import AnswerTooComplex

if TYPE_CHECKING:
    from policies.api.event import Batch


MAX_HELD_BYTES, MAX_HELD_EVENTS = 1_000_000, 1_000
"""Limits of what is held back before the first output."""
TOO_MUCH_HELD = MalformedAnswer("the stream has too many bytes or events before its first output")


class AnswerState(msgspec.Struct, kw_only=True, eq=False):
    """The public fields of `sidecar.wire.operations.operation.Reading`, which describes them, and the reported usage."""

    outputs: int = 0
    finishes: int = 0
    has_output: bool = False
    done: bool = False
    says_why: bool = False
    all_finished: bool = False
    failure: dict[str, Any] | MalformedAnswer | None = None
    _report: Report = msgspec.field(default_factory=Report)

    @property
    def usage(self) -> Usage:
        """See `Reading.usage`."""
        return self._report.usage(self.outputs)

    def take_whole(self, body: bytes, *, as_stream: bool) -> Batch | None:
        """See `Reading.take_whole`."""
        return result_of(self.take_whole_steps(body, as_stream=as_stream))

    def take_whole_steps(self, body: bytes, *, as_stream: bool) -> Generator[None, None, Batch | None]:
        """See `Reading.take_whole_steps`. Each reader has its own."""
        raise NotImplementedError

    def _add(self, counted: CountedOutput) -> None:
        """Count output. Upstream may report fewer tokens than were estimated, but at least one for each piece."""
        if tokens := counted.tokens:
            self.outputs += tokens
            self.has_output = True
            self._report.excess += max(0, tokens - max(1, counted.least))


def unreadable_answer(fault: ValueError, body: bytes) -> dict[str, Any] | MalformedAnswer:
    """Return why *body*, which could not be read because of *fault*, is no answer: the error in its list, or the fault."""
    if isinstance(fault, AnswerTooComplex):
        return MalformedAnswer(str(fault))
    found = error_of_list(body)
    return MalformedAnswer("the answer is not JSON") if found is None else found


class AnswerCounts(AnswerState, kw_only=True, eq=False):
    """What was read of one answer.

    `answers`: choices that the client gets.  `outputs`: output tokens, an estimate.  `failure`: the error object that
    upstream sent, or why its answer is malformed.  `says_why`: a choice ended for another reason than `stop`.
    `all_finished`: at least `answers` choices have finished, and all that were seen; a later failure is ignored.
    """

    answers: int = 1
    _indexes: ChoiceIndexes = msgspec.field(default_factory=ChoiceIndexes)
    _may_report: bool = False  # the chunk has a finish or a choice without output: usage may be anywhere in it

    @property
    def finished(self) -> bool:
        """Whether every choice that was seen has finished: the end of the stream is then not a cut."""
        indexes = self._indexes
        return bool(indexes.seen) and len(indexes.finished) == len(indexes.seen)

    @property
    def open_choices(self) -> list[int]:
        """The indices of the choices that have not finished, also of those that have not begun."""
        return sorted((self._indexes.seen | set(range(self.answers))) - self._indexes.finished)

    @property
    def is_answered(self) -> bool:
        """Whether upstream reported work for a complete answer without output, so that another attempt would be charged too.

        It reported output tokens, or any usage and no choice.
        """
        return self.usage.output > 0 or (not self._indexes.seen and self._report.is_known)

    def _fail(self, failure: dict[str, Any] | MalformedAnswer) -> bool:
        """Keep the first *failure*; False if all choices had finished, so that it is ignored."""
        if not self.all_finished and self.failure is None:
            self.failure = failure
        return not self.all_finished

    def _take_index(self, choice: Choice, payload: bytes, *, can_rise: bool) -> bytes:
        """Note the index of *choice*; return *payload*, with index 0 where the server's index counts chunks."""
        indexes, sent = self._indexes, choice.index
        known = len(indexes.seen)
        choice.index = indexes.take(sent, can_rise=can_rise)
        if len(indexes.seen) > known:
            self.all_finished = False
        return payload if choice.index == sent else with_index(payload, choice.index)

    def _count(self, choice: Choice) -> int:
        """Count the output of *choice* and note its finish; return the tokens, 0 if it has no output in known fields."""
        finish = choice.finish_reason
        tokens = tokens_of(choice)
        if tokens == 1:  # nearly every piece of a stream
            self.outputs += 1
            self.has_output = True
        elif tokens:
            self._add_output(choice, tokens)
        elif self.has_output:
            self._may_report = True
        if not finish:
            return tokens
        self._may_report = True
        if finish == "error":
            self._fail(MODEL_FAILED)
        else:
            self.says_why = self.says_why or finish != "stop"
            seen, finished = self._indexes.seen, self._indexes.finished
            if choice.index not in finished:
                finished.add(choice.index)
                self.finishes += choice.index < self.answers
                self.all_finished = len(seen) == len(finished) >= self.answers
        return tokens

    def _add_pieces(self, number: int) -> None:
        """Count *number* pieces of one token each, at least one."""
        self.outputs += number
        self.has_output = True

    def _count_others(self, choices: Sequence[Choice], payload: bytes, *, many: bool = False) -> None:
        """Count the output of *choices*, those of *payload*, in fields that `Delta` does not have; see `other_outputs`."""
        if choices[0].finish_reason and payload.find(b'"delta":{}') >= 0 and payload.count(b'"delta"') == 1:
            return  # nearly every last chunk
        for choice, tokens in zip(choices, other_outputs(payload, many=many), strict=False):
            if not tokens_of(choice):
                self._add_output(choice, tokens)

    def _add_output(self, choice: Choice, tokens: int) -> None:
        """Count output of several *tokens*, an estimate; 0 for none. Upstream may report fewer, but at least one."""
        if tokens:
            self._add(CountedOutput(tokens, least_tokens_of(choice)))
