"""Check the prompts of completions and embeddings: text, token ids, or lists of them."""

from __future__ import annotations

from typing import Any

import msgspec

from .json_body import BadRequest
from .openai_request import MAX_ITEMS

MAX_ANSWERS = 1_024
"""Answers of one request, over all its prompts: readers count as many choices."""
_NUMBER_BYTES = b"0123456789, []\t\r\n"


def check_prompt(value: object, field: str) -> int:
    """Raise `BadRequest` unless *value* is text, token ids, or a list of texts, of lists of ids or of objects.

    Return the number of prompts. Servers accept mixed lists (llama.cpp), and objects with images, so these pass.
    """
    if isinstance(value, str | msgspec.Raw | dict):
        return 1
    if not isinstance(value, list) or not value:
        msg = f"'{field}' must be a string, a list of token ids, or a non-empty list of these."
        raise BadRequest(msg, field)
    if all(type(each) is int for each in value):
        return 1
    if len(value) > MAX_ITEMS:
        msg = f"'{field}' has {len(value)} items; send at most {MAX_ITEMS}."
        raise BadRequest(msg, field)
    for at, each in enumerate(value):
        if isinstance(each, str | dict) or type(each) is int:
            continue
        if not isinstance(each, list) or not all(type(token) is int for token in each):
            msg = f"'{field}[{at}]' must be a string or a list of token ids."
            raise BadRequest(msg, f"{field}[{at}]")
    return len(value)


def check_answers(answers: int, field: str) -> None:
    """Raise `BadRequest` for more *answers*, over all prompts in *field*, than one request may have."""
    if answers > MAX_ANSWERS:
        msg = f"'{field}' and 'n' ask for {answers} answers; send at most {MAX_ANSWERS} in one request."
        raise BadRequest(msg, field)


def without_token_ids(raw: bytes, fields: tuple[str, ...]) -> tuple[bytes, dict[str, msgspec.Raw]]:
    """Return the JSON object *raw* without the values of *fields* that are token ids alone, and these values as JSON.

    So a batch of hundreds of thousands of ids (LangChain sends such) is neither created nor counted as as many values.
    *raw* is returned as it is where none of them is found, and where it is not valid. Time is linear, about 2 ms per MB.
    """
    if not any(f'"{field}"'.encode() in raw for field in fields):
        return raw, {}
    try:
        found = msgspec.json.decode(raw, type=dict[str, msgspec.Raw])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return raw, {}
    ids = {field: value for field in fields if (value := found.get(field)) is not None and _is_ids(bytes(value))}
    if not ids:
        return raw, {}
    kept: dict[str, Any] = {name: None if name in ids else value for name, value in found.items()}
    return msgspec.json.encode(kept), ids


def _is_ids(value: bytes) -> bool:
    """Whether *value*, valid JSON, is a list of numbers without sign and fraction, or a list of such lists."""
    return value.startswith(b"[") and not value.translate(None, _NUMBER_BYTES) and value.count(b"[[[") == 0
