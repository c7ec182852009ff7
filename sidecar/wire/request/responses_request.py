"""Check requests of OpenAI's Responses API, as far as limits depend on them; upstream decides about everything else.

Sources: `types/responses/response_create_params.py` of openai 3.54.0; `ResponsesRequest` of vLLM; llama.cpp's server, which
converts such requests to chat completions. The input may be a string, a list of items or, for vLLM, a list of strings.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from policies.api.requests.parts import ITEM_TEXT_FIELDS
from sidecar.wire.decoding.one_step import result_of

from .documented_fields import OPENAI_FIELDS, SERVER_FIELDS, FieldKind, FieldShape, adds_tools
from .json_body import BadRequest
from .openai_request import (
    CHECKED_FIELDS,
    CHECKED_PER_STEP,
    COMMON_FIELDS,
    MAX_ITEMS,
    MESSAGE_FIELDS,
    check_spelling,
    settle_fields,
)
from .request_counts import add_ceiling, as_switch, positive_number

INPUT_FIELDS = ("instructions", "input")
OUTPUT_CEILING_FIELD = "max_output_tokens"
HISTORY_FIELDS = ("previous_response_id", "conversation", "prompt")
"""Fields that refer to a prompt which the server has."""
RESPONSES_CHECKED = (CHECKED_FIELDS - {"messages"}) | {
    *INPUT_FIELDS,
    *HISTORY_FIELDS,
    "background",
    "max_tool_calls",
    "tools",
}
"""Fields that limits depend on: another spelling of one of them is refused."""
RESPONSES_COMMON = RESPONSES_CHECKED | COMMON_FIELDS | {"store", "include", "reasoning", "text", "metadata"}
ITEM_FIELDS = MESSAGE_FIELDS | frozenset(ITEM_TEXT_FIELDS)
"""Checked fields of an input item."""
ITEM_LISTS = ("content", "output", "summary")
"""Fields of an item that may hold parts."""
MAX_TOOL_CALLS = 128
"""Most calls of the server's tools in one answer: each one sends the prompt to the model again."""
DEFAULT_TOOL_CALLS = 8
"""What is set for a request with such tools that names no number."""
CLIENT_TOOL_TYPES = frozenset(
    {"function", "custom", "local_shell", "shell", "apply_patch", "computer", "computer_use_preview", "namespace"}
)
"""Types of tools that the client runs, or that only describe functions. The server runs the others, in a loop."""


def _fields(names: str, kind: FieldKind) -> dict[str, FieldShape]:
    return dict.fromkeys(names.split(), kind)


_PLAIN_SETTING, _ANY_CONTENT = FieldKind.SETTING, FieldKind.CONTENT
_CHAT_ALONE = frozenset(
    "messages functions function_call prediction response_format reasoning_effort verbosity modalities audio logprobs"  # noqa: SIM905
    " web_search_options".split()
)
RESPONSES_FIELDS: Mapping[str, FieldShape] = MappingProxyType(
    {
        **SERVER_FIELDS,
        **{name: shape for name, shape in OPENAI_FIELDS.items() if name not in _CHAT_ALONE},
        **_fields("input instructions", FieldKind.ITEMS),
        **_fields("include truncation background max_tool_calls previous_response_id top_logprobs", _PLAIN_SETTING),
        "conversation": _fields("id", _PLAIN_SETTING),
        "text": {**_fields("verbosity", _PLAIN_SETTING), "format": _ANY_CONTENT},
        "reasoning": _fields("effort summary generate_summary mode context", _PLAIN_SETTING),
        "context_management": _fields("type compact_threshold", _PLAIN_SETTING),
        "tool_choice": {**_fields("type name mode server_label", _PLAIN_SETTING), "tools": _ANY_CONTENT},
        "image": _fields("context_compression", _PLAIN_SETTING),
        "prompt_cache_options": _fields("mode ttl prewarm comparison_response_id", _PLAIN_SETTING),
    }
)
"""The documented fields. Not listed: `prompt`, whose template names a model and tools, and `moderation`, which names a model."""


def check_responses(body: dict[str, Any]) -> int:
    """Check as `responses_steps` does, in one step."""
    return result_of(responses_steps(body))


def responses_steps(body: dict[str, Any]) -> Generator[None, None, int]:
    """Raise `BadRequest` unless policies can govern *body*; return its number of items and parts.

    Its numbers and switches are written as all servers read them. Each step takes a few milliseconds.
    """
    if not body.keys() <= RESPONSES_COMMON:
        check_spelling(body, RESPONSES_CHECKED)
    items = 0
    for field in INPUT_FIELDS:
        items += yield from _check_prompt(body, field, items)
    if not body.get("input") and not any(body.get(field) for field in (*HISTORY_FIELDS, "instructions")):
        msg = "'input' must be a text, or a non-empty list of items."
        raise BadRequest(msg, "input")
    settle_fields(body)
    add_ceiling(body, OUTPUT_CEILING_FIELD)
    if "background" in body:
        _check_background(body)
    _settle_tool_calls(body)
    return items


def _check_prompt(body: dict[str, Any], field: str, before: int) -> Generator[None, None, int]:
    """Check the instructions or the input; return the number of items and parts. *before*: those of earlier fields."""
    value = body.get(field)
    if value is None or isinstance(value, str):
        return 0 if value is None else 1
    if isinstance(value, dict):
        value = [value]
    if not isinstance(value, list):
        msg = f"'{field}' must be a text or a list of items."
        raise BadRequest(msg, field)
    items, checked = len(value), 0
    for at, item in enumerate(value):
        if before + items > MAX_ITEMS:
            msg = f"'{field}' has more than {MAX_ITEMS} items and parts in all."
            raise BadRequest(msg, field)
        if isinstance(item, str):
            continue
        where = f"{field}[{at}]"
        if not isinstance(item, dict):
            msg = f"'{where}' must be an item, which is an object, or a text."
            raise BadRequest(msg, where)
        for name, parts in _part_lists(item, where):
            items, checked = items + len(parts), checked + len(parts)
            for number, part in enumerate(parts):
                if isinstance(part, dict) and not part.keys() <= MESSAGE_FIELDS:
                    checked += len(part)
                    check_spelling(part, MESSAGE_FIELDS, f"{where}.{name}[{number}]")
        checked += 1 + len(item)
        if checked > CHECKED_PER_STEP:
            checked = 0
            yield
    if before + items > MAX_ITEMS:
        msg = f"'{field}' has more than {MAX_ITEMS} items and parts in all."
        raise BadRequest(msg, field)
    return items


def _part_lists(item: dict[str, Any], where: str) -> Sequence[tuple[str, list[Any]]]:
    """Return the lists of parts in *item*, with their names; raise `BadRequest` for names that servers read in two ways."""
    if not item.keys() <= ITEM_FIELDS:
        check_spelling(item, ITEM_FIELDS, where)
    if not isinstance(item.get("role", ""), str) and item["role"] is not None:
        msg = f"'{where}.role' must be a string."
        raise BadRequest(msg, f"{where}.role")
    found = []
    for name in ITEM_LISTS:
        if isinstance(value := item.get(name), list):
            found.append((name, value))
        elif isinstance(value, dict):
            found.append((name, [value]))
    return found


def _check_background(body: dict[str, Any]) -> None:
    """Raise `BadRequest` unless `background` is false: such a response runs on when its call has been settled."""
    value = body["background"]
    if value is None:
        return
    if as_switch(value) is not False:
        msg = (
            "'background' must be false: the sidecar settles a call when its answer ends, so a response that runs on in the "
            "background cannot be limited. Send the request without 'background'."
        )
        raise BadRequest(msg, "background")
    body["background"] = False


def _settle_tool_calls(body: dict[str, Any]) -> None:
    """Bound the calls of tools that the server runs: each one sends the growing prompt to the model again."""
    value = body.get("max_tool_calls")
    if value is None:
        if has_server_tools(body):
            body["max_tool_calls"] = DEFAULT_TOOL_CALLS
        return
    number = 0 if type(value) is int and value == 0 else positive_number(value)
    if number is None or number > MAX_TOOL_CALLS:
        msg = f"'max_tool_calls' must be an integer from 0 to {MAX_TOOL_CALLS}."
        raise BadRequest(msg, "max_tool_calls")
    body["max_tool_calls"] = number


def has_server_tools(body: Mapping[str, Any]) -> bool:
    """Whether *body*, a request of the Responses API, has tools that the server runs, also in items of its prompt."""
    if _are_server_tools(body.get("tools")):
        return True
    for field in INPUT_FIELDS:
        items = body.get(field)
        if isinstance(items, str):
            continue
        found: list[Any] = items if isinstance(items, list) else [items]
        if any(adds_tools(item) and _are_server_tools(item["tools"]) for item in found):
            return True
    return False


def _are_server_tools(tools: object) -> bool:
    """Whether the server runs any of *tools*; one of an unknown shape counts as such a tool."""
    if not isinstance(tools, list):
        return tools not in (None, "", {})
    for tool in tools:
        kind = tool.get("type") if isinstance(tool, dict) else None
        if kind is None and isinstance(tool, dict) and ("function" in tool or "name" in tool):
            continue
        if not isinstance(kind, str) or kind not in CLIENT_TOOL_TYPES or not _is_local(tool.get("environment")):
            return True
    return False


def _is_local(environment: object) -> bool:
    """Whether the client runs a tool with this *environment*: a shell can also run in a container of the server."""
    return environment is None or (isinstance(environment, dict) and environment.get("type") == "local")
