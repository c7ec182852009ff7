"""The seeds of the fuzzer: requests of all routes, and the answers that the tests' own tables have."""

from __future__ import annotations

import json
from functools import cache
from typing import Any, NamedTuple

from fuzzed import CHAT, COMPLETIONS, LIST, STREAMED, USUAL
from governed_apis import bodies
from hostile import CASES, CUT, RESET, Case
from http_mutations import Parts
from recorded_bytes import with_length
from scripts import whole_answer
from smuggled_answers import ANSWERS
from smuggled_requests import REQUESTS
from vendor_samples import Sample, load_samples

MAX_SEED_BYTES = 40_000
CALLS = [{"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}]
PARTS = [{"type": "text", "text": "look"}, {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}]


class AnswerSeed(NamedTuple):
    """The bytes of an answer, how its connection ends (empty, `fin` or `reset`), and the schemas it may answer."""

    data: bytes
    end: str
    schemas: tuple[str, ...]


def _said(*contents: Any, **fields: Any) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": each} for each in contents], **fields}


BODIES: tuple[tuple[str, dict[str, Any]], ...] = (
    (COMPLETIONS, USUAL),
    (COMPLETIONS, USUAL | {"stream": True}),
    (COMPLETIONS, _said("hi", stream=True, max_tokens=40, n=2, stream_options={"include_usage": True})),
    (COMPLETIONS, _said("a", "b", "c", temperature=0.5, top_p=1, seed=1, stop=["x"], user="u", logit_bias={"5": 1})),
    (COMPLETIONS, _said(PARTS, "text", max_completion_tokens=100, reasoning_effort="low")),
    (COMPLETIONS, _said("hi", tools=TOOLS, tool_choice="auto", parallel_tool_calls=True, stream=True)),
    (COMPLETIONS, _said("hi", response_format={"type": "json_schema", "json_schema": {"name": "s", "schema": {}}})),
    (COMPLETIONS, _said("hi", models=["m", "b"], provider={"sort": "price"}, fallbacks=["c"], metadata={"a": "b"})),
    (COMPLETIONS, {"model": "m", "messages": [{"role": "assistant", "content": None, "tool_calls": CALLS}, {"role": "tool", "tool_call_id": "c1", "content": "1"}]}),
    (COMPLETIONS, _said("wave \U0001f642 ü", logprobs=True, top_logprobs=2, best_of=1, prediction={"type": "content", "content": "x"})),
    (CHAT, {"messages": [{"id": "1", "role": "user", "content": "hi"}]}),
    (CHAT, {"messages": [{"id": str(each), "role": "user", "content": "x" * each} for each in range(1, 30)], "profile": "constrained"}),
    (CHAT, {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": ""}, {"role": "user", "content": "more"}], "aiUsageProfile": " Moderate "}),
    (CHAT, {"messages": [{"role": "user", "content": "hi"}], "dailyTokenLimit": 50_000, "maxTokensPerRequest": 400, "systemPrompt": "be brief"}),
)  # fmt: skip
PLAIN_REQUESTS = (
    *(
        b"GET /v1/models",
        b"GET /v1/models/m",
        b"GET /v1/models/org/name:tag",
        b"GET /healthz",
        b"GET /readyz",
        b"HEAD /healthz",
    ),
    *(
        b"OPTIONS /api/chat",
        b"DELETE /v1/models/m",
        b"GET /v1/embeddings",
        b"POST /v1/responses",
        b"GET /",
        b"HEAD /v1/models",
    ),
)


@cache
def request_parts() -> tuple[Parts, ...]:
    """Return the ordinary requests, in parts."""
    lines = [b"host: 127.0.0.1", b"content-type: application/json", b"user-agent: fuzz"]
    calls = [
        Parts(b"POST %b HTTP/1.1" % path.encode(), lines, json.dumps(body).encode())
        for path, body in (*BODIES, *bodies())
    ]
    plain = [Parts(start + b" HTTP/1.1", [b"host: 127.0.0.1", b"accept: */*"], b"") for start in PLAIN_REQUESTS]
    return (*calls, *plain)


@cache
def raw_requests() -> tuple[bytes, ...]:
    """Return the requests of the table of ambiguous ones."""
    return tuple(row.data for row in REQUESTS if len(row.data) < MAX_SEED_BYTES)


@cache
def answers() -> tuple[AnswerSeed, ...]:
    """Return the answers of all tables: ordinary ones, vendors' samples, hostile ones and ambiguous ones."""
    both, streams, plain = ("stream", "chat", "plain"), ("stream", "chat"), ("plain",)
    usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    whole = json.loads(whole_answer("ab")) | {"usage": usage}
    found = [
        *[AnswerSeed(STREAMED, "", streams)] * 12,
        *[AnswerSeed(with_length(whole_answer("ab")), "", plain)] * 6,
        *[AnswerSeed(with_length(json.dumps(whole).encode()), "", plain)] * 6,
        *[AnswerSeed(with_length(LIST), "", ("models",))] * 8,
    ]
    found += [seed for case in CASES if (seed := _of_case(case)) is not None]
    found += [seed for sample in load_samples() if (seed := _of_sample(sample)) is not None]
    found += [
        AnswerSeed(row.data, "fin" if row.ends else "", both) for row in ANSWERS if len(row.data) < MAX_SEED_BYTES
    ]
    return tuple(found)


def _of_case(case: Case) -> AnswerSeed | None:
    end = {CUT: "fin", RESET: "reset"}.get(case.pieces[-1], "")
    data = b"".join(case.pieces[:-1] if end else case.pieces)
    return AnswerSeed(data, end, ("stream", "chat")) if 0 < len(data) < MAX_SEED_BYTES else None


def _of_sample(sample: Sample) -> AnswerSeed | None:
    if sample.kind == "ceiling":
        return None
    data = b"".join(each for each in sample.pieces if each != CUT)
    end = "fin" if CUT in sample.pieces else ""
    return AnswerSeed(data, end, sample.asked_as) if len(data) < MAX_SEED_BYTES else None
