"""LangChain's `OpenAIEmbeddings`, which sends token ids by default.

The vocabulary of its tokenizer would be downloaded; litellm's package has the same file.
"""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from operations import API_KEY, BASE_URL, PROMPT, Seen, serve

found: Any = find_spec("litellm")
os.environ["TIKTOKEN_CACHE_DIR"] = str(Path(found.origin).parent / "litellm_core_utils" / "tokenizers")
from langchain_openai import OpenAIEmbeddings  # noqa: E402  # the tokenizer reads the variable

embeddings = OpenAIEmbeddings(model="text-embedding-3-small", base_url=BASE_URL, api_key=API_KEY)


def plain(seen: Seen) -> None:
    seen["vector"] = embeddings.embed_query(PROMPT)


async def several(seen: Seen) -> None:
    seen["vectors"] = await embeddings.aembed_documents([PROMPT, "And again"])


serve("langchain-openai", plain, several)
