"""Check the prompts of completions and embeddings: text, token ids, or lists of them."""

from __future__ import annotations

from collections.abc import Generator
from functools import cache
from typing import Any

import msgspec

from sidecar.wire.decoding.own_choice import DECODE_FAULTS
from sidecar.wire.decoding.value_count import count_marks

from .json_body import BYTE_ORDER_MARK, MAX_VALUES, BadRequest
from .openai_request import MAX_ITEMS

MAX_ANSWERS = 1_024
"""Answers of one request, over all its prompts: readers count as many choices."""
MAX_ID_DIGITS = 19
"""Digits of a token id in a batch that stays JSON."""
_TOO_LONG_ID = b"0" * (MAX_ID_DIGITS + 1)
_DIGITS_AS_ZEROS, _JSON_BLANKS = bytes.maketrans(b"123456789", b"000000000"), b" \t\r\n"


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


_decode_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


@cache
def _id_fields_decoder(fields: tuple[str, ...]) -> msgspec.json.Decoder[Any]:
    """Return the decoder of an object's *fields*, which stay JSON. Others are skipped, and no object is created for them."""
    return msgspec.json.Decoder(
        msgspec.defstruct("IdFields", [(field, msgspec.Raw, msgspec.Raw()) for field in fields])
    )


def token_id_steps(raw: bytes, fields: tuple[str, ...]) -> Generator[None, None, tuple[bytes, dict[str, msgspec.Raw]]]:
    """Return the JSON object *raw* without the values of *fields* that are token ids alone, and these values as JSON.

    So a batch of hundreds of thousands of ids (LangChain sends such) is neither created nor counted as as many values.
    *raw* is returned as it is if it has no more values than another body may have, if they are in other fields, or if it is
    not valid. Each step takes up to 4 ms per MB.
    """
    raw = raw.removeprefix(BYTE_ORDER_MARK)
    marks = count_marks(raw)
    yield
    if marks <= MAX_VALUES:
        return raw, {}
    try:
        known = _id_fields_decoder(fields).decode(raw)
    except DECODE_FAULTS:
        return raw, {}
    yield
    ids = {field: value for field in fields if _is_ids(value := getattr(known, field))}
    yield
    if not ids or marks - sum(count_marks(bytes(value)) for value in ids.values()) > MAX_VALUES:
        return raw, {}
    yield
    kept: dict[str, Any] = {name: None if name in ids else value for name, value in _decode_fields(raw).items()}
    return msgspec.json.encode(kept), ids


def _is_ids(value: msgspec.Raw) -> bool:
    """Whether *value*, valid JSON, is a list of plain numbers, or a list of at most `MAX_ITEMS` such lists."""
    written = bytes(value).translate(_DIGITS_AS_ZEROS, _JSON_BLANKS)
    if not written.startswith(b"[") or _TOO_LONG_ID in written:
        return False
    brackets = written.translate(None, b"0,")
    lists = len(brackets) // 2 - 1
    return lists <= MAX_ITEMS and brackets == b"[" + b"[]" * lists + b"]"
