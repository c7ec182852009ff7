"""The response object of OpenAI's Responses API, its output items, and what else the API stores."""

from __future__ import annotations

from typing import Any

from samples.sample import Sample

SOURCE = "types of openai 3.54.0"
USAGE: dict[str, Any] = {
    "input_tokens": 11,
    "input_tokens_details": {"cached_tokens": 3, "cache_write_tokens": 0},
    "output_tokens": 7,
    "output_tokens_details": {"reasoning_tokens": 2},
    "total_tokens": 18,
}
INCOMPLETE: dict[str, Any] = {"reason": "max_output_tokens"}
SERVER_ERROR: dict[str, Any] = {
    "code": "server_error",
    "message": "The server had an error while processing your request.",
}
MESSAGE: dict[str, Any] = {
    "id": "msg_1",
    "type": "message",
    "status": "completed",
    "role": "assistant",
    "content": [{"type": "output_text", "annotations": [], "logprobs": [], "text": "Hello, Zoë."}],
}
REFUSAL: dict[str, Any] = MESSAGE | {"content": [{"type": "refusal", "refusal": "I cannot say that."}]}
REASONING: dict[str, Any] = {
    "id": "rs_1",
    "type": "reasoning",
    "summary": [{"type": "summary_text", "text": "A greeting is due."}],
    "content": [{"type": "reasoning_text", "text": "The user greets."}],
    "encrypted_content": None,
    "status": "completed",
}
FUNCTION_CALL: dict[str, Any] = {
    "id": "fc_1",
    "type": "function_call",
    "status": "completed",
    "call_id": "call_1",
    "name": "get_weather",
    "arguments": '{"city": "Oslo"}',
}
CUSTOM_CALL: dict[str, Any] = {
    "id": "ctc_1",
    "type": "custom_tool_call",
    "status": "completed",
    "call_id": "call_1",
    "name": "run_python",
    "input": "print(1)",
}
ECHOED: dict[str, Any] = {
    "background": False,
    "instructions": None,
    "max_output_tokens": None,
    "max_tool_calls": None,
    "model": "gpt-4o-mini",
    "parallel_tool_calls": True,
    "previous_response_id": None,
    "prompt_cache_key": None,
    "reasoning": {"effort": None, "summary": None},
    "safety_identifier": None,
    "service_tier": "default",
    "store": True,
    "temperature": 1.0,
    "text": {"format": {"type": "text"}, "verbosity": "medium"},
    "tool_choice": "auto",
    "tools": [],
    "top_logprobs": 0,
    "top_p": 1.0,
    "truncation": "disabled",
    "user": None,
    "metadata": {},
}
"""Fields of the request that the response repeats, with their defaults."""


def response(status: str, output: list[dict[str, Any]], **fields: Any) -> dict[str, Any]:
    """Return a response object in *status*; *fields* replace others."""
    return {
        "id": "resp_1",
        "object": "response",
        "created_at": 1760000000,
        "status": status,
        "error": None,
        "incomplete_details": None,
        "output": output,
        "usage": None,
        **ECHOED,
        **fields,
    }


INPUT_ITEM: dict[str, Any] = {
    "id": "msg_0",
    "type": "message",
    "status": "completed",
    "role": "user",
    "content": [{"type": "input_text", "text": "Say hello"}],
}
INCOMPLETE_RESPONSE = response(
    "incomplete",
    [MESSAGE | {"status": "incomplete"}],
    incomplete_details=INCOMPLETE,
    usage=USAGE,
    max_output_tokens=16,
)
ANSWERS: tuple[Sample, ...] = (
    Sample("text", SOURCE, response("completed", [MESSAGE], usage=USAGE), "Hello, Zoë."),
    Sample(
        "reasoning",
        SOURCE,
        response("completed", [REASONING, MESSAGE], usage=USAGE),
        "A greeting is due.The user greets.Hello, Zoë.",
    ),
    Sample("refusal", SOURCE, response("completed", [REFUSAL], usage=USAGE), "I cannot say that."),
    Sample("function call", SOURCE, response("completed", [FUNCTION_CALL], usage=USAGE), FUNCTION_CALL["arguments"]),
    Sample("custom tool", SOURCE, response("completed", [CUSTOM_CALL], usage=USAGE), CUSTOM_CALL["input"]),
    Sample("incomplete", SOURCE, INCOMPLETE_RESPONSE, "Hello, Zoë."),
    Sample("failed", SOURCE, response("failed", [], error=SERVER_ERROR)),
    Sample("queued", SOURCE, response("queued", [], background=True)),
    Sample("cancelled", SOURCE, response("cancelled", [], background=True)),
)
"""Answers to `POST /responses` without `stream`, and to `GET /responses/{id}`."""
STORED: tuple[Sample, ...] = (
    Sample(
        "ResponseItemList",
        SOURCE,
        {
            "object": "list",
            "data": [INPUT_ITEM],
            "first_id": "msg_0",
            "last_id": "msg_0",
            "has_more": False,
        },
    ),
    Sample("InputTokenCountResponse", SOURCE, {"object": "response.input_tokens", "input_tokens": 11}),
    Sample("deleted", "OpenAI's API reference", {"id": "resp_1", "object": "response", "deleted": True}),
)
"""Answers of `/responses/{id}/input_items`, `/responses/input_tokens` and `DELETE /responses/{id}`."""
