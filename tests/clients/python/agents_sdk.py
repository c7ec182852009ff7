"""OpenAI's Agents SDK by default: the Responses API."""

from __future__ import annotations

import os
from typing import Any

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

os.environ |= {"OPENAI_BASE_URL": BASE_URL, "OPENAI_API_KEY": API_KEY}
from agents import Agent, ModelSettings, Runner, function_tool  # the SDK reads the variables

agent: Any = Agent(name="greeter", model=MODEL)
short_agent: Any = Agent(name="short", model=MODEL, model_settings=ModelSettings(max_tokens=16))
weather_agent: Any = Agent(name="weather", model=MODEL, tools=[function_tool(get_weather)])
person_agent: Any = Agent(name="person", model=MODEL, output_type=Person)


def described(seen: Seen, done: Any) -> None:
    seen["output"] = done.final_output.model_dump() if isinstance(done.final_output, Person) else done.final_output
    seen["items"] = [item.to_input_item() for item in done.new_items]
    seen["usage"] = repr(done.context_wrapper.usage)


async def run(seen: Seen, ran: Any, question: str) -> None:
    described(seen, await Runner.run(ran, question))


async def run_stream(seen: Seen, ran: Any, question: str) -> None:
    kinds = seen["kinds"] = []
    running = Runner.run_streamed(ran, question)
    async for event in running.stream_events():
        kinds.append(event.data.type if event.type == "raw_response_event" else event.type)
        if event.type == "raw_response_event" and event.data.type == "response.output_text.delta":
            seen["text"] = seen.get("text", "") + event.data.delta
    described(seen, running)


async def plain(seen: Seen) -> None:
    await run(seen, agent, PROMPT)


async def stream(seen: Seen) -> None:
    await run_stream(seen, agent, PROMPT)


async def tools(seen: Seen) -> None:
    await run(seen, weather_agent, WEATHER_QUESTION)


async def tools_stream(seen: Seen) -> None:
    await run_stream(seen, weather_agent, WEATHER_QUESTION)


async def structured(seen: Seen) -> None:
    await run(seen, person_agent, PERSON_QUESTION)


async def structured_stream(seen: Seen) -> None:
    await run_stream(seen, person_agent, PERSON_QUESTION)


async def incomplete(seen: Seen) -> None:
    await run(seen, short_agent, PROMPT)


async def incomplete_stream(seen: Seen) -> None:
    await run_stream(seen, short_agent, PROMPT)


async def cancel(seen: Seen) -> None:
    running = Runner.run_streamed(agent, PROMPT)
    async for event in running.stream_events():
        if event.type == "raw_response_event" and event.data.type == "response.output_text.delta":
            seen["text"] = event.data.delta
            running.cancel()


serve(
    "openai-agents",
    plain,
    stream,
    tools,
    tools_stream,
    structured,
    structured_stream,
    incomplete,
    incomplete_stream,
    cancel,
)
