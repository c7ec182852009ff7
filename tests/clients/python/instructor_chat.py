"""Instructor on OpenAI's client for Python, with its two ways to ask for an object: a tool and a JSON schema."""

from __future__ import annotations

import asyncio

import instructor
from openai import AsyncOpenAI, OpenAI
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
    serve,
    user,
)

tool_client = instructor.from_openai(OpenAI(base_url=BASE_URL, api_key=API_KEY), mode=instructor.Mode.TOOLS)
schema_client = instructor.from_openai(
    AsyncOpenAI(base_url=BASE_URL, api_key=API_KEY), mode=instructor.Mode.JSON_SCHEMA
)
chat = tool_client.chat.completions


def plain(seen: Seen) -> None:
    seen["answer"] = chat.create(model=MODEL, messages=user(PROMPT), response_model=None).model_dump()


def stream(seen: Seen) -> None:
    chunks = seen["chunks"] = []
    for chunk in chat.create(model=MODEL, messages=user(PROMPT), response_model=None, stream=True):
        chunks.append(chunk.model_dump())


def stream_usage(seen: Seen) -> None:
    options = {"include_usage": True}
    events = chat.create(model=MODEL, messages=user(PROMPT), response_model=None, stream=True, stream_options=options)
    seen["usage"] = list(events)[-1].usage.model_dump()


def tools(seen: Seen) -> None:
    answer = chat.create(model=MODEL, messages=user(WEATHER_QUESTION), response_model=None, tools=[WEATHER_TOOL])
    seen["answer"] = answer.model_dump()


def tools_stream(seen: Seen) -> None:
    events = chat.create(
        model=MODEL, messages=user(WEATHER_QUESTION), response_model=None, tools=[WEATHER_TOOL], stream=True
    )
    seen["chunks"] = [chunk.model_dump() for chunk in events]


async def structured(seen: Seen) -> None:
    seen["tool"] = chat.create(model=MODEL, messages=user(PERSON_QUESTION), response_model=Person).model_dump()
    answer = await schema_client.chat.completions.create(
        model=MODEL, messages=user(PERSON_QUESTION), response_model=Person
    )
    seen["schema"] = answer.model_dump()


async def structured_stream(seen: Seen) -> None:
    partial = chat.create_partial(model=MODEL, messages=user(PERSON_QUESTION), response_model=Person)
    seen["tool"] = [each.model_dump() for each in partial]
    partial = schema_client.chat.completions.create_partial(
        model=MODEL, messages=user(PERSON_QUESTION), response_model=Person
    )
    seen["schema"] = [each.model_dump() async for each in partial]


async def cancel(seen: Seen) -> None:
    """Cancel the task that waits for the rest of an object."""
    begun = asyncio.Event()

    async def read() -> None:
        answer = await schema_client.chat.completions.create(
            model=MODEL, messages=user(PROMPT), response_model=None, stream=True
        )
        async for chunk in answer:
            if text := chunk.choices[0].delta.content:
                seen.setdefault("text", text)
                begun.set()

    reading = asyncio.create_task(read())
    await asyncio.wait([reading, asyncio.create_task(begun.wait())], return_when=asyncio.FIRST_COMPLETED)
    reading.cancel()
    await asyncio.wait([reading])
    seen["cancelled"] = reading.cancelled()


serve("instructor", plain, stream, stream_usage, tools, tools_stream, structured, structured_stream, cancel)
