"""All APIs that pass the whole chain, for the fuzzer: their requests, their answers, and how their streams end."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from operation_samples import SAMPLES, OperationSample
from recorded_bytes import with_length

from sidecar.wire.operations.messages import COUNT_TOKENS
from sidecar.wire.operations.registry import GOVERNED_OPERATIONS

CHAT = "chat"
OTHERS = tuple(each for each in GOVERNED_OPERATIONS if each.request.name != CHAT)
"""All but chat completions, of which the fuzzer has seeds and rules of its own."""
UPSTREAM_PATHS: Mapping[bytes, OperationSample] = {
    f"/v1{each.upstream_path}".encode(): SAMPLES[each.request.name] for each in OTHERS
}
COUNT_PATH = f"/v1{COUNT_TOKENS.upstream_path}".encode()
FORWARDED_PATHS = (b"/v1/chat/completions", b"/v1/models", COUNT_PATH, *UPSTREAM_PATHS)
PASSED_QUERY = b"?beta=true"
PROMPT_FIELDS: Mapping[bytes, tuple[str, ...]] = {
    **{f"/v1{each.upstream_path}".encode(): each.request.prompt_fields for each in GOVERNED_OPERATIONS},
    COUNT_PATH: COUNT_TOKENS.request.prompt_fields,
}
OPTIONAL_PROMPTS = (b"/v1/completions", b"/v1/responses")
"""Paths whose requests need no prompt: servers begin a new text, or have it."""
PROMPTS: tuple[Any, ...] = (
    ["one", "two"],
    [1, 2, 3],
    [[1, 2], [3]],
    [{"prompt_string": "one"}, "two"],
    [[7] * 300] * 12,
)
STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: %d\r\n\r\n"


def bodies() -> list[tuple[str, dict[str, Any]]]:
    """Return ordinary requests, with their paths."""
    found: list[tuple[str, dict[str, Any]]] = []
    for each in OTHERS:
        sample = SAMPLES[each.request.name]
        found += [(each.path, sample.body), (each.path, sample.body | {"stream": True, "user": "u"})]
        if each.token_id_fields:
            found += [(each.path, sample.body | {each.token_id_fields[0]: prompt}) for prompt in PROMPTS]
    found.append((COUNT_TOKENS.path, SAMPLES["messages"].body))
    found.append(
        ("/v1/completions", SAMPLES["completions"].body | {"suffix": "end", "echo": True, "n": 2, "best_of": 3})
    )
    return found


def answer(path: bytes, *, streams: bool) -> bytes | None:
    """Return the complete answer to a request for *path* at upstream; None for one of another API."""
    path = path.partition(b"?")[0]
    if path == COUNT_PATH:
        return with_length(b'{"input_tokens": 4}')
    if (sample := UPSTREAM_PATHS.get(path)) is None:
        return None
    if not streams or not sample.streams:
        return with_length(json.dumps(sample.whole).encode())
    body = sample.stream() + sample.closing
    return STREAM_HEAD % len(body) + body


def is_complete_stream(body: bytes) -> bool:
    """Whether *body* is a complete stream of one of the APIs."""
    for sample in UPSTREAM_PATHS.values():
        try:
            if sample.complete(body):
                return True
        except (ValueError, LookupError, TypeError):  # another API's
            continue
    return False


def is_forwarded(path: bytes) -> bool:
    """Whether requests may go to *path* at upstream."""
    path, mark, query = path.partition(b"?")
    if mark:
        return path in (COUNT_PATH, b"/v1/messages") and mark + query == PASSED_QUERY
    return path.startswith(FORWARDED_PATHS)


def lacks_prompt(path: bytes, body: Mapping[str, Any]) -> bool:
    """Whether *body*, sent to *path*, has none of the fields with the prompt, though its API needs one."""
    path = path.partition(b"?")[0]
    fields = PROMPT_FIELDS.get(path, ("messages",))
    return path not in OPTIONAL_PROMPTS and all(body.get(field) in (None, []) for field in fields)
