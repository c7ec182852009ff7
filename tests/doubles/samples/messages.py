"""Samples of Anthropic's Messages API: events of each class and kind of delta, answers, errors, and whole streams.

Usage counts cache reads and writes outside `input_tokens`. The usage of `message_delta` is cumulative, not an increment.
"""

from __future__ import annotations

from typing import Any

from samples.sample import Sample

SOURCE = "types of anthropic 2.14.0"
DOCUMENTED = "Anthropic's documentation of streaming"
MODEL = "claude-sonnet-4-5"
SIGNATURE = "EqQBCgIYAhIM1gbcDa9GJwZA2b3hGgxBdjrkzLoky3dl1pkiMOYds"
CITATION: dict[str, Any] = {
    "type": "char_location",
    "cited_text": "It is 21 degrees.",
    "document_index": 0,
    "document_title": "Weather",
    "file_id": None,
    "start_char_index": 0,
    "end_char_index": 17,
}
USAGE: dict[str, Any] = {
    "input_tokens": 11,
    "cache_creation_input_tokens": 5,
    "cache_read_input_tokens": 3,
    "cache_creation": {"ephemeral_5m_input_tokens": 5, "ephemeral_1h_input_tokens": 0},
    "output_tokens": 7,
    "service_tier": "standard",
}
"""19 tokens of input in all: 11 + 5 + 3."""
FINAL_USAGE: dict[str, Any] = {
    "input_tokens": 11,
    "cache_creation_input_tokens": 5,
    "cache_read_input_tokens": 3,
    "output_tokens": 7,
}
TEXT: dict[str, Any] = {"type": "text", "text": "Hello, Zoë."}
THINKING: dict[str, Any] = {"type": "thinking", "thinking": "A greeting is due.", "signature": SIGNATURE}
REDACTED: dict[str, Any] = {"type": "redacted_thinking", "data": "EmwKAhgBEgy3va3pzix/LafPsn4aDFIT2Xlxh0L5L8rLVyIw"}
TOOL_USE: dict[str, Any] = {"type": "tool_use", "id": "toolu_1", "name": "get_weather", "input": {"city": "Oslo"}}
INPUT_PIECES = ('{"city": ', '"Oslo"}')
TEXTS = ("Hello", ", Zoë.")


def message(stop: str | None, *content: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """Return a message with the stop reason *stop*; *fields* replace others."""
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": MODEL,
        "content": list(content),
        "stop_reason": stop,
        "stop_sequence": None,
        "usage": USAGE,
        **fields,
    }


START: dict[str, Any] = {"type": "message_start", "message": message(None, usage=USAGE | {"output_tokens": 1})}
STOP: dict[str, Any] = {"type": "message_stop"}
PING: dict[str, Any] = {"type": "ping"}


def block_start(content: dict[str, Any], at: int = 0) -> dict[str, Any]:
    return {"type": "content_block_start", "index": at, "content_block": content}


def block_delta(kind: str, field: str, value: Any, at: int = 0) -> dict[str, Any]:
    return {"type": "content_block_delta", "index": at, "delta": {"type": kind, field: value}}


def block_stop(at: int = 0) -> dict[str, Any]:
    return {"type": "content_block_stop", "index": at}


def ending(stop: str, **usage: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the last two events of a stream; *usage* replaces fields of the final usage."""
    delta = {"stop_reason": stop, "stop_sequence": None}
    return {"type": "message_delta", "delta": delta, "usage": FINAL_USAGE | usage}, STOP


def error(kind: str, text: str) -> dict[str, Any]:
    """Return the error envelope, which is also the data of an `error` event."""
    return {"type": "error", "error": {"type": kind, "message": text}, "request_id": "req_upstream"}


OVERLOADED = error("overloaded_error", "Overloaded")
SERVER_ERROR = error("api_error", "Internal server error")
EVENTS: tuple[Sample, ...] = (
    Sample("RawMessageStartEvent", SOURCE, START),
    Sample("RawMessageDeltaEvent", SOURCE, ending("end_turn")[0]),
    Sample("RawMessageStopEvent", SOURCE, STOP),
    Sample("RawContentBlockStartEvent of text", SOURCE, block_start({"type": "text", "text": ""})),
    Sample("RawContentBlockStartEvent of thinking", SOURCE, block_start(THINKING | {"thinking": "", "signature": ""})),
    Sample("RawContentBlockStartEvent of redacted thinking", SOURCE, block_start(REDACTED), REDACTED["data"]),
    Sample("RawContentBlockStartEvent of tool use", SOURCE, block_start(TOOL_USE | {"input": {}})),
    Sample("RawContentBlockDeltaEvent of TextDelta", SOURCE, block_delta("text_delta", "text", "Hello"), "Hello"),
    Sample(
        "RawContentBlockDeltaEvent of InputJSONDelta",
        SOURCE,
        block_delta("input_json_delta", "partial_json", INPUT_PIECES[0]),
        INPUT_PIECES[0],
    ),
    Sample(
        "RawContentBlockDeltaEvent of ThinkingDelta",
        SOURCE,
        block_delta("thinking_delta", "thinking", "A greeting"),
        "A greeting",
    ),
    Sample(
        "RawContentBlockDeltaEvent of SignatureDelta", SOURCE, block_delta("signature_delta", "signature", SIGNATURE)
    ),
    Sample("RawContentBlockDeltaEvent of CitationsDelta", SOURCE, block_delta("citations_delta", "citation", CITATION)),
    Sample("RawContentBlockStopEvent", SOURCE, block_stop()),
)
"""Events of each class of `RawMessageStreamEvent`, and of each class of delta."""
OTHER_EVENTS: tuple[Sample, ...] = (
    Sample("ping", DOCUMENTED, PING),
    Sample("error", DOCUMENTED, OVERLOADED),
)
"""Events that the SDK handles before it looks for a class: the first it skips, the second it raises."""
ANSWERS: tuple[Sample, ...] = (
    Sample("text", SOURCE, message("end_turn", TEXT), TEXT["text"]),
    Sample("thinking", SOURCE, message("end_turn", THINKING, TEXT), THINKING["thinking"] + TEXT["text"]),
    Sample("tool use", SOURCE, message("tool_use", TOOL_USE), '{"city": "Oslo"}'),
    Sample("max_tokens", SOURCE, message("max_tokens", TEXT | {"text": "Hello"}), "Hello"),
    Sample("stop sequence", SOURCE, message("stop_sequence", TEXT, stop_sequence="."), TEXT["text"]),
    Sample("refusal", SOURCE, message("refusal")),
)
COUNTED = Sample("MessageTokensCount", SOURCE, {"input_tokens": 19})
"""The answer of `/messages/count_tokens`."""
ERRORS: dict[int, Sample] = {
    400: Sample("InvalidRequestError", SOURCE, error("invalid_request_error", "max_tokens: Field required")),
    401: Sample("AuthenticationError", SOURCE, error("authentication_error", "invalid x-api-key")),
    403: Sample("PermissionError", SOURCE, error("permission_error", "Your key may not use this model.")),
    404: Sample("NotFoundError", SOURCE, error("not_found_error", "model: claude-none")),
    413: Sample("request_too_large", DOCUMENTED, error("request_too_large", "Request exceeds the maximum size")),
    429: Sample("RateLimitError", SOURCE, error("rate_limit_error", "This request would exceed your rate limit.")),
    500: Sample("APIErrorObject", SOURCE, SERVER_ERROR),
    504: Sample("GatewayTimeoutError", SOURCE, error("timeout_error", "Request timed out")),
    529: Sample("OverloadedError", SOURCE, OVERLOADED),
}
"""Error answers by status."""


def text_events(*texts: str, at: int = 0) -> tuple[dict[str, Any], ...]:
    """Return the events of a block of *texts*."""
    deltas = (block_delta("text_delta", "text", text, at) for text in texts)
    return block_start({"type": "text", "text": ""}, at), *deltas, block_stop(at)


def thinking_events() -> tuple[dict[str, Any], ...]:
    return (
        block_start(THINKING | {"thinking": "", "signature": ""}),
        block_delta("thinking_delta", "thinking", "A greeting"),
        block_delta("thinking_delta", "thinking", " is due."),
        block_delta("signature_delta", "signature", SIGNATURE),
        block_stop(),
    )


def tool_events(*pieces: str, at: int = 0) -> tuple[dict[str, Any], ...]:
    """Return the events of a call of a tool whose input arrives in *pieces*; the first delta is empty, as Anthropic's is."""
    deltas = (block_delta("input_json_delta", "partial_json", piece, at) for piece in ("", *pieces))
    return block_start(TOOL_USE | {"input": {}}, at), *deltas, block_stop(at)


STREAMS: dict[str, tuple[dict[str, Any], ...]] = {
    "text": (START, PING, *text_events(*TEXTS), *ending("end_turn")),
    "thinking": (START, *thinking_events(), *text_events(*TEXTS, at=1), *ending("end_turn")),
    "tool use": (START, *text_events("I ask.", at=0), *tool_events(*INPUT_PIECES, at=1), *ending("tool_use")),
    "max_tokens": (START, *text_events("Hello"), *ending("max_tokens")),
    "refusal": (START, *ending("refusal", output_tokens=1)),
    "error": (START, OVERLOADED),
    "error after text": (START, *text_events(*TEXTS)[:3], OVERLOADED),
}
"""Whole streams by what they show. Those of an error end with it."""
