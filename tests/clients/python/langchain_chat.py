"""LangChain's `ChatOpenAI`. Chat completions are its default; it uses the Responses API only if told to."""

from __future__ import annotations

from langchain_core.messages import AIMessageChunk, HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
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

model = ChatOpenAI(base_url=BASE_URL, api_key=API_KEY, model=MODEL)
weather = tool(get_weather)
agent = model.bind_tools([weather])


def plain(seen: Seen) -> None:
    message = model.invoke(PROMPT)
    seen["answer"] = message.model_dump(exclude={"id"})  # made by LangChain


async def stream(seen: Seen) -> None:
    texts = seen["texts"] = []
    whole = AIMessageChunk("")
    async for chunk in model.astream(PROMPT):
        if chunk.text:
            texts.append(chunk.text)
        whole += chunk
    seen["finish"] = whole.response_metadata


def stream_usage(seen: Seen) -> None:
    whole = AIMessageChunk("")
    for chunk in model.stream(PROMPT, stream_usage=True):
        whole += chunk
    seen["usage"] = whole.usage_metadata


async def tools(seen: Seen) -> None:
    question = HumanMessage(WEATHER_QUESTION)
    message = await agent.ainvoke([question])
    (call,) = message.tool_calls
    seen["call"] = call
    result = ToolMessage(weather.invoke(call["args"]), tool_call_id=call["id"])
    seen["answer"] = (await agent.ainvoke([question, message, result])).text


def tools_stream(seen: Seen) -> None:
    whole = AIMessageChunk("")
    for chunk in agent.stream(WEATHER_QUESTION):
        whole += chunk
    seen["calls"] = whole.tool_calls


def structured(seen: Seen) -> None:
    for method in ("json_schema", "function_calling"):
        seen[method] = model.with_structured_output(Person, method=method).invoke(PERSON_QUESTION).model_dump()


def structured_stream(seen: Seen) -> None:
    *_, last = model.with_structured_output(Person).stream(PERSON_QUESTION)
    seen["person"] = last.model_dump()


async def cancel(seen: Seen) -> None:
    chunks = model.astream(PROMPT)
    async for chunk in chunks:
        if chunk.text:
            seen["text"] = chunk.text
            break
    await chunks.aclose()


serve("langchain-openai", plain, stream, stream_usage, tools, tools_stream, structured, structured_stream, cancel)
