"""OpenAI's client for Python, synchronous: completions."""

from __future__ import annotations

from typing import Any

from openai import OpenAI
from operations import API_KEY, BASE_URL, MODEL, PROMPT, Seen, serve

completions: Any = OpenAI(base_url=BASE_URL, api_key=API_KEY).completions  # the types of the SDK's versions differ
TOKEN_LISTS = [[9906, 11], [1901, 9011]]


def collect(seen: Seen, **asked: Any) -> None:
    """Keep all chunks of a stream."""
    kept = seen["chunks"] = []
    with completions.create(model=MODEL, stream=True, **asked) as chunks:
        for chunk in chunks:
            kept.append(chunk.model_dump())


def plain(seen: Seen) -> None:
    seen["answer"] = completions.create(model=MODEL, prompt=PROMPT).model_dump()


def stream(seen: Seen) -> None:
    collect(seen, prompt=PROMPT)


def stream_usage(seen: Seen) -> None:
    collect(seen, prompt=PROMPT, stream_options={"include_usage": True})


def several_prompts(seen: Seen) -> None:
    seen["answer"] = completions.create(model=MODEL, prompt=[PROMPT, "And again"]).model_dump()


def token_ids(seen: Seen) -> None:
    seen["answer"] = completions.create(model=MODEL, prompt=TOKEN_LISTS[0]).model_dump()


def token_lists_stream(seen: Seen) -> None:
    collect(seen, prompt=TOKEN_LISTS)


def choices(seen: Seen) -> None:
    more = {"n": 2, "best_of": 3, "logprobs": 2, "echo": True, "suffix": "."}
    seen["answer"] = completions.create(model=MODEL, prompt=PROMPT, **more).model_dump()


def ceiling(seen: Seen) -> None:
    seen["answer"] = completions.create(model=MODEL, prompt=PROMPT, max_tokens=2).model_dump()


def cancel(seen: Seen) -> None:
    with completions.create(model=MODEL, prompt=PROMPT, stream=True) as chunks:
        for chunk in chunks:
            if text := chunk.choices[0].text:
                seen["text"] = text
                break


serve(
    "openai",
    plain,
    stream,
    stream_usage,
    several_prompts,
    token_ids,
    token_lists_stream,
    choices,
    ceiling,
    cancel,
)
