"""Estimate the output tokens of one choice, as a piece of a stream or as a whole answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from policies.api.decoding.token_counts import SHORT_PIECE, streamed_tokens

from .chunk import has_content

if TYPE_CHECKING:
    from .chunk import Choice, Delta

TOOL_PIECE_BYTES_PER_TOKEN = 16
"""Bytes per token of a streamed piece of a tool call, most of which is JSON syntax; also of audio."""
TOOL_CALL_BYTES_PER_TOKEN = 4
"""Bytes per token of a tool call in a whole answer."""


class CountedOutput(NamedTuple):
    """Output tokens: an estimate, and the fewest that it can be."""

    tokens: int = 0
    least: int = 0

    def plus(self, other: CountedOutput) -> CountedOutput:
        """Return both together."""
        return CountedOutput(self.tokens + other.tokens, self.least + other.least)


NO_OUTPUT = CountedOutput()


def tokens_of(choice: Choice) -> int:
    """Estimate the tokens of a choice: of its `message` as a whole answer, else of its `delta` as a piece of a stream."""
    part, whole = choice.delta, False
    if part is None:
        if (part := choice.message) is None:
            return 0
        whole = True
    content = part.content
    if not content:
        tokens = 0
    elif not whole and len(content) <= SHORT_PIECE and content.isascii():
        tokens = 1  # nearly every piece of a stream
    else:
        tokens = streamed_tokens(content, whole=whole)
    if part.refusal:
        tokens += streamed_tokens(part.refusal, whole=whole)
    if part.reasoning:
        tokens += streamed_tokens(part.reasoning, whole=whole)
    # Some servers send the same text under both names, for old and new clients: it is counted once.
    if part.reasoning_content and part.reasoning_content != part.reasoning:
        tokens += streamed_tokens(part.reasoning_content, whole=whole)
    if part.tool_calls is not None or part.function_call is not None or part.audio is not None:
        tokens += _tool_tokens(part, TOOL_CALL_BYTES_PER_TOKEN if whole else TOOL_PIECE_BYTES_PER_TOKEN)
    return tokens


def is_short_text(delta: Delta | None) -> bool:
    """Whether *delta*, a piece of a stream, has a short text and no other output, as nearly every piece has: one token."""
    if delta is None or not (content := delta.content) or len(content) > SHORT_PIECE or not content.isascii():
        return False
    if delta.reasoning or delta.reasoning_content or delta.refusal:
        return False
    return delta.tool_calls is None and delta.function_call is None and delta.audio is None


def _tool_tokens(part: Delta, size: int) -> int:
    pieces = ((part.tool_calls, size), (part.function_call, size), (part.audio, TOOL_PIECE_BYTES_PER_TOKEN))
    return sum(1 + len(bytes(raw)) // per_token for raw, per_token in pieces if raw is not None and has_content(raw))
