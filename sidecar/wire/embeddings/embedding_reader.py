"""Read an answer of the embeddings API: only its usage, its error and whether it has data are decoded."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING

import msgspec

from policies.api.event import Batch, Event, WholeBatch
from policies.api.usage import Usage
from sidecar.wire.answer_counts import AnswerState, unreadable_answer
from sidecar.wire.chunk import Chunk, decode_json
from sidecar.wire.decoding.own_choice import DECODE_FAULTS
from sidecar.wire.decoding.repair import repaired
from sidecar.wire.error_object import MalformedAnswer, find_error
from sidecar.wire.usage_fields import Reported, read_report
from sidecar.wire.whole_answer import MAX_USAGE_BYTES

if TYPE_CHECKING:
    from sidecar.wire.sse_reader import Frame

_NO_JSON = msgspec.Raw()


class _Answer(msgspec.Struct, gc=False):
    data: msgspec.Raw = _NO_JSON
    usage: msgspec.Raw = _NO_JSON
    error: msgspec.Raw = _NO_JSON


_decode = msgspec.json.Decoder(_Answer).decode
_decode_usage = msgspec.json.Decoder(Reported).decode


class EmbeddingReader(AnswerState, kw_only=True, eq=False):
    """See `sidecar.wire.operations.operation.Reading`. There are no events and no output: the usage is the prompt."""

    @property
    def finished(self) -> bool:
        """Whether the answer is complete."""
        return self.done

    @property
    def usage(self) -> Usage:
        """Upstream's report of the prompt; output is never charged."""
        found = self._report.usage(0)
        return Usage(found.input or self._report.total, 0, found.cached, 0 if found.input or self._report.total else 1)

    @property
    def is_answered(self) -> bool:
        """Whether upstream reported work for an answer without data."""
        return self._report.is_known

    def take(self, frames: Sequence[Frame]) -> Batch | None:  # the form of `Reading`
        """Return None: embeddings are no stream."""
        return None

    def held(self) -> Batch:
        """Return an empty batch: nothing is held back."""
        return Batch(events=[])

    def cut_off(self, sample: bytes, prompt_tokens: int) -> Batch:
        """Raise `NotImplementedError`: the reservation of a call without output does not grow."""
        raise NotImplementedError

    def take_whole_steps(self, body: bytes, *, as_stream: bool) -> Generator[None, None, Batch | None]:
        """See `Reading.take_whole_steps`. Decoding takes one step: 60 ms for 32 MB, 2 ms per MB."""
        yield
        try:
            answer, payload = repaired(body, _read)
        except ValueError as fault:
            self.failure = unreadable_answer(fault, body)
            return None
        usage = _usage(answer.usage)
        if usage is not None:
            self._report.take(usage, 0)
        error = answer.error if len(answer.error) else None
        has_items = _has_items(answer.data)
        if error is not None or not has_items:
            yield
            self.failure = find_error(Chunk(error=error, usage=usage), payload)
        if self.failure is None and not has_items:
            self.failure = MalformedAnswer("the answer has no data")
        if self.failure is not None:
            return None
        self.done = self.has_output = self.all_finished = True
        event = Event(raw=body, payload=payload, index=-1, whole=True)
        return WholeBatch(events=[event], raw=body, payload=payload)


def _read(payload: bytes) -> _Answer:
    try:
        return _decode(payload)
    except DECODE_FAULTS as error:
        msg = "not a JSON object"
        raise ValueError(msg) from error


def _has_items(data: msgspec.Raw) -> bool:
    written = bytes(memoryview(data)[:64])
    return written.startswith((b"[", b"{")) and written[1:].lstrip() not in (b"]", b"}")


def _usage(raw: msgspec.Raw) -> Reported | None:
    if not 0 < len(raw) <= MAX_USAGE_BYTES:
        return None
    try:
        return _decode_usage(raw)
    except DECODE_FAULTS:
        pass
    try:
        return read_report(decode_json(bytes(raw)))
    except ValueError:  # such as a number that no float can hold: the answer is good all the same
        return None
