"""Anthropic's client for Python, synchronous."""

from __future__ import annotations

from typing import Any

from anthropic import Anthropic
from operations import API_KEY, BASE_URL, PROMPT, WEATHER_QUESTION, WEATHER_TOOL, Seen, get_weather, serve, user

messages: Any = Anthropic(base_url=BASE_URL.removesuffix("/v1"), api_key=API_KEY).messages
MODEL = "claude-sonnet-4-5"
WEATHER = {
    "name": "get_weather",
    "description": WEATHER_TOOL["function"]["description"],
    "input_schema": WEATHER_TOOL["function"]["parameters"],
}
ASKED: dict[str, Any] = {"model": MODEL, "max_tokens": 400, "messages": user(PROMPT)}
THINKING = {"thinking": {"type": "enabled", "budget_tokens": 1024}, "max_tokens": 2048}


def collect(seen: Seen, **asked: Any) -> None:
    """Keep all events of a stream."""
    kept = seen["events"] = []
    with messages.create(stream=True, **asked) as events:
        for event in events:
            kept.append(event.model_dump())


def plain(seen: Seen) -> None:
    seen["answer"] = messages.create(**ASKED).model_dump()


def thinking(seen: Seen) -> None:
    seen["answer"] = messages.create(**ASKED | THINKING).model_dump()


def stream(seen: Seen) -> None:
    collect(seen, **ASKED)


def thinking_stream(seen: Seen) -> None:
    collect(seen, **ASKED | THINKING)


def tools(seen: Seen) -> None:
    asked = ASKED | {"messages": user(WEATHER_QUESTION), "tools": [WEATHER]}
    answer = messages.create(**asked)
    (call,) = (block for block in answer.content if block.type == "tool_use")
    seen["call"] = call.model_dump()
    result = {"type": "tool_result", "tool_use_id": call.id, "content": get_weather(**call.input)}
    content = [block.model_dump(exclude_none=True) for block in answer.content]
    more = [{"role": "assistant", "content": content}, {"role": "user", "content": [result]}]
    seen["answer"] = messages.create(**asked | {"messages": [*asked["messages"], *more]}).model_dump()


def tools_stream(seen: Seen) -> None:
    with messages.stream(**ASKED | {"messages": user(WEATHER_QUESTION), "tools": [WEATHER]}) as events:
        seen["events"] = [event.type for event in events]
        seen["answer"] = events.get_final_message().model_dump()


def ceiling(seen: Seen) -> None:
    seen["answer"] = messages.create(**ASKED | {"max_tokens": 16}).model_dump()


def count_tokens(seen: Seen) -> None:
    seen["count"] = messages.count_tokens(model=MODEL, messages=user(PROMPT)).model_dump()


def cancel(seen: Seen) -> None:
    with messages.stream(**ASKED) as events:
        for text in events.text_stream:
            seen["text"] = text
            break


serve("anthropic", plain, thinking, stream, thinking_stream, tools, tools_stream, ceiling, count_tokens, cancel)
