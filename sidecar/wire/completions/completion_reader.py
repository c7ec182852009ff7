"""Read an answer of the legacy completions API."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, ClassVar

from msgspec.structs import replace

from policies.api.event import Batch, Event
from policies.api.usage import Usage
from sidecar.wire.answer_end import cut_batch
from sidecar.wire.answer_reader import AnswerReader
from sidecar.wire.chunk import Choice, ChunkForm, Delta, Item, events_of
from sidecar.wire.decoding.own_choice import one_line

from .text_chunk import decode_text_chunk, read_text_chunk, texts_in
from .text_events import TEXT_EVENTS

if TYPE_CHECKING:
    from sidecar.wire.whole_answer import WholeAnswer

EMPTY_TEXT: Mapping[str, object] = MappingProxyType({"text": "", "logprobs": None})


def text_events_of(items: Sequence[Item]) -> list[Event]:
    """Return the events of *items*, whose changes `TEXT_EVENTS` writes."""
    events = events_of(items)
    for event in events:
        event.form = TEXT_EVENTS
    return events


TEXT_CHUNKS = ChunkForm(decode_text_chunk, read_text_chunk, text_events_of)


class CompletionReader(AnswerReader, kw_only=True, eq=False):
    """See `AnswerReader`. Each choice has its output in `text`; a stream and a whole answer have the same shape."""

    chunks: ClassVar = TEXT_CHUNKS
    least_prompt: int = 0
    """Tokens that all prompts of a list have at least together; 0 for a single prompt."""

    @property
    def usage(self) -> Usage:
        """See `AnswerCounts.usage`. A report of one prompt for a list of them (llama.cpp) counts as none of the prompt."""
        usage = super().usage
        if usage.input >= self.least_prompt:
            return usage
        return replace(usage, input=0, cached=0, written=0, unreported=1)

    def expect_echo(self, tokens: int) -> None:
        """Note that each answer repeats a prompt, of at most *tokens* in all, so that reports of fewer tokens can be true."""
        self._report.excess = tokens * self.answers

    def cut_off(self, sample: bytes, prompt_tokens: int) -> Batch:
        """See `sidecar.wire.operations.operation.Reading.cut_off`."""
        usage = self.usage if self.shows_usage else None
        batch = cut_batch(sample, self.open_choices, usage, prompt_tokens, kind="text_completion", end=EMPTY_TEXT)
        for event in batch.events:
            event.form = TEXT_EVENTS
        return batch

    def complete(self, answer: WholeAnswer) -> None:
        """See `AnswerReader.complete`."""
        choices = answer.chunk.choices or []
        texts = texts_in(answer.payload)
        for choice, text in zip(choices, texts, strict=False):
            if choice.message is None or text is not None:
                choice.message, choice.delta = Delta(content=text), None

    def _stream_steps(self, answer: WholeAnswer, choices: list[Choice]) -> Generator[None, None, Batch | None]:
        """See `AnswerReader`. The whole answer is one event, with all choices and the usage."""
        yield
        for choice in choices:
            choice.delta, choice.message = choice.message, None
        payload = one_line(answer.payload)
        raw = b"data: " + payload + b"\n\n"
        is_single = len(choices) == 1
        item: Item = (choices[0] if is_single else choices or None, raw if is_single or not choices else b"", payload)
        return Batch(events=partial(text_events_of, [item]), raw=raw, last=True)
