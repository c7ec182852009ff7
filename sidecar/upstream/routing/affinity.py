"""Conversation affinity: send the calls of one conversation to the same upstream, whose prefix cache has its beginning.

Weighted rendezvous hashing (Thaler and Ravishankar 1996; Schindelhauer and Schomaker 2005): each upstream gets a score from
the hash of the conversation and its own name, and the highest score wins. An upstream that is passed over moves only its own
conversations, and worker processes agree without shared state.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from hashlib import blake2b
from itertools import islice
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from policies.api.call import Call

MAX_HASHED_CHARACTERS = 2_048
"""Characters of each text that are hashed."""
MAX_HASHED_PIECES = 64
"""Texts that are hashed, and their lengths."""
MAX_HASHED_PARTS = 8
"""Parts of a message, and items of a list, that are read."""
MAX_HASHED_TOKENS = 256
"""Token ids of a prompt that are hashed."""
MAX_HEAD_MESSAGES = 8
"""Messages that are searched for the first one of the user."""
MAX_HEAD_DEPTH = 4
"""Levels of lists and objects in a message's content that are read."""
DIGEST_BYTES = 16
_HASH_SPACE = 2**64
SYSTEM_FIELDS, PROMPT_FIELDS = ("system", "instructions"), ("prompt", "input")
"""Fields for the beginning of a prompt in bodies without `messages`, and beside them."""
PART_FIELDS = ("text", "content", "image_url", "url", "source", "data", "file_id")
"""Fields of a part that stay the same in all calls of a conversation. Others may not, such as `cache_control`."""


def conversation_of(call: Call) -> bytes | None:
    """Return a hash of the tenant and the conversation's head; None for a call without a prompt.

    The head is what stays the same in all calls of a conversation: the messages up to the first one of the user, or the
    first characters of a prompt. A bounded part of it is read, whatever its size.
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
    else:
        for field in PROMPT_FIELDS:
            if field in body:
                yield from _head_of_prompt(body[field])


def _head_of_messages(messages: Sequence[Any]) -> Iterator[str]:
    for message in islice(messages, MAX_HEAD_MESSAGES):
        if isinstance(message, dict):
            yield from _texts(message.get("content"))
            if message.get("role") == "user":
                return


def _head_of_prompt(prompt: object) -> Iterator[str]:
    if isinstance(prompt, list) and prompt and isinstance(prompt[0], dict):
        yield from _head_of_messages(prompt)
    else:
        yield from _texts(prompt)


def _texts(content: object, depth: int = MAX_HEAD_DEPTH) -> Iterator[str]:
    """Yield the first texts of *content*: of a string, token ids, or parts; each with its whole length behind it."""
    if isinstance(content, str):
        if content:
            yield content[:MAX_HASHED_CHARACTERS]
            yield str(len(content))
    elif not depth:
        return
    elif isinstance(content, dict):
        for field in PART_FIELDS:
            if field in content:
                yield from _texts(content[field], depth - 1)
    elif isinstance(content, list) and content:
        if isinstance(content[0], int):
            yield " ".join(str(hash(each)) for each in content[:MAX_HASHED_TOKENS] if isinstance(each, int))
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
