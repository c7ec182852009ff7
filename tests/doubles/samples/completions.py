"""Samples of OpenAI's completions API: chunks, answers, and whole streams."""

from __future__ import annotations

from typing import Any

from samples.sample import Sample

SOURCE = "types of openai 3.54.0"
MODEL = "gpt-3.5-turbo-instruct"
USAGE: dict[str, Any] = {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18}
TEXTS = ("Hello", ", Zoë.")
LOGPROBS: dict[str, Any] = {
    "tokens": ["Hello"],
    "token_logprobs": [-0.25],
    "top_logprobs": [{"Hello": -0.25, "Hi": -1.5}],
    "text_offset": [0],
}


def choice(text: str, finish: str | None = None, *, at: int = 0, logprobs: Any = None) -> dict[str, Any]:
    return {"text": text, "index": at, "logprobs": logprobs, "finish_reason": finish}


def completion(*choices: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """Return an answer or a chunk, which have the same fields; *fields* replace others."""
    return {
        "id": "cmpl-1",
        "object": "text_completion",
        "created": 1760000000,
        "model": MODEL,
        "system_fingerprint": "fp_1",
        "choices": list(choices),
        **fields,
    }


CHUNKS: tuple[Sample, ...] = (
    Sample("text", SOURCE, completion(choice("Hello")), "Hello"),
    Sample("text with logprobs", SOURCE, completion(choice("Hello", logprobs=LOGPROBS)), "Hello"),
    Sample("second choice", SOURCE, completion(choice("Hi", at=1)), "Hi"),
    Sample("finish", SOURCE, completion(choice("", "stop"))),
    Sample("finish with text", SOURCE, completion(choice(" world", "length")), " world"),
    Sample("usage", SOURCE, completion(usage=USAGE)),
    Sample("usage is null", SOURCE, completion(choice("Hello"), usage=None), "Hello"),
)
ANSWERS: tuple[Sample, ...] = (
    Sample("text", SOURCE, completion(choice("Hello, Zoë.", "stop"), usage=USAGE), "Hello, Zoë."),
    Sample(
        "several prompts",
        SOURCE,
        completion(choice("Hello", "stop"), choice("Hi", "stop", at=1), usage=USAGE),
        "HelloHi",
    ),
    Sample("ceiling", SOURCE, completion(choice("Hello", "length"), usage=USAGE), "Hello"),
    Sample("logprobs", SOURCE, completion(choice("Hello", "stop", logprobs=LOGPROBS), usage=USAGE), "Hello"),
    Sample(
        "echo",
        "OpenAI's API reference: `echo` repeats the prompt in front of the completion, which is not output",
        completion(choice("Say hello: Hello", "stop"), usage=USAGE),
        "Hello",
    ),
)
STREAMS: dict[str, tuple[dict[str, Any], ...]] = {
    "text": (*(completion(choice(text)) for text in TEXTS), completion(choice("", "stop"))),
    "with usage": (
        *(completion(choice(text), usage=None) for text in TEXTS),
        completion(choice("", "stop"), usage=None),
        completion(usage=USAGE),
    ),
    "several prompts": (
        completion(choice("Hello")),
        completion(choice("Hi", at=1)),
        completion(choice("", "stop", at=1)),
        completion(choice("", "stop")),
    ),
    "ceiling": (completion(choice("Hello")), completion(choice("", "length"))),
    "error after text": (
        completion(choice("Hello")),
        {"error": {"message": "The server had an error.", "type": "server_error", "param": None, "code": None}},
    ),
}
"""Whole streams by what they show, without the `[DONE]` that ends each of them."""
