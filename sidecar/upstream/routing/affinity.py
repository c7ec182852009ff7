"""Conversation affinity: send the calls of one conversation to the same upstream, whose prefix cache has its beginning.

Weighted rendezvous hashing (Thaler and Ravishankar 1996; Schindelhauer and Schomaker 2005): each upstream gets a score from
the hash of the conversation and its own name, and the highest score wins. An upstream that is passed over moves only its own
conversations, and worker processes agree without shared state.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from hashlib import blake2b
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeGuard

if TYPE_CHECKING:
    from policies.api.call import Call

MAX_HASHED_CHARACTERS = 2_048
"""Characters of each text that are hashed."""
MAX_HASHED_PIECES = 64
"""Texts that are hashed, and their lengths."""
MAX_HASHED_PARTS = 8
"""Parts of a message, and items of a list, that are read."""
MAX_PROMPT_CHARACTERS, MAX_PROMPT_TOKENS = 512, 128
"""Characters, or token ids, of a prompt for completions that are hashed, without its length: each turn makes it longer.

A conversation that is still shorter may move; its prefix would save as little.
"""
MAX_HEAD_MESSAGES = 8
"""Messages that are searched for the first one of the user."""
MAX_HEAD_DEPTH = 4
"""Levels of lists and objects in a message's content that are read."""
DIGEST_BYTES = 16
_HASH_SPACE = 2**64
_HEADER_LINE = re.compile(r"x-[a-z0-9-]{1,100}: [^\n]{0,1000}(?:\n|$)")
"""A first line of instructions in the form of a header.

Claude Code begins its instructions with `x-anthropic-billing-header: ...`, whose value differs in each call.
Source: musistudio/claude-code-router#1217.
"""
SYSTEM_FIELDS = ("system", "instructions")
"""Fields for the beginning of a prompt, beside `messages` or `input`."""
PART_FIELDS = ("text", "content", "image_url", "url", "source", "data", "file_id")
"""Fields of a part that stay the same in all calls of a conversation. Others may not, such as `cache_control`."""


def conversation_of(call: Call) -> bytes | None:
    """Return a hash of the tenant and the conversation's head; None for a call without a prompt.

    The head stays the same in all calls of a conversation. It is the messages up to the first one of the user, or the first
    characters of a prompt for completions. A bounded part of it is read.
    """
    pieces = list(islice(_head(call), MAX_HASHED_PIECES))
    if not pieces:
        return None
    return blake2b("\0".join([call.tenant, *pieces]).encode("utf-8", "replace"), digest_size=DIGEST_BYTES).digest()


def _head(call: Call) -> Iterator[str]:
    body = call.body
    for field in SYSTEM_FIELDS:
        if field in body:
            yield from _texts(body[field])
    messages = body.get("messages")
    if isinstance(messages, list) and messages:
        yield from _head_of_messages(messages)
        return
    if "input" in body:
        yield from _head_of_input(body["input"])
    if "prompt" in body:
        yield from _head_of_prompt(body["prompt"])


def _head_of_messages(messages: Sequence[Any]) -> Iterator[str]:
    for message in islice(messages, MAX_HEAD_MESSAGES):
        if isinstance(message, dict):
            yield from _texts(message.get("content"))
            if message.get("role") == "user":
                return


def _head_of_input(given: object) -> Iterator[str]:
    if isinstance(given, list) and given and isinstance(given[0], dict):
        yield from _head_of_messages(given)
    else:
        yield from _texts(given)


def _head_of_prompt(prompt: object) -> Iterator[str]:
    """Yield the beginning of *prompt*, or that of each one in a list."""
    for each in prompt[:MAX_HASHED_PARTS] if _is_list_of_prompts(prompt) else (prompt,):
        if isinstance(each, str) and each:
            yield each[:MAX_PROMPT_CHARACTERS]
        elif isinstance(each, list) and each and isinstance(each[0], int):
            yield _written(each[:MAX_PROMPT_TOKENS])


def _is_list_of_prompts(prompt: object) -> TypeGuard[list[object]]:
    return isinstance(prompt, list) and bool(prompt) and not isinstance(prompt[0], int)


def _written(tokens: Sequence[object]) -> str:
    return " ".join(str(hash(each)) for each in tokens if isinstance(each, int))


def _texts(content: object, depth: int = MAX_HEAD_DEPTH) -> Iterator[str]:
    """Yield the first texts of *content*: of a string, token ids, or parts; each with its whole length behind it."""
    if isinstance(content, str):
        line = _HEADER_LINE.match(content) if content.startswith("x-") else None
        start = 0 if line is None else line.end()
        if start < len(content):
            yield content[start : start + MAX_HASHED_CHARACTERS]
            yield str(len(content) - start)
    elif not depth:
        return
    elif isinstance(content, dict):
        for field in PART_FIELDS:
            if field in content:
                yield from _texts(content[field], depth - 1)
    elif isinstance(content, list) and content:
        if isinstance(content[0], int):
            yield _written(content[:MAX_PROMPT_TOKENS])
            yield str(len(content))
        else:
            for part in content[:MAX_HASHED_PARTS]:
                yield from _texts(part, depth - 1)


def preferred(conversation: bytes, names: Sequence[str], weights: Sequence[float]) -> int:
    """Return the index of the upstream in *names* with the highest score for *conversation*.

    Each upstream is preferred by a share of the conversations in proportion to its weight.
    """
    scores = [_score(conversation, name, weight) for name, weight in zip(names, weights, strict=True)]
    return max(range(len(scores)), key=scores.__getitem__)


def _score(conversation: bytes, name: str, weight: float) -> float:
    digest = blake2b(name.encode(), key=conversation, digest_size=8).digest()
    share = (int.from_bytes(digest, "big") + 0.5) / _HASH_SPACE  # between 0 and 1
    return -weight / math.log(share) if share < 1 else math.inf
