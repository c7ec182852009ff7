"""LiteLLM as a client library: the prefix `openai/` selects chat completions at `api_base`."""

from __future__ import annotations

import json
from functools import partial

import litellm
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

litellm.suppress_debug_info = True
litellm.telemetry = False
complete = partial(litellm.completion, model=f"openai/{MODEL}", api_base=BASE_URL, api_key=API_KEY)
complete_async = partial(litellm.acompletion, model=f"openai/{MODEL}", api_base=BASE_URL, api_key=API_KEY)


def plain(seen: Seen) -> None:
    seen["answer"] = complete(messages=user(PROMPT)).model_dump()


async def stream(seen: Seen) -> None:
    deltas = seen["deltas"] = []
    async for chunk in await complete_async(messages=user(PROMPT), stream=True):
        deltas.append(chunk.choices[0].model_dump())


def stream_usage(seen: Seen) -> None:
    *_, last = complete(messages=user(PROMPT), stream=True, stream_options={"include_usage": True})
    seen["usage"] = last.usage.model_dump()


def tools(seen: Seen) -> None:
    messages = user(WEATHER_QUESTION)
    message = complete(messages=messages, tools=[WEATHER_TOOL]).choices[0].message
    (call,) = message.tool_calls
    seen["call"] = call.model_dump()
    result = get_weather(**json.loads(call.function.arguments))
    messages += [message, {"role": "tool", "tool_call_id": call.id, "content": result}]
    seen["answer"] = complete(messages=messages, tools=[WEATHER_TOOL]).choices[0].message.content


def tools_stream(seen: Seen) -> None:
    chunks = list(complete(messages=user(WEATHER_QUESTION), tools=[WEATHER_TOOL], stream=True))
    (choice,) = litellm.stream_chunk_builder(chunks).choices
    seen["calls"] = [call.model_dump() for call in choice.message.tool_calls]
    seen["finish"] = choice.finish_reason


def structured(seen: Seen) -> None:
    answer = complete(messages=user(PERSON_QUESTION), response_format=Person)
    seen["person"] = Person.model_validate_json(answer.choices[0].message.content).model_dump()


def structured_stream(seen: Seen) -> None:
    chunks = complete(messages=user(PERSON_QUESTION), response_format=Person, stream=True)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    seen["person"] = Person.model_validate_json(text).model_dump()


async def cancel(seen: Seen) -> None:
    chunks = await complete_async(messages=user(PROMPT), stream=True)
    async for chunk in chunks:
        if text := chunk.choices[0].delta.content:
            seen["text"] = text
            break
    await chunks.aclose()


serve("litellm", plain, stream, stream_usage, tools, tools_stream, structured, structured_stream, cancel)
