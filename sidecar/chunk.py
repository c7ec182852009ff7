"""What upstream sends, as far as we look at it: chunks of a stream and whole answers, read tolerantly."""

from __future__ import annotations

import json
from typing import Any

import msgspec

from policies.event import Event


class Delta(msgspec.Struct):
    """A piece of an answer, or (`message`) all of it."""

    content: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    refusal: str | None = None
    tool_calls: msgspec.Raw | None = None
    function_call: msgspec.Raw | None = None
    audio: msgspec.Raw | None = None

    @property
    def calls_tool(self) -> bool:
        """Whether it carries something to see that is no text: a tool call, or speech."""
        return _filled(self.tool_calls) or _filled(self.function_call) or _filled(self.audio)


class Choice(msgspec.Struct):
    """One of the `n` answers."""

    delta: Delta | None = None
    message: Delta | None = None
    index: int = 0
    finish_reason: str | None = None


class Details(msgspec.Struct):
    """What is known of the prompt's tokens."""

    cached_tokens: int | None = None


class Reported(msgspec.Struct):
    """Upstream's own count."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: Details | None = None


class Chunk(msgspec.Struct):
    """One JSON object of upstream's."""

    choices: list[Choice] | None = None
    usage: Reported | None = None
    error: msgspec.Raw | None = None


_DECODER = msgspec.json.Decoder(Chunk)


def _filled(raw: msgspec.Raw | None) -> bool:
    return raw is not None and bytes(raw) not in (b"null", b"[]", b"{}")


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


def _lenient(payload: bytes) -> Chunk:
    data = msgspec.json.decode(payload)
    if not isinstance(data, dict):
        msg = "not a JSON object"
        raise ValueError(msg)  # noqa: TRY004  # the same as for what is no JSON at all
    error = data.get("error")
    return Chunk(
        choices=[_choice(each) for each in _list(data.get("choices")) if isinstance(each, dict)],
        usage=_as(data.get("usage"), Reported),
        error=None if error is None else msgspec.Raw(msgspec.json.encode(error)),
    )


def _choice(data: dict[str, Any]) -> Choice:
    index, finish = data.get("index"), data.get("finish_reason")
    return Choice(
        delta=_delta(data.get("delta")),
        message=_delta(data.get("message")),
        index=index if isinstance(index, int) and index >= 0 else 0,
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


def _as(value: object, kind: type[Reported]) -> Reported | None:
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError:
        return None


def event_of(choice: Choice, raw: bytes, payload: bytes) -> Event:
    """Return the event of *choice*: of a stream's piece, or of a whole answer."""
    part = choice.delta
    whole = part is None and choice.message is not None
    if part is None:
        part = choice.message or Delta()
    return Event(
        raw=raw,
        payload=payload,
        text=part.content or part.refusal or "",
        reasoning=part.reasoning or part.reasoning_content or "",
        tool=part.calls_tool,
        finish=choice.finish_reason or None,
        index=choice.index,
        whole=whole,
    )
