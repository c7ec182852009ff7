"""One sample of each API that passes the whole chain, for tests that are the same for all of them.

The shapes are those of the pinned SDKs' types: `openai` (chat, completions, embeddings, responses), `anthropic` (messages).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

PIECES = ("one ", "two ", "three")
PROMPT_TEXT = "Say three words"


class OperationSample(msgspec.Struct, frozen=True, kw_only=True):
    """The requests and answers of one API. All events are whole, blank line included."""

    body: dict[str, Any]
    """A request without a ceiling."""
    ceiling: str = ""
    """The field for the ceiling; empty where there is none."""
    opening: bytes = b""
    """The events of a stream before its first output."""
    piece: Callable[[int], bytes] | None = None
    """Returns the event of the text with this position in `PIECES`; None where there is no stream."""
    closing: bytes = b""
    """The events behind the last output of a complete answer: 3 tokens for a prompt of 4."""
    whole: dict[str, Any]
    """The complete answer as one JSON object: 3 tokens for a prompt of 4, or just the prompt."""
    error_event: bytes = b""
    """An error of the server in a stream."""
    error_body: dict[str, Any]
    """The body of an error response."""
    failed: Callable[[bytes], bool]
    """Whether what a client got of a stream makes its SDK raise."""
    complete: Callable[[bytes], bool]
    """Whether what a client got of a stream is complete."""
    cut: Callable[[bytes], bool]
    """Whether what a client got ends as at a ceiling."""
    envelope: Callable[[Mapping[str, Any]], tuple[str, str]]
    """Returns the message and the code of an error response, and checks its form."""

    @property
    def streams(self) -> bool:
        return self.piece is not None

    def stream(self, pieces: int = len(PIECES)) -> bytes:
        """Return a stream up to this number of *pieces*, without its end."""
        assert self.piece is not None
        return self.opening + b"".join(map(self.piece, range(pieces)))


def data(value: Mapping[str, Any], name: str = "") -> bytes:
    line = f"event: {name}\n".encode() if name else b""
    return line + b"data: " + json.dumps(value).encode() + b"\n\n"


def objects(body: bytes) -> list[dict[str, Any]]:
    """Return the JSON objects of the events in *body*, as an SDK reads them."""
    found = []
    for block in body.decode().split("\n\n"):
        lines = [line.removeprefix("data: ") for line in block.split("\n") if line.startswith("data: ")]
        if lines and lines != ["[DONE]"]:
            found.append(json.loads("\n".join(lines)))
    return found


def openai_envelope(body: Mapping[str, Any]) -> tuple[str, str]:
    assert {"message", "type", "param", "code"} <= body["error"].keys(), body
    return body["error"]["message"], body["error"]["code"]


OPENAI_USAGE = {"prompt_tokens": 4, "completion_tokens": 3, "total_tokens": 7}
OPENAI_ERROR = {"error": {"message": "the server failed", "type": "server_error", "param": None, "code": None}}


def _choice_ends(body: bytes, finish: str) -> bool:
    finishes = [choice.get("finish_reason") for each in objects(body) for choice in each.get("choices") or ()]
    return finish in finishes and body.endswith(b"data: [DONE]\n\n") and not _has_error(body)


def _has_error(body: bytes) -> bool:
    return any(each.get("error") for each in objects(body))


CHAT = OperationSample(
    body={"model": "m", "messages": [{"role": "user", "content": PROMPT_TEXT}]},
    ceiling="max_tokens",
    opening=data({"id": "c", "choices": [{"index": 0, "delta": {"role": "assistant"}, "finish_reason": None}]}),
    piece=lambda at: data(
        {"id": "c", "choices": [{"index": 0, "delta": {"content": PIECES[at]}, "finish_reason": None}]}
    ),
    closing=data({"id": "c", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    + data({"id": "c", "choices": [], "usage": OPENAI_USAGE})
    + b"data: [DONE]\n\n",
    whole={
        "id": "c",
        "object": "chat.completion",
        "model": "m",
        "choices": [
            {"index": 0, "message": {"role": "assistant", "content": "".join(PIECES)}, "finish_reason": "stop"}
        ],
        "usage": OPENAI_USAGE,
    },
    error_event=data(OPENAI_ERROR),
    error_body=OPENAI_ERROR,
    failed=_has_error,
    complete=lambda body: _choice_ends(body, "stop"),
    cut=lambda body: _choice_ends(body, "length"),
    envelope=openai_envelope,
)


def _text_choice(text: str, finish: str | None) -> dict[str, Any]:
    return {
        "id": "c",
        "object": "text_completion",
        "model": "m",
        "choices": [{"text": text, "index": 0, "logprobs": None, "finish_reason": finish}],
    }


COMPLETIONS = OperationSample(
    body={"model": "m", "prompt": PROMPT_TEXT},
    ceiling="max_tokens",
    piece=lambda at: data(_text_choice(PIECES[at], None)),
    closing=data(_text_choice("", "stop"))
    + data({"id": "c", "object": "text_completion", "choices": [], "usage": OPENAI_USAGE})
    + b"data: [DONE]\n\n",
    whole={**_text_choice("".join(PIECES), "stop"), "usage": OPENAI_USAGE},
    error_event=data(OPENAI_ERROR),
    error_body=OPENAI_ERROR,
    failed=_has_error,
    complete=lambda body: _choice_ends(body, "stop"),
    cut=lambda body: _choice_ends(body, "length"),
    envelope=openai_envelope,
)
EMBEDDINGS = OperationSample(
    body={"model": "m", "input": PROMPT_TEXT},
    whole={
        "object": "list",
        "model": "m",
        "data": [{"object": "embedding", "index": 0, "embedding": [0.25, -1.5]}],
        "usage": {"prompt_tokens": 4, "total_tokens": 4},
    },
    error_body=OPENAI_ERROR,
    failed=_has_error,
    complete=lambda _: False,
    cut=lambda _: False,
    envelope=openai_envelope,
)


def _response(status: str, output: list[dict[str, Any]], usage: dict[str, Any] | None) -> dict[str, Any]:
    return {
        "id": "resp_1",
        "object": "response",
        "created_at": 1,
        "status": status,
        "model": "m",
        "output": output,
        "usage": usage,
        "error": None,
        "incomplete_details": None,
        "parallel_tool_calls": True,
        "tools": [],
        "tool_choice": "auto",
    }


RESPONSE_USAGE = {
    "input_tokens": 4,
    "input_tokens_details": {"cached_tokens": 0},
    "output_tokens": 3,
    "output_tokens_details": {"reasoning_tokens": 0},
    "total_tokens": 7,
}
_PART = {"type": "output_text", "text": "", "annotations": []}
_ITEM = {"id": "msg_1", "type": "message", "role": "assistant", "status": "in_progress", "content": []}
_TEXT_PART = {**_PART, "text": "".join(PIECES)}
_DONE_ITEM = {**_ITEM, "status": "completed", "content": [_TEXT_PART]}
_PLACE = {"item_id": "msg_1", "output_index": 0, "content_index": 0}


def _typed(value: dict[str, Any], number: int) -> bytes:
    return data({**value, "sequence_number": number}, value["type"])


def _response_ends(body: bytes, kind: str) -> bool:
    found = objects(body)
    numbers = [each["sequence_number"] for each in found]
    assert numbers == sorted(set(numbers)), numbers
    return found[-1]["type"] == kind and b"[DONE]" not in body


RESPONSES = OperationSample(
    body={"model": "m", "input": PROMPT_TEXT},
    ceiling="max_output_tokens",
    opening=_typed({"type": "response.created", "response": _response("in_progress", [], None)}, 0)
    + _typed({"type": "response.output_item.added", "output_index": 0, "item": _ITEM}, 1)
    + _typed({"type": "response.content_part.added", **_PLACE, "part": _PART}, 2),
    piece=lambda at: _typed(
        {"type": "response.output_text.delta", **_PLACE, "delta": PIECES[at], "logprobs": []}, 3 + at
    ),
    closing=_typed({"type": "response.output_text.done", **_PLACE, "text": "".join(PIECES), "logprobs": []}, 6)
    + _typed({"type": "response.content_part.done", **_PLACE, "part": _TEXT_PART}, 7)
    + _typed({"type": "response.output_item.done", "output_index": 0, "item": _DONE_ITEM}, 8)
    + _typed({"type": "response.completed", "response": _response("completed", [_DONE_ITEM], RESPONSE_USAGE)}, 9),
    whole=_response("completed", [_DONE_ITEM], RESPONSE_USAGE),
    error_event=_typed({"type": "error", "code": "server_error", "message": "the server failed", "param": None}, 6),
    error_body=OPENAI_ERROR,
    failed=lambda body: objects(body)[-1]["type"] in ("error", "response.failed"),
    complete=lambda body: _response_ends(body, "response.completed"),
    cut=lambda body: _response_ends(body, "response.incomplete"),
    envelope=openai_envelope,
)


def _message(content: list[dict[str, Any]], reason: str | None, output: int) -> dict[str, Any]:
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "m",
        "content": content,
        "stop_reason": reason,
        "stop_sequence": None,
        "usage": {"input_tokens": 4, "output_tokens": output},
    }


def _message_ends(body: bytes, reason: str) -> bool:
    found = objects(body)
    reasons = [each["delta"].get("stop_reason") for each in found if each["type"] == "message_delta"]
    return found[-1]["type"] == "message_stop" and reasons == [reason] and b"[DONE]" not in body


def anthropic_envelope(body: Mapping[str, Any]) -> tuple[str, str]:
    assert body["type"] == "error", body
    assert isinstance(body["error"]["type"], str), body
    return body["error"]["message"], body["error"].get("code", "")


MESSAGES = OperationSample(
    body={"model": "m", "messages": [{"role": "user", "content": PROMPT_TEXT}]},
    ceiling="max_tokens",
    opening=data({"type": "message_start", "message": _message([], None, 1)}, "message_start")
    + data(
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        "content_block_start",
    ),
    piece=lambda at: data(
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": PIECES[at]}},
        "content_block_delta",
    ),
    closing=data({"type": "content_block_stop", "index": 0}, "content_block_stop")
    + data(
        {
            "type": "message_delta",
            "delta": {"stop_reason": "end_turn", "stop_sequence": None},
            "usage": {"output_tokens": 3},
        },
        "message_delta",
    )
    + data({"type": "message_stop"}, "message_stop"),
    whole=_message([{"type": "text", "text": "".join(PIECES)}], "end_turn", 3),
    error_event=data({"type": "error", "error": {"type": "api_error", "message": "the server failed"}}, "error"),
    error_body={"type": "error", "error": {"type": "api_error", "message": "the server failed"}},
    failed=lambda body: objects(body)[-1]["type"] == "error",
    complete=lambda body: _message_ends(body, "end_turn"),
    cut=lambda body: _message_ends(body, "max_tokens"),
    envelope=anthropic_envelope,
)
SAMPLES: Mapping[str, OperationSample] = {
    "chat": CHAT,
    "completions": COMPLETIONS,
    "embeddings": EMBEDDINGS,
    "responses": RESPONSES,
    "messages": MESSAGES,
}
"""By the names of the APIs."""
