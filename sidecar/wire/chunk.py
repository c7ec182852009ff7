"""What upstream sends, as far as we look at it: chunks of a stream and whole answers, read tolerantly."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from policies.api.event import Event
from policies.api.tokens import SHORT_PIECE, streamed_tokens

from .reported_usage import Reported, reported

if TYPE_CHECKING:
    from .sse_reader import Frame

MOST_ANSWERS = 1_024
"""An index beyond it is none: nobody asks for so many answers."""
TOOL_BYTES = 16
"""Bytes of a tool call's piece that count as one token: most of them are the JSON around it.  Of speech too."""
CALL_BYTES = 4
"""As above, for a tool call that comes whole."""
_FRAME = b"[]{}, \t\r\nnul"
"""What JSON with nothing in it is made of: `[{}]`, `[null]`."""


class Delta(msgspec.Struct, gc=False):
    """A piece of an answer, or (`message`) all of it."""

    content: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    refusal: str | None = None
    tool_calls: msgspec.Raw | None = None
    function_call: msgspec.Raw | None = None
    audio: msgspec.Raw | None = None

    @property
    def has_tool(self) -> bool:
        """Whether it carries something to see that is no text: a tool call, or speech."""
        return _filled(self.tool_calls) or _filled(self.function_call) or _filled(self.audio)

    def tokens(self, *, whole: bool = False) -> int:
        """Guess the tokens of all that is in it; *whole* says that it is no piece."""
        content = self.content
        if not content:
            tokens = 0
        elif not whole and len(content) <= SHORT_PIECE and content.isascii():
            tokens = 1  # what nearly every piece is
        else:
            tokens = streamed_tokens(content, whole=whole)
        if self.refusal:
            tokens += streamed_tokens(self.refusal, whole=whole)
        if self.reasoning:
            tokens += streamed_tokens(self.reasoning, whole=whole)
        # Some servers send one text under both names, for clients old and new: it was made once.
        if self.reasoning_content and self.reasoning_content != self.reasoning:
            tokens += streamed_tokens(self.reasoning_content, whole=whole)
        if self.tool_calls is not None or self.function_call is not None or self.audio is not None:
            size = CALL_BYTES if whole else TOOL_BYTES
            tokens += _raw_tokens(self.tool_calls, size) + _raw_tokens(self.function_call, size)
            tokens += _raw_tokens(self.audio, TOOL_BYTES)
        return tokens


class Choice(msgspec.Struct, gc=False):
    """One of the `n` answers."""

    delta: Delta | None = None
    message: Delta | None = None
    index: Annotated[int, msgspec.Meta(ge=0, lt=MOST_ANSWERS)] = 0
    finish_reason: str | None = None

    @property
    def tokens(self) -> int:
        """A guess at the tokens of all that it brings."""
        if self.delta is not None:
            return self.delta.tokens()
        return 0 if self.message is None else self.message.tokens(whole=True)


class Chunk(msgspec.Struct, gc=False):
    """One JSON object of upstream's."""

    choices: list[Choice] | None = None
    usage: Reported | None = None
    error: msgspec.Raw | None = None


NOTHING = Delta()
_DECODER = msgspec.json.Decoder(Chunk)


def _filled(raw: msgspec.Raw | None) -> bool:
    return raw is not None and bytes(raw).strip(_FRAME) != b""


def _raw_tokens(raw: msgspec.Raw | None, size: int) -> int:
    return 1 + len(bytes(raw)) // size if raw is not None and _filled(raw) else 0


def read_chunk(payload: bytes) -> Chunk:
    """Return the chunk in *payload*; a field of a type that nobody expects is taken as absent.

    Raises `ValueError` where it is no JSON object.
    """
    try:
        return _DECODER.decode(payload)
    except msgspec.ValidationError:
        return _lenient(payload)
    except (msgspec.DecodeError, RecursionError) as error:
        msg = "not JSON"
        raise ValueError(msg) from error


def read_mended(payload: bytes) -> tuple[Chunk, bytes]:
    """Return the chunk in *payload*, and *payload*, mended where it needed that; raises `ValueError`."""
    try:
        return read_chunk(payload), payload
    except ValueError:
        payload = _mended(payload)
    return read_chunk(payload), payload


def read_chunks(frames: Sequence[Frame]) -> list[Chunk]:
    """Return the chunks of the first of *frames*, up to one that is no object, by one decoding of them all.

    None of them where one needs a look of its own.  Each begins with a brace and ends with one, so what one leaves open its
    neighbour, a brace without a comma, cannot close: as many objects as lines are one on each.
    """
    payloads = []
    for frame in frames:
        if not (frame.payload.startswith(b"{") and frame.payload.endswith(b"}")):
            break
        payloads.append(frame.payload)
    try:
        chunks = _DECODER.decode_lines(b"\n".join(payloads))
    except (msgspec.MsgspecError, RecursionError):
        return []
    return chunks if len(chunks) == len(payloads) else []


def _mended(payload: bytes) -> bytes:
    """Return JSON whose texts hold halves of characters, as where a server splits an emoji over two events, without them.

    Raises `ValueError` where it is no JSON even so.
    """
    if b"\\ud" not in payload.lower():
        msg = "not JSON"
        raise ValueError(msg)
    try:
        text = json.dumps(json.loads(payload), ensure_ascii=False)
    except RecursionError as error:
        msg = "nested too deeply"
        raise ValueError(msg) from error
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace").encode()


def decoded(payload: bytes) -> dict[str, Any]:
    """Return all of the JSON object in *payload*; raises `ValueError` where it is none, or none that can be read."""
    try:
        data: object = msgspec.json.decode(payload)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        msg = "not JSON"
        raise ValueError(msg) from error
    if not isinstance(data, dict):
        msg = "not a JSON object"
        raise ValueError(msg)  # noqa: TRY004  # the same as for what is no JSON at all
    return data


def _lenient(payload: bytes) -> Chunk:
    data = decoded(payload)
    error = data.get("error")
    return Chunk(
        choices=[_choice(each) for each in _list(data.get("choices")) if isinstance(each, dict)],
        usage=reported(data.get("usage")),
        error=None if error is None else msgspec.Raw(msgspec.json.encode(error)),
    )


def _choice(data: dict[str, Any]) -> Choice:
    index, finish = data.get("index"), data.get("finish_reason")
    return Choice(
        delta=_delta(data.get("delta")),
        message=_delta(data.get("message")),
        index=index if type(index) is int and 0 <= index < MOST_ANSWERS else 0,
        finish_reason=finish if isinstance(finish, str) else None,
    )


def _delta(data: object) -> Delta | None:
    if not isinstance(data, dict):
        return None
    return Delta(
        content=_text(data.get("content")),
        reasoning=_text(data.get("reasoning")),
        reasoning_content=_text(data.get("reasoning_content")),
        refusal=_text(data.get("refusal")),
        tool_calls=_raw(data.get("tool_calls")),
        function_call=_raw(data.get("function_call")),
        audio=_raw(data.get("audio")),
    )


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _raw(value: object) -> msgspec.Raw | None:
    return msgspec.Raw(msgspec.json.encode(value)) if value else None


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def event_of(choice: Choice, raw: bytes, payload: bytes) -> Event:
    """Return the event of *choice*: of a stream's piece, or of a whole answer."""
    part = choice.delta
    whole = part is None and choice.message is not None
    if part is None:
        part = choice.message or NOTHING
    return Event(
        raw=raw,
        payload=payload,
        text=part.content or part.refusal or "",
        reasoning=part.reasoning or part.reasoning_content or "",
        tool=(part.tool_calls is not None or part.function_call is not None or part.audio is not None)
        and part.has_tool,
        finish=choice.finish_reason or None,
        index=choice.index,
        whole=whole,
    )
