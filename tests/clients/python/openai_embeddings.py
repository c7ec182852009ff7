"""OpenAI's client for Python, synchronous: embeddings, in base64 unless it is told otherwise."""

from __future__ import annotations

from typing import Any

from openai import OpenAI
from operations import API_KEY, BASE_URL, PROMPT, Seen, serve

embeddings: Any = OpenAI(base_url=BASE_URL, api_key=API_KEY).embeddings  # the types of the SDK's versions differ
MODEL = "text-embedding-3-small"
TOKEN_LISTS = [[9906, 11], [1901, 9011, 13]]


def embed(seen: Seen, asked: Any, **more: Any) -> None:
    seen["answer"] = embeddings.create(model=MODEL, input=asked, **more).model_dump()


def plain(seen: Seen) -> None:
    embed(seen, PROMPT)


def several(seen: Seen) -> None:
    embed(seen, [PROMPT, "And again"])


def token_ids(seen: Seen) -> None:
    embed(seen, TOKEN_LISTS[0])


def token_lists(seen: Seen) -> None:
    embed(seen, TOKEN_LISTS)


def floats(seen: Seen) -> None:
    embed(seen, PROMPT, encoding_format="float")


def dimensions(seen: Seen) -> None:
    embed(seen, PROMPT, dimensions=5)


serve("openai", plain, several, token_ids, token_lists, floats, dimensions)
