"""The usage of one answer: upstream's reports, merged, beside the output that was read.

The charge follows three rules:

1. **The last report counts.** Servers that report with each chunk (vLLM, Gemini) report running totals, so reports are
   never added up. A field that is zero, negative, no number or above `MAX_REPORTED_TOKENS` is ignored: an earlier value
   stays. Output that is read after a report is added to it.
2. **Output is the larger of `completion_tokens` and `total_tokens` minus the prompt**, so reasoning that a server reports
   only in the total counts (Gemini, xAI). A total below prompt plus completion is ignored.
3. **A report that cannot be true is replaced by the estimate** of what was read. It is exact for the pieces of one token
   that most servers send, and too high for some long pieces and for most tool calls. The output has at least
   `least_tokens_of` tokens with any tokenizer. A report of at least that counts, even if it is below the estimate.

A prompt that was not reported counts as its estimate. Tokens that were read from a cache or written to it are at most the
prompt together.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from policies.api.decoding.token_counts import least_tokens
from policies.api.usage import Usage

from .usage_fields import Reported, figures_of, reports_beside

if TYPE_CHECKING:
    from .chunk import Choice


class Report(msgspec.Struct, eq=False, gc=False):
    """All reports of one answer, merged; 0 where a figure was not reported."""

    prompt: int = 0
    output: int = 0
    cached: int = 0
    written: int = 0
    total: int = 0
    """The total of a report that has no field for the prompt."""
    read: int = 0
    """Output tokens that had been read when `output` was reported."""
    excess: int = 0
    """Output tokens by which what was read may be too high: the estimate minus the least."""

    @property
    def is_known(self) -> bool:
        """Whether upstream reported any tokens, so that it has worked."""
        return bool(self.prompt or self.output or self.total)

    def take(self, report: Reported, read: int) -> None:
        """Merge *report*, which arrived after *read* output tokens."""
        if self._take_plain(report, read):
            return
        prompt, output, cached, total, has_prompt_field, written = figures_of(report)
        self.prompt, self.cached, self.written = prompt or self.prompt, cached or self.cached, written or self.written
        if self.prompt:
            output = max(output, total - self.prompt)
        elif not has_prompt_field:
            self.total = total or self.total
        if output > 0:
            self.output, self.read = output, read

    def _take_plain(self, report: Reported, read: int) -> bool:
        """Merge a report of three consistent numbers, as most servers send; return False for any other.

        Measured: 0.5 µs instead of 1.9 µs.
        """
        prompt, output, total = report.prompt_tokens, report.completion_tokens, report.total_tokens
        if not (prompt and output and prompt + output == total and report == Reported(prompt, output, total)):
            return False
        self.prompt, self.output, self.read = prompt, output, read
        return True

    def take_all(self, usage: Reported | None, payload: bytes, read: int) -> None:
        """Merge the reports in all places of the JSON object *payload*; its own *usage* is the most reliable one."""
        for report in reports_beside(payload, has_usage=usage is not None):
            self.take(report, read)
        if usage is not None:
            self.take(usage, read)

    def usage(self, read: int) -> Usage:
        """Return the usage of the answer after *read* output tokens, complete or not."""
        output = read
        if self.output:
            output = self.output + read - self.read
            if output < read - self.excess:
                output = max(output, read)
        prompt = self.prompt or max(0, self.total - output)
        cached = min(prompt, self.cached) if self.cached else 0
        written = min(prompt - cached, self.written) if self.written else 0
        return Usage(prompt, output, cached, 0 if prompt else 1, written=written)


def least_tokens_of(choice: Choice) -> int:
    """Return the fewest tokens that the output of *choice* can have; at least 1, because a piece of a stream is a token."""
    part, whole = choice.delta, False
    if part is None:
        part, whole = choice.message, True
    if part is None:
        return 1
    texts = [part.content, part.refusal, part.reasoning]
    if part.reasoning_content != part.reasoning:
        texts.append(part.reasoning_content)
    return max(1, sum(least_tokens(text, whole=whole) for text in texts if text))
