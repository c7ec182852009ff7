"""LlamaIndex's `OpenAILike`, the class for servers with OpenAI's protocol."""

from __future__ import annotations

import gc
from typing import Any

from llama_index.core.llms import ChatMessage, ChatResponse
from llama_index.core.prompts import PromptTemplate
from llama_index.core.tools import FunctionTool
from llama_index.llms.openai_like import OpenAILike
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

model = OpenAILike(
    model=MODEL,
    api_base=BASE_URL,
    api_key=API_KEY,
    is_chat_model=True,
    is_function_calling_model=True,
    should_use_structured_outputs=True,
)
weather = FunctionTool.from_defaults(get_weather)
question = PromptTemplate(PERSON_QUESTION)


def described(response: ChatResponse) -> dict[str, Any]:
    return {"message": response.message.model_dump(mode="json"), "more": response.additional_kwargs}


def plain(seen: Seen) -> None:
    seen["answer"] = described(model.chat([ChatMessage(PROMPT)]))


async def stream(seen: Seen) -> None:
    deltas = seen["deltas"] = []
    async for response in await model.astream_chat([ChatMessage(PROMPT)]):
        deltas.append(response.delta)
        seen["answer"] = described(response)


def stream_usage(seen: Seen) -> None:
    *_, last = model.stream_chat([ChatMessage(PROMPT)], stream_options={"include_usage": True})
    seen["answer"] = described(last)


def tools(seen: Seen) -> None:
    first = model.chat_with_tools([weather], WEATHER_QUESTION)
    (call,) = model.get_tool_calls_from_response(first)
    seen["call"] = call.model_dump()
    result = weather(**call.tool_kwargs).content
    history = [ChatMessage(WEATHER_QUESTION), first.message]
    history.append(ChatMessage(result, role="tool", additional_kwargs={"tool_call_id": call.tool_id}))
    seen["answer"] = described(model.chat_with_tools([weather], chat_history=history))


def tools_stream(seen: Seen) -> None:
    *_, last = model.stream_chat_with_tools([weather], WEATHER_QUESTION)
    seen["calls"] = [call.model_dump() for call in model.get_tool_calls_from_response(last)]


def structured(seen: Seen) -> None:
    seen["person"] = model.structured_predict(Person, question).model_dump()


def structured_stream(seen: Seen) -> None:
    *_, last = model.stream_structured_predict(Person, question)
    seen["person"] = last.model_dump()


def cancel(seen: Seen) -> None:
    """Close the stream; LlamaIndex leaves the connection in a reference cycle to the garbage collector."""
    responses = model.stream_chat([ChatMessage(PROMPT)])
    for response in responses:
        if response.delta:
            seen["text"] = response.delta
            break
    responses.close()
    del responses
    gc.collect()


serve(
    "llama-index-llms-openai-like",
    plain,
    stream,
    stream_usage,
    tools,
    tools_stream,
    structured,
    structured_stream,
    cancel,
)
