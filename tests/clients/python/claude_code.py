"""The requests of Claude Code, sent with Anthropic's client: `HEAD /`, counts of tokens, and `?beta=true` on each path.

Source: its behaviour behind other gateways, as their issues report it (musistudio/claude-code-router, BerriAI/litellm).
"""

from __future__ import annotations

from typing import Any
from urllib.request import Request, urlopen

from anthropic import Anthropic
from operations import API_KEY, BASE_URL, PROMPT, WEATHER_QUESTION, WEATHER_TOOL, Seen, serve, user

beta: Any = Anthropic(base_url=BASE_URL.removesuffix("/v1"), auth_token=API_KEY).beta.messages
MODEL = "claude-sonnet-4-5"
SYSTEM = [
    {"type": "text", "text": "x-anthropic-billing-header: cc_version=2.1.0; cc_entrypoint=cli;"},
    {"type": "text", "text": "You are an agent.", "cache_control": {"type": "ephemeral"}},
]
WEATHER = {
    "name": "get_weather",
    "description": WEATHER_TOOL["function"]["description"],
    "input_schema": WEATHER_TOOL["function"]["parameters"],
}
BETAS = ["claude-code-20250219", "interleaved-thinking-2025-05-14"]
ASKED: dict[str, Any] = {
    "model": MODEL,
    "max_tokens": 32_000,
    "system": SYSTEM,
    "metadata": {"user_id": "user_1_account__session_1"},
    "betas": BETAS,
    "messages": user(PROMPT),
}


def start(seen: Seen) -> None:
    """Ask whether the server is there."""
    asked = Request(BASE_URL.removesuffix("/v1") + "/", method="HEAD")  # noqa: S310  # an HTTP address
    with urlopen(asked) as answer:  # noqa: S310  # as above
        seen["status"] = answer.status


def count_tokens(seen: Seen) -> None:
    counted = beta.count_tokens(model=MODEL, messages=user(PROMPT), tools=[WEATHER], betas=BETAS)
    seen["count"] = counted.input_tokens


def stream(seen: Seen) -> None:
    kept = seen["events"] = []
    with beta.create(stream=True, **ASKED) as events:
        for event in events:
            kept.append(event.model_dump())


def tools_stream(seen: Seen) -> None:
    with beta.stream(**ASKED | {"messages": user(WEATHER_QUESTION), "tools": [WEATHER]}) as events:
        seen["events"] = [event.type for event in events]
        seen["answer"] = events.get_final_message().model_dump()


serve("anthropic", start, count_tokens, stream, tools_stream)
