"""Samples of OpenAI's Responses API: one of each event class of the pinned openai package, answers, and whole streams.

`EVENTS` has single events whose ids and numbers agree with each other where they can; their `sequence_number` is the place in
the list. `STREAMS` has streams as a server sends them, in order and numbered from 0. Neither ends with `[DONE]`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from samples.response_object import (
    CUSTOM_CALL,
    FUNCTION_CALL,
    INCOMPLETE,
    MESSAGE,
    REASONING,
    REFUSAL,
    SERVER_ERROR,
    USAGE,
    response,
)
from samples.sample import Sample

SOURCE = "types of openai 3.54.0"
OBFUSCATION = "hQ3xXbbW"
"""Padding of deltas, on by default at OpenAI (`include_obfuscation`): it is not output."""
ARGUMENTS = ('{"city": ', '"Oslo"}')
TEXTS = ("Hello", ", Zoë.")
IMAGE = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
FIRST: dict[str, Any] = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
IN_PROGRESS: dict[str, Any] = {"status": "in_progress"}


def item(identity: str, *, at: int = 0) -> dict[str, Any]:
    """Return the fields that name an output item."""
    return {"item_id": identity, "output_index": at}


def text_part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "annotations": [], "logprobs": [], "text": text}


def sampled() -> Iterator[tuple[str, str, dict[str, Any], str]]:
    """Yield class, type, further fields and generated text of each event."""
    audio, code, file_search = "response.audio", "response.code_interpreter_call", "response.file_search_call"
    yield "ResponseAudioDeltaEvent", f"{audio}.delta", {"delta": "UklGRg=="}, "UklGRg=="
    yield "ResponseAudioDoneEvent", f"{audio}.done", {}, ""
    yield "ResponseAudioTranscriptDeltaEvent", f"{audio}.transcript.delta", {"delta": "Hello"}, "Hello"
    yield "ResponseAudioTranscriptDoneEvent", f"{audio}.transcript.done", {}, ""
    interpreter = item("ci_1")
    yield "ResponseCodeInterpreterCallCodeDeltaEvent", f"{code}_code.delta", {**interpreter, "delta": "1 + 1"}, "1 + 1"
    yield "ResponseCodeInterpreterCallCodeDoneEvent", f"{code}_code.done", {**interpreter, "code": "1 + 1"}, ""
    yield "ResponseCodeInterpreterCallCompletedEvent", f"{code}.completed", interpreter, ""
    yield "ResponseCodeInterpreterCallInProgressEvent", f"{code}.in_progress", interpreter, ""
    yield "ResponseCodeInterpreterCallInterpretingEvent", f"{code}.interpreting", interpreter, ""
    yield "ResponseCompactionCompactingEvent", "response.compaction.compacting", item("cmp_1"), ""
    completed = {"response": response("completed", [MESSAGE], usage=USAGE)}
    yield "ResponseCompletedEvent", "response.completed", completed, ""
    yield "ResponseContentPartAddedEvent", "response.content_part.added", {**FIRST, "part": text_part("")}, ""
    yield "ResponseContentPartDoneEvent", "response.content_part.done", {**FIRST, "part": text_part("Hello, Zoë.")}, ""
    yield "ResponseCreatedEvent", "response.created", {"response": response("in_progress", [])}, ""
    yield "ResponseErrorEvent", "error", {"code": "server_error", "message": SERVER_ERROR["message"], "param": None}, ""
    yield "ResponseFileSearchCallCompletedEvent", f"{file_search}.completed", item("fs_1"), ""
    yield "ResponseFileSearchCallInProgressEvent", f"{file_search}.in_progress", item("fs_1"), ""
    yield "ResponseFileSearchCallSearchingEvent", f"{file_search}.searching", item("fs_1"), ""
    arguments = "response.function_call_arguments"
    delta = {**item("fc_1"), "delta": ARGUMENTS[0], "obfuscation": OBFUSCATION}
    done = {**item("fc_1"), "name": "get_weather", "arguments": "".join(ARGUMENTS)}
    yield "ResponseFunctionCallArgumentsDeltaEvent", f"{arguments}.delta", delta, ARGUMENTS[0]
    yield "ResponseFunctionCallArgumentsDoneEvent", f"{arguments}.done", done, ""
    yield from sampled_shell()
    yield "ResponseInProgressEvent", "response.in_progress", {"response": response("in_progress", [])}, ""
    failed = {"response": response("failed", [], error=SERVER_ERROR)}
    yield "ResponseFailedEvent", "response.failed", failed, ""
    incomplete = response(
        "incomplete", [MESSAGE | {"status": "incomplete"}], incomplete_details=INCOMPLETE, usage=USAGE
    )
    yield "ResponseIncompleteEvent", "response.incomplete", {"response": incomplete}, ""
    added = {"output_index": 0, "item": MESSAGE | IN_PROGRESS | {"content": []}}
    yield "ResponseOutputItemAddedEvent", "response.output_item.added", added, ""
    yield "ResponseOutputItemDoneEvent", "response.output_item.done", {"output_index": 0, "item": MESSAGE}, ""
    yield from sampled_texts()
    yield from sampled_tools()


def sampled_shell() -> Iterator[tuple[str, str, dict[str, Any], str]]:
    command, output = "response.shell_call_command", "response.shell_call_output_content"
    place = {"output_index": 0, "command_index": 0}
    yield "ResponseShellCallCommandAddedEvent", f"{command}.added", {**place, "command": ""}, ""
    delta = {**place, "delta": "ls -l", "obfuscation": OBFUSCATION}
    yield "ResponseShellCallCommandDeltaEvent", f"{command}.delta", delta, "ls -l"
    yield "ResponseShellCallCommandDoneEvent", f"{command}.done", {**place, "command": "ls -l"}, ""
    place = {**item("sho_1"), "command_index": 0}
    printed = {"stdout": "total 0"}
    yield "ResponseShellCallOutputContentDeltaEvent", f"{output}.delta", {**place, "delta": printed}, printed["stdout"]
    ended = {"outcome": {"type": "exit", "exit_code": 0}, "stdout": "total 0", "stderr": ""}
    yield "ResponseShellCallOutputContentDoneEvent", f"{output}.done", {**place, "output": [ended]}, ""


def sampled_texts() -> Iterator[tuple[str, str, dict[str, Any], str]]:
    """Yield the events of text, reasoning and refusals."""
    summary = "response.reasoning_summary"
    place = {**item("rs_1"), "summary_index": 0}
    part = {"type": "summary_text", "text": ""}
    yield "ResponseReasoningSummaryPartAddedEvent", f"{summary}_part.added", {**place, "part": part}, ""
    part = {"type": "summary_text", "text": "A greeting is due."}
    yield "ResponseReasoningSummaryPartDoneEvent", f"{summary}_part.done", {**place, "part": part}, ""
    delta = {**place, "delta": "A greeting", "obfuscation": OBFUSCATION}
    yield "ResponseReasoningSummaryTextDeltaEvent", f"{summary}_text.delta", delta, "A greeting"
    yield "ResponseReasoningSummaryTextDoneEvent", f"{summary}_text.done", {**place, "text": "A greeting is due."}, ""
    place = {**item("rs_1"), "content_index": 0}
    delta = {**place, "delta": "The user", "obfuscation": OBFUSCATION}
    yield "ResponseReasoningTextDeltaEvent", "response.reasoning_text.delta", delta, "The user"
    yield "ResponseReasoningTextDoneEvent", "response.reasoning_text.done", {**place, "text": "The user greets."}, ""
    delta = {**FIRST, "delta": "I cannot", "obfuscation": OBFUSCATION}
    yield "ResponseRefusalDeltaEvent", "response.refusal.delta", delta, "I cannot"
    yield "ResponseRefusalDoneEvent", "response.refusal.done", {**FIRST, "refusal": "I cannot say that."}, ""
    delta = {**FIRST, "delta": TEXTS[0], "logprobs": [], "obfuscation": OBFUSCATION}
    yield "ResponseTextDeltaEvent", "response.output_text.delta", delta, TEXTS[0]
    done = {**FIRST, "text": "Hello, Zoë.", "logprobs": []}
    yield "ResponseTextDoneEvent", "response.output_text.done", done, ""


def sampled_tools() -> Iterator[tuple[str, str, dict[str, Any], str]]:
    """Yield the events of searches, images, MCP servers and custom tools, and those of no other group."""
    search, image = "response.web_search_call", "response.image_generation_call"
    yield "ResponseWebSearchCallCompletedEvent", f"{search}.completed", item("ws_1"), ""
    yield "ResponseWebSearchCallInProgressEvent", f"{search}.in_progress", item("ws_1"), ""
    yield "ResponseWebSearchCallSearchingEvent", f"{search}.searching", item("ws_1"), ""
    yield "ResponseImageGenCallCompletedEvent", f"{image}.completed", item("ig_1"), ""
    yield "ResponseImageGenCallGeneratingEvent", f"{image}.generating", item("ig_1"), ""
    yield "ResponseImageGenCallInProgressEvent", f"{image}.in_progress", item("ig_1"), ""
    partial = {**item("ig_1"), "partial_image_b64": IMAGE, "partial_image_index": 0}
    yield "ResponseImageGenCallPartialImageEvent", f"{image}.partial_image", partial, IMAGE
    call, listing = "response.mcp_call", "response.mcp_list_tools"
    delta = {**item("mcp_1"), "delta": ARGUMENTS[0], "obfuscation": OBFUSCATION}
    done = {**item("mcp_1"), "arguments": "".join(ARGUMENTS)}
    yield "ResponseMcpCallArgumentsDeltaEvent", f"{call}_arguments.delta", delta, ARGUMENTS[0]
    yield "ResponseMcpCallArgumentsDoneEvent", f"{call}_arguments.done", done, ""
    yield "ResponseMcpCallCompletedEvent", f"{call}.completed", item("mcp_1"), ""
    yield "ResponseMcpCallFailedEvent", f"{call}.failed", item("mcp_1"), ""
    yield "ResponseMcpCallInProgressEvent", f"{call}.in_progress", item("mcp_1"), ""
    yield "ResponseMcpListToolsCompletedEvent", f"{listing}.completed", item("mcpl_1"), ""
    yield "ResponseMcpListToolsFailedEvent", f"{listing}.failed", item("mcpl_1"), ""
    yield "ResponseMcpListToolsInProgressEvent", f"{listing}.in_progress", item("mcpl_1"), ""
    cited = {"type": "file_path", "file_id": "file_1", "index": 5}
    annotation = {**FIRST, "annotation_index": 0, "annotation": cited}
    yield "ResponseOutputTextAnnotationAddedEvent", "response.output_text.annotation.added", annotation, ""
    yield "ResponseQueuedEvent", "response.queued", {"response": response("queued", [], background=True)}, ""
    custom = "response.custom_tool_call_input"
    delta = {**item("ctc_1"), "delta": "print(", "obfuscation": OBFUSCATION}
    yield "ResponseCustomToolCallInputDeltaEvent", f"{custom}.delta", delta, "print("
    yield "ResponseCustomToolCallInputDoneEvent", f"{custom}.done", {**item("ctc_1"), "input": "print(1)"}, ""


EVENTS: tuple[Sample, ...] = tuple(
    Sample(kind, SOURCE, {"type": name, **fields, "sequence_number": at}, output)
    for at, (kind, name, fields, output) in enumerate(sampled())
)
"""One sample for each class of `ResponseStreamEvent`."""


def numbered(*events: dict[str, Any]) -> tuple[dict[str, Any], ...]:
    """Return *events* with their `sequence_number`, from 0."""
    return tuple({**event, "sequence_number": at} for at, event in enumerate(events))


def opened(**fields: Any) -> tuple[dict[str, Any], ...]:
    """Return the two events that begin each stream; *fields* go into the response."""
    begun = response("in_progress", [], **fields)
    return {"type": "response.created", "response": begun}, {"type": "response.in_progress", "response": begun}


def ended(status: str, *output: dict[str, Any], usage: dict[str, Any] | None = USAGE, **fields: Any) -> dict[str, Any]:
    """Return the terminal event."""
    return {"type": f"response.{status}", "response": response(status, list(output), usage=usage, **fields)}


def message_events(*texts: str, at: int = 0, status: str = "completed") -> tuple[dict[str, Any], ...]:
    """Return the events of a message of *texts*, from its `output_item.added` to its `output_item.done`."""
    place = {"item_id": "msg_1", "output_index": at, "content_index": 0}
    part, done = text_part("".join(texts)), MESSAGE | {"status": status, "content": [text_part("".join(texts))]}
    delta = {"type": "response.output_text.delta", **place, "logprobs": [], "obfuscation": OBFUSCATION}
    return (
        {"type": "response.output_item.added", "output_index": at, "item": MESSAGE | IN_PROGRESS | {"content": []}},
        {"type": "response.content_part.added", **place, "part": text_part("")},
        *({**delta, "delta": text} for text in texts),
        {"type": "response.output_text.done", **place, "text": part["text"], "logprobs": []},
        {"type": "response.content_part.done", **place, "part": part},
        {"type": "response.output_item.done", "output_index": at, "item": done},
    )


def reasoning_events() -> tuple[dict[str, Any], ...]:
    """Return the events of a summary of reasoning, then of the reasoning itself, as open models send it."""
    place = {"item_id": "rs_1", "output_index": 0}
    summary = {**place, "summary_index": 0}
    text = REASONING["content"][0]["text"]
    begun = {"type": "summary_text", "text": ""}
    content = {**place, "content_index": 0}
    return (
        {"type": "response.output_item.added", "output_index": 0, "item": REASONING | {"summary": [], "content": []}},
        {"type": "response.reasoning_summary_part.added", **summary, "part": begun},
        {"type": "response.reasoning_summary_text.delta", **summary, "delta": "A greeting", "obfuscation": OBFUSCATION},
        {"type": "response.reasoning_summary_text.delta", **summary, "delta": " is due.", "obfuscation": OBFUSCATION},
        {"type": "response.reasoning_summary_text.done", **summary, "text": "A greeting is due."},
        {"type": "response.reasoning_summary_part.done", **summary, "part": REASONING["summary"][0]},
        {"type": "response.reasoning_text.delta", **content, "delta": text},
        {"type": "response.reasoning_text.done", **content, "text": text},
        {"type": "response.output_item.done", "output_index": 0, "item": REASONING},
    )


def refusal_events() -> tuple[dict[str, Any], ...]:
    part = REFUSAL["content"][0]
    return (
        {"type": "response.output_item.added", "output_index": 0, "item": REFUSAL | IN_PROGRESS | {"content": []}},
        {"type": "response.content_part.added", **FIRST, "part": part | {"refusal": ""}},
        {"type": "response.refusal.delta", **FIRST, "delta": "I cannot", "obfuscation": OBFUSCATION},
        {"type": "response.refusal.delta", **FIRST, "delta": " say that.", "obfuscation": OBFUSCATION},
        {"type": "response.refusal.done", **FIRST, "refusal": part["refusal"]},
        {"type": "response.content_part.done", **FIRST, "part": part},
        {"type": "response.output_item.done", "output_index": 0, "item": REFUSAL},
    )


def call_events(call: dict[str, Any], name: str, field: str, *pieces: str) -> tuple[dict[str, Any], ...]:
    """Return the events of a tool call whose *field*, `arguments` or `input`, arrives in *pieces*; events begin with *name*."""
    place = {"item_id": call["id"], "output_index": 0}
    done = call | {field: "".join(pieces)}
    return (
        {"type": "response.output_item.added", "output_index": 0, "item": call | IN_PROGRESS | {field: ""}},
        *({"type": f"{name}.delta", **place, "delta": piece, "obfuscation": OBFUSCATION} for piece in pieces),
        {"type": f"{name}.done", **place, field: done[field]},
        {"type": "response.output_item.done", "output_index": 0, "item": done},
    )


def function_events(*pieces: str) -> tuple[dict[str, Any], ...]:
    """Return the events of a call of a function with arguments in *pieces*."""
    return call_events(FUNCTION_CALL, "response.function_call_arguments", "arguments", *pieces)


def custom_events(*pieces: str) -> tuple[dict[str, Any], ...]:
    """Return the events of a call of a custom tool with its input in *pieces*."""
    return call_events(CUSTOM_CALL, "response.custom_tool_call_input", "input", *pieces)


PART = MESSAGE | {"status": "incomplete", "content": [text_part("Hello")]}
ERROR_EVENT = {"type": "error", "code": SERVER_ERROR["code"], "message": SERVER_ERROR["message"], "param": None}
STREAMS: dict[str, tuple[dict[str, Any], ...]] = {
    "text": numbered(*opened(), *message_events(*TEXTS), ended("completed", MESSAGE)),
    "reasoning": numbered(
        *opened(), *reasoning_events(), *message_events(*TEXTS, at=1), ended("completed", REASONING, MESSAGE)
    ),
    "refusal": numbered(*opened(), *refusal_events(), ended("completed", REFUSAL)),
    "function call": numbered(*opened(), *function_events(*ARGUMENTS), ended("completed", FUNCTION_CALL)),
    "custom tool": numbered(*opened(), *custom_events("print(", "1)"), ended("completed", CUSTOM_CALL)),
    "incomplete": numbered(
        *opened(max_output_tokens=16),
        *message_events("Hello", status="incomplete"),
        ended("incomplete", PART, incomplete_details=INCOMPLETE, max_output_tokens=16),
    ),
    "failed": numbered(*opened(), ended("failed", usage=None, error=SERVER_ERROR)),
    "failed after text": numbered(
        *opened(), *message_events(*TEXTS)[:3], ended("failed", PART, usage=None, error=SERVER_ERROR)
    ),
    "error": numbered(*opened(), ERROR_EVENT),
    "error after text": numbered(*opened(), *message_events(*TEXTS)[:3], ERROR_EVENT),
}
"""Whole streams by what they show. Those of an error end with it."""
