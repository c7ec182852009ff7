"""Samples of OpenAI's embeddings API: inputs in each form with their sizes, and answers."""

from __future__ import annotations

import base64
import struct
from typing import Any, NamedTuple

from samples.sample import Sample

SOURCE = "types of openai 3.54.0"
MODEL = "text-embedding-3-small"
VECTOR = (0.25, -0.5, 0.75)
"""Numbers that float32 holds exactly, so that both encodings mean the same."""


def encoded(vector: tuple[float, ...]) -> str:
    """Return *vector* as `encoding_format: base64` has it: little-endian float32. It is the default of OpenAI's SDKs."""
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()


def embedding(vector: Any, at: int = 0) -> dict[str, Any]:
    return {"object": "embedding", "index": at, "embedding": vector}


def answer(*vectors: Any, tokens: int = 3) -> dict[str, Any]:
    """Return the answer to a request of as many inputs."""
    data = [embedding(vector, at) for at, vector in enumerate(vectors)]
    return {
        "object": "list",
        "data": data,
        "model": MODEL,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }


class Input(NamedTuple):
    """An `input` of a request."""

    kind: str
    value: Any
    inputs: int
    """How many vectors it asks for."""
    tokens: int | None
    """How many tokens it has, where these are exact."""


INPUTS: tuple[Input, ...] = (
    Input("string", "Hello, Zoë.", 1, None),
    Input("strings", ["Hello", "Zoë"], 2, None),
    Input("token ids", [9906, 11, 1901], 1, 3),
    Input("lists of token ids", [[9906, 11], [1901, 9011, 13]], 2, 5),
)
"""Source: `EmbeddingCreateParams.input` of openai 3.54.0."""
ANSWERS: tuple[Sample, ...] = (
    Sample("float", SOURCE, answer(list(VECTOR))),
    Sample("base64", "types of openai 3.54.0, and its decoder in `resources/embeddings.py`", answer(encoded(VECTOR))),
    Sample("several inputs", SOURCE, answer(list(VECTOR), list(VECTOR[::-1]), tokens=5)),
)
