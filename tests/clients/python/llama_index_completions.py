"""LlamaIndex's `OpenAILike` by default: not a chat model, so that it asks for completions."""

from __future__ import annotations

import gc

from llama_index.core.llms import ChatMessage
from llama_index.llms.openai_like import OpenAILike
from operations import API_KEY, BASE_URL, MODEL, PROMPT, Seen, serve

model = OpenAILike(model=MODEL, api_base=BASE_URL, api_key=API_KEY)


def plain(seen: Seen) -> None:
    seen["answer"] = model.complete(PROMPT).model_dump(mode="json")
    seen["chat"] = model.chat([ChatMessage(PROMPT)]).model_dump(mode="json")


async def stream(seen: Seen) -> None:
    deltas = seen["deltas"] = []
    async for response in await model.astream_complete(PROMPT):
        deltas.append(response.delta)
        seen["text"] = response.text


def cancel(seen: Seen) -> None:
    """Close the stream; LlamaIndex leaves the connection in a reference cycle to the garbage collector."""
    responses = model.stream_complete(PROMPT)
    for response in responses:
        if response.delta:
            seen["text"] = response.delta
            break
    responses.close()
    del responses
    gc.collect()


serve("llama-index-llms-openai-like", plain, stream, cancel)
