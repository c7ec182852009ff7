"""The usage reports of one message, merged field by field, because each report has only some of the fields.

`message_start` reports the prompt, `message_delta` the output so far; both may repeat fields of the other. The numbers are
running totals, so the last one of a field counts. Zero and null do not replace an earlier number: servers send them for what
they do not know yet, or no longer. `iterations` lists what one answer consists of. Some parts of it, such as the compaction
of a conversation, are billed and are not in the other fields (`types/beta/beta_iterations_usage.py` of anthropic 2.14).
"""

from __future__ import annotations

import msgspec

from sidecar.wire.usage_fields import MAX_REPORTED_TOKENS, Reported, figures_of

USAGE_FIELDS = Reported.__struct_fields__


class MessageUsage(Reported, gc=False):
    """One `usage` object of Anthropic's API."""

    iterations: list[Reported] | None = None


class UsageReports(msgspec.Struct, eq=False, gc=False):
    """All reports of one message so far, merged: `fields` are those of `Reported`."""

    fields: Reported = msgspec.field(default_factory=Reported)
    _parts: list[Reported] = msgspec.field(default_factory=list)

    def take(self, report: MessageUsage) -> Reported:
        """Merge *report*, and return the totals of all reports so far. Called about twice per answer."""
        merged = self.fields
        for name in USAGE_FIELDS:
            if value := getattr(report, name):
                setattr(merged, name, value)
        self._parts = report.iterations or self._parts
        totals = figures_of(merged)
        each = [figures_of(part) for part in self._parts]
        prompt = min(MAX_REPORTED_TOKENS, max(totals.prompt, sum(part.prompt for part in each)))
        output = min(MAX_REPORTED_TOKENS, max(totals.output, sum(part.output for part in each)))
        return Reported(
            prompt_tokens=prompt if prompt or totals.has_prompt_field else None,
            completion_tokens=output,
            total_tokens=totals.total,
            cached_tokens=max(totals.cached, sum(part.cached for part in each)),
            cache_creation_input_tokens=max(totals.written, sum(part.written for part in each)),
        )
