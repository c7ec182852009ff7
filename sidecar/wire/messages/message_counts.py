"""Count what one answer of the Messages API holds: output tokens, finished blocks, reported usage."""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Any

import msgspec

from policies.api.usage import Usage
from sidecar.wire.answer_counts import AnswerState
from sidecar.wire.chunk import has_content
from sidecar.wire.error_object import MalformedAnswer
from sidecar.wire.whole_answer import AnswerTooComplex, first_items

from .stream_event import StreamEvent, output_of_block, output_of_delta
from .usage_reports import MessageUsage, UsageReports

if TYPE_CHECKING:
    from .whole_message import WholeMessage

ONE_TOKEN_BYTES = 12
"""Bytes of a piece of text up to which it is one token; see `policies.api.decoding.token_counts`."""
USUAL_REASONS = frozenset({"end_turn", "stop_sequence", "tool_use", "stop"})
"""Reasons that do not explain an answer without output."""


class MessageCounts(AnswerState, kw_only=True, eq=False):
    """What was read of one answer. See `sidecar.wire.operations.operation.Reading` for its public fields."""

    _reports: UsageReports = msgspec.field(default_factory=UsageReports)
    _first_output: int = 0
    """Output tokens that the start of the message reported: a part of those that follow."""

    @property
    def finished(self) -> bool:
        """See `Reading.finished`."""
        return self.all_finished

    @property
    def usage(self) -> Usage:
        """See `Reading.usage`."""
        usage = self._report.usage(self.outputs)
        if usage.output >= self._first_output:
            return usage
        return msgspec.structs.replace(usage, output=self._first_output)

    @property
    def is_answered(self) -> bool:
        """See `Reading.is_answered`."""
        return self.usage.output > 0

    def _fail(self, failure: dict[str, Any] | MalformedAnswer) -> None:
        """Keep *failure*, unless the answer had finished before."""
        if not self.all_finished:
            self.failure = failure

    def _take_start(self, event: StreamEvent) -> None:
        message = event.message
        if message is None:
            return
        if message.usage is not None:
            totals = self._reports.take(message.usage)
            self._first_output, totals.completion_tokens = totals.completion_tokens or 0, None
            totals.total_tokens = None
            self._report.take(totals, self.outputs)
        try:
            for block in first_items(message.content) if has_content(message.content) else ():
                self._add(output_of_block(block, whole=True))
        except AnswerTooComplex as error:
            self._fail(MalformedAnswer(str(error)))

    def _take_finish(self, event: StreamEvent) -> None:
        if event.usage is not None:
            self._take_usage(event.usage)
        if event.delta is not None and (reason := event.delta.stop_reason):
            self.all_finished = True
            self.finishes += 1
            self.says_why = self.says_why or reason not in USUAL_REASONS

    def _take_delta(self, event: StreamEvent, payload: bytes) -> None:
        """Take a piece of a block. Called for nearly every event."""
        delta = event.delta
        has_text = delta is not None and delta.thinking is None and delta.partial_json is None and delta.text
        if has_text and len(has_text) <= ONE_TOKEN_BYTES and has_text.isascii():
            self.outputs += 1
            self.has_output = True
            return
        found = output_of_delta(event, payload)
        self._add(found)
        if not found.tokens:
            self.finishes += 1  # progress, such as a signature

    def _count_whole(self, message: WholeMessage) -> Generator[None, None, None]:
        for block in message.blocks:
            self._add(output_of_block(block, whole=True))
            if message.is_large:
                yield
        if message.usage is not None:
            self._take_usage(message.usage)
        reason = message.stop_reason
        self.says_why = bool(reason) and reason not in USUAL_REASONS

    def _take_usage(self, usage: MessageUsage) -> None:
        self._report.take(self._reports.take(usage), self.outputs)
