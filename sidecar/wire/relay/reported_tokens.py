"""The tokens that an upstream reports in a relayed answer: OpenAI's `usage`, and the counts of engines' own routes.

| server | fields |
| --- | --- |
| OpenAI, vLLM, SGLang | `usage`, also in the last event of a stream |
| Ollama | `prompt_eval_count`, `eval_count`, in the last line |
| llama.cpp | `tokens_evaluated`, `tokens_predicted`, `timings` |
| SGLang | `meta_info.prompt_tokens`, `meta_info.completion_tokens` |
| TGI | `details.generated_tokens` |

The largest report counts. Answers that are not JSON or lines of JSON, such as sounds and images, report nothing.
"""

from __future__ import annotations

from typing import Any

import msgspec

from sidecar.wire.decoding.own_choice import DECODE_FAULTS
from sidecar.wire.usage_fields import figures_of, read_report, reports_beside

MAX_WHOLE_BYTES = 1_048_576
"""Bytes of a JSON answer that are kept until it is complete; a larger one is not read."""
MAX_LINE_BYTES = 65_536
"""Bytes of a line that are kept; a longer line is not read."""
_LINE_TYPES = ("text/event-stream", "application/x-ndjson", "application/jsonl")
_JSON_TYPE = "application/json"
_REPORT_MARKS = (
    b'"usage"',
    b"eval_count",
    b"tokens_predicted",
    b"completion_tokens",
    b"generated_tokens",
    b'"timings"',
)


class _Answer(msgspec.Struct, gc=False):
    """Where servers report; the values stay JSON, so that one of another type hides no other."""

    usage: msgspec.Raw = msgspec.Raw()
    response: msgspec.Raw = msgspec.Raw()
    tokens_evaluated: msgspec.Raw = msgspec.Raw()
    tokens_predicted: msgspec.Raw = msgspec.Raw()
    meta_info: msgspec.Raw = msgspec.Raw()
    details: msgspec.Raw = msgspec.Raw()


_decode_answer = msgspec.json.Decoder(_Answer).decode


class TokenReports:
    """Reads the reports of one answer with the *content_type*. `prompt` and `output` are those of the largest one."""

    def __init__(self, content_type: str) -> None:
        kind = content_type.partition(";")[0].strip().lower()
        self._has_lines, self._is_whole = kind in _LINE_TYPES, kind == _JSON_TYPE
        self._kept = bytearray()
        self._is_skipping = False
        self.prompt = self.output = 0

    def feed(self, data: bytes) -> None:
        """Read the next bytes of the answer. Time is linear, memory bounded."""
        if self._is_whole:
            self._kept += data
            if len(self._kept) > MAX_WHOLE_BYTES:
                self._is_whole = False
                self._kept.clear()
        elif self._has_lines:
            self._read_lines(data)

    def end(self) -> None:
        """Read what is left at the end of the answer."""
        if self._kept and not self._is_skipping:
            self._read(bytes(self._kept))
        self._kept.clear()

    def _read_lines(self, data: bytes) -> None:
        head, newline, tail = data.rpartition(b"\n")
        if not newline:
            self._keep_part(data)
            return
        first, _, others = head.partition(b"\n")
        if not self._is_skipping and len(self._kept) + len(first) <= MAX_LINE_BYTES:
            self._read(bytes(self._kept) + first)
        self._kept.clear()
        self._is_skipping = False
        if others and any(others.find(mark) >= 0 for mark in _REPORT_MARKS):
            for line in others.split(b"\n"):
                self._read(line)
        self._keep_part(tail)

    def _keep_part(self, part: bytes) -> None:
        if self._is_skipping or len(self._kept) + len(part) > MAX_LINE_BYTES:
            self._is_skipping = True
            self._kept.clear()
        else:
            self._kept += part

    def _read(self, line: bytes) -> None:
        if not any(line.find(mark) >= 0 for mark in _REPORT_MARKS):
            return
        payload = line.strip().removeprefix(b"data:").strip()
        try:
            answer = _decode_answer(payload)
        except DECODE_FAULTS:
            return
        inner = _value(answer.response)
        found = [
            _value(answer.usage),
            inner.get("usage") if isinstance(inner, dict) else None,
            {
                "prompt_tokens": _value(answer.tokens_evaluated),
                "completion_tokens": _value(answer.tokens_predicted),
            },
            _value(answer.meta_info),
            _generated(_value(answer.details)),
        ]
        reports = [report for value in found if (report := read_report(value)) is not None]
        for report in [*reports, *reports_beside(payload, has_usage=False)]:
            figures = figures_of(report)
            output = max(figures.output, figures.total - figures.prompt)
            if figures.prompt + output > self.prompt + self.output:
                self.prompt, self.output = figures.prompt, output


def _value(raw: msgspec.Raw) -> Any:
    """Return the decoded value of a short field; None for one that is absent, long or invalid."""
    if not raw or len(raw) > MAX_LINE_BYTES:
        return None
    try:
        return msgspec.json.decode(raw)
    except DECODE_FAULTS:
        return None


def _generated(details: Any) -> dict[str, Any] | None:
    return {"completion_tokens": details.get("generated_tokens")} if isinstance(details, dict) else None
