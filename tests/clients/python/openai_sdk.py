"""OpenAI's client for Python, synchronous."""

from __future__ import annotations

from typing import Any

from openai import OpenAI
from operations import (
    API_KEY,
    BASE_URL,
    MODEL,
    PERSON_QUESTION,
    PROMPT,
    WEATHER_QUESTION,
    WEATHER_TOOL,
    Person,
    Seen,
    get_weather,
    serve,
    user,
)

client = OpenAI(base_url=BASE_URL, api_key=API_KEY)
chat: Any = client.chat.completions  # the types of the SDK's versions differ


def plain(seen: Seen) -> None:
    seen["answer"] = chat.create(model=MODEL, messages=user(PROMPT)).model_dump()


def stream(seen: Seen) -> None:
    chunks = seen["chunks"] = []
    with chat.create(model=MODEL, messages=user(PROMPT), stream=True) as events:
        for chunk in events:
            chunks.append(chunk.model_dump())


def stream_usage(seen: Seen) -> None:
    options = {"include_usage": True}
    with chat.create(model=MODEL, messages=user(PROMPT), stream=True, stream_options=options) as events:
        seen["chunks"] = [chunk.model_dump() for chunk in events]


def tools(seen: Seen) -> None:
    messages = user(WEATHER_QUESTION)
    message = chat.create(model=MODEL, messages=messages, tools=[WEATHER_TOOL]).choices[0].message
    (call,) = message.tool_calls
    seen["call"] = call.model_dump()
    result = get_weather(call.function.arguments)
    messages += [message.to_dict(), {"role": "tool", "tool_call_id": call.id, "content": result}]
    seen["answer"] = chat.create(model=MODEL, messages=messages, tools=[WEATHER_TOOL]).model_dump()


def tools_stream(seen: Seen) -> None:
    with chat.stream(model=MODEL, messages=user(WEATHER_QUESTION), tools=[WEATHER_TOOL]) as events:
        seen["events"] = [event.type for event in events]
        seen["answer"] = events.get_final_completion().model_dump()


def structured(seen: Seen) -> None:
    answer = chat.parse(model=MODEL, messages=user(PERSON_QUESTION), response_format=Person)
    seen["person"] = answer.choices[0].message.parsed.model_dump()


def structured_stream(seen: Seen) -> None:
    with chat.stream(model=MODEL, messages=user(PERSON_QUESTION), response_format=Person) as events:
        seen["person"] = events.get_final_completion().choices[0].message.parsed.model_dump()


def cancel(seen: Seen) -> None:
    with chat.create(model=MODEL, messages=user(PROMPT), stream=True) as events:
        for chunk in events:
            if text := chunk.choices[0].delta.content:
                seen["text"] = text
                break


serve("openai", plain, stream, stream_usage, tools, tools_stream, structured, structured_stream, cancel)
