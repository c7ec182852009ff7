"""Pydantic AI's agents.  Usage: pydantic_ai_agent.py [openai:] BASE_URL.

By default they use `OpenAIChatModel`, the class for chat completions; with the prefix `openai:` they use the Responses API.
"""

from __future__ import annotations

import os
import sys

from operations import (
    API_KEY,
    BASE_URL,
    MODEL,
    PERSON_QUESTION,
    PROMPT,
    WEATHER_QUESTION,
    Person,
    Seen,
    get_weather,
    serve,
)
from pydantic_ai import Agent, NativeOutput
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

os.environ |= {"OPENAI_BASE_URL": BASE_URL, "OPENAI_API_KEY": API_KEY}
chat_model = OpenAIChatModel(MODEL, provider=OpenAIProvider(base_url=BASE_URL, api_key=API_KEY))
model = f"openai:{MODEL}" if sys.argv[1] == "openai:" else chat_model
agent = Agent(model)
weather_agent = Agent(model, tools=[get_weather])
person_agents = {"tool": Agent(model, output_type=Person), "schema": Agent(model, output_type=NativeOutput(Person))}


async def plain(seen: Seen) -> None:
    done = await agent.run(PROMPT)
    seen["text"], seen["usage"] = done.output, repr(done.usage)


async def stream(seen: Seen) -> None:
    texts = seen["texts"] = []
    async with agent.run_stream(PROMPT) as answer:
        async for text in answer.stream_text(delta=True, debounce_by=None):
            texts.append(text)


async def stream_usage(seen: Seen) -> None:
    async with agent.run_stream(PROMPT) as answer:
        seen["text"], seen["usage"] = await answer.get_output(), repr(answer.usage)


async def tools(seen: Seen) -> None:
    done = await weather_agent.run(WEATHER_QUESTION)
    seen["text"] = done.output
    seen["parts"] = [part.part_kind for message in done.all_messages() for part in message.parts]


async def tools_stream(seen: Seen) -> None:
    async with weather_agent.run_stream(WEATHER_QUESTION) as answer:
        seen["text"] = await answer.get_output()
        seen["parts"] = [part.part_kind for message in answer.all_messages() for part in message.parts]


async def structured(seen: Seen) -> None:
    for name, person_agent in person_agents.items():
        seen[name] = (await person_agent.run(PERSON_QUESTION)).output.model_dump()


async def structured_stream(seen: Seen) -> None:
    for name, person_agent in person_agents.items():
        async with person_agent.run_stream(PERSON_QUESTION) as answer:
            seen[name] = (await answer.get_output()).model_dump()


async def incomplete(seen: Seen) -> None:
    done = await agent.run(PROMPT, model_settings={"max_tokens": 16})
    seen["text"], seen["usage"] = done.output, repr(done.usage)


async def incomplete_stream(seen: Seen) -> None:
    async with agent.run_stream(PROMPT, model_settings={"max_tokens": 16}) as answer:
        seen["text"], seen["usage"] = await answer.get_output(), repr(answer.usage)


async def cancel(seen: Seen) -> None:
    async with agent.run_stream(PROMPT) as answer:
        async for text in answer.stream_text(delta=True, debounce_by=None):
            seen["text"] = text
            break


serve(
    "pydantic-ai-slim",
    plain,
    stream,
    stream_usage,
    tools,
    tools_stream,
    structured,
    structured_stream,
    incomplete,
    incomplete_stream,
    cancel,
)
