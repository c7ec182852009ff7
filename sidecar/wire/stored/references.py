"""The stored objects that a request refers to: an earlier response, a conversation, items of either.

Sources: openai-python, `types/responses/response_create_params.py` and `response_input_item_param.py`. vLLM and LM Studio keep
responses too. OpenAI's guide to image generation continues an image by the id of its call alone; reasoning without its content is
continued in the same way.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, TypeAlias

from sidecar.wire.request.json_body import BadRequest

StoredKind: TypeAlias = Literal["response", "conversation", "item"]

PREVIOUS_FIELD, CONVERSATION_FIELD, INPUT_FIELD, ITEMS_FIELD = "previous_response_id", "conversation", "input", "items"
INSTRUCTIONS_FIELD = "instructions"
CACHE_FIELD, COMPARED_FIELD = "prompt_cache_options", "comparison_response_id"
ITEM_REFERENCE, COMPACTION_TRIGGER = "item_reference", "compaction_trigger"
MAX_STORED_ID_LENGTH = 512
"""OpenAI's ids have 53 characters; LiteLLM encodes the deployment in its ids, which then have about 250."""
MAX_REFERENCED_ITEMS = 1_000
"""Agents send all reasoning of a conversation again, each item by its id."""
MAX_READ_ITEMS = 10_000
"""Items of one body. Measured: 8 ms for as many objects."""
_STORED_ID = re.compile(rf"(?!\.+$)[A-Za-z0-9_.:=~+-]{{1,{MAX_STORED_ID_LENGTH}}}")
_REFERRING_FIELDS = frozenset({PREVIOUS_FIELD, CONVERSATION_FIELD, INPUT_FIELD, INSTRUCTIONS_FIELD, CACHE_FIELD})
_CACHE_FIELDS = frozenset({COMPARED_FIELD})
_ITEM_FIELDS = frozenset({"id", "type"})
_COMMON_FIELDS = _REFERRING_FIELDS | {
    "model", "stream", "max_output_tokens", "store", "tools", "tool_choice", "temperature", "include",
}  # fmt: skip
_COMMON_ITEM_FIELDS = _ITEM_FIELDS | {
    "role", "content", "status", "name", "arguments", "call_id", "output", "summary", "encrypted_content", "phase",
}  # fmt: skip
"""Fields in lower case whose spelling is not checked, which saves time."""
_LONGEST_REFERRING_FIELD = max(map(len, _REFERRING_FIELDS))
_LONGEST_ITEM_FIELD = max(map(len, _ITEM_FIELDS))
OWN_CONTENT_FIELDS: Mapping[str, Sequence[str]] = MappingProxyType(
    {"reasoning": ("encrypted_content", "content"), "image_generation_call": ("result",)}
)
"""Fields of an item that make its id needless to the server, by its type."""
_FIELDS_WITHOUT_CONTENT = frozenset({"id", "type", "status", "role", "phase"})


class References(NamedTuple):
    """The ids of the stored objects that a request refers to; empty where it refers to none."""

    response: str = ""
    conversation: str = ""
    items: tuple[str, ...] = ()
    compared: str = ""
    """A response whose cached prompt is compared with that of the request; it adds nothing to the prompt."""

    @property
    def named(self) -> list[tuple[StoredKind, str]]:
        """All of them, each with its kind; `compared` is the last one."""
        found: list[tuple[StoredKind, str]] = [("item", each) for each in self.items]
        if self.conversation:
            found.insert(0, ("conversation", self.conversation))
        if self.response:
            found.insert(0, ("response", self.response))
        if self.compared:
            found.append(("response", self.compared))
        return found


def is_stored_id(name: object) -> bool:
    """Return whether *name* can be the id of a stored object: a string that is safe in a path, of at most 512 characters."""
    return isinstance(name, str) and _STORED_ID.fullmatch(name) is not None


def references_of(body: dict[str, Any], items_field: str = INPUT_FIELD) -> References:
    """Return what *body* refers to by `previous_response_id`, by `conversation`, and by items in *items_field* or instructions.

    Null and an empty string refer to nothing. Raises `BadRequest` for other types, for ids that no server can have made, and
    for too many items. Other spellings of these fields are refused too, because servers in Go read them as the same field.
    Time is linear in the number of fields and items.
    """
    if not body.keys() <= _COMMON_FIELDS:
        _check_spelling(body, _REFERRING_FIELDS, _LONGEST_REFERRING_FIELD, "")
    conversation = body.get(CONVERSATION_FIELD)
    where = CONVERSATION_FIELD
    if isinstance(conversation, dict):
        _check_spelling(conversation, _ITEM_FIELDS, _LONGEST_ITEM_FIELD, f"{CONVERSATION_FIELD}.")
        conversation, where = conversation.get("id"), f"{CONVERSATION_FIELD}.id"
    items: dict[str, None] = {}
    for field in (items_field, INSTRUCTIONS_FIELD):
        _add_items(items, body.get(field), field)
    return References(
        _id_in(body.get(PREVIOUS_FIELD), PREVIOUS_FIELD),
        _id_in(conversation, where),
        tuple(items),
        _compared_in(body.get(CACHE_FIELD)),
    )


def _compared_in(options: object) -> str:
    if not isinstance(options, dict):
        return ""
    _check_spelling(options, _CACHE_FIELDS, len(COMPARED_FIELD), f"{CACHE_FIELD}.")
    return _id_in(options.get(COMPARED_FIELD), f"{CACHE_FIELD}.{COMPARED_FIELD}")


def _id_in(value: object, field: str) -> str:
    if value is None or value == "":
        return ""
    if not is_stored_id(value):
        msg = (
            f"'{field}' must be an id: at most {MAX_STORED_ID_LENGTH} letters, digits, underscores, dashes and dots."
            if isinstance(value, str)
            else f"'{field}' must be a string."
        )
        raise BadRequest(msg, field)
    return str(value)


def _add_items(found: dict[str, None], items: object, items_field: str) -> None:
    """Add the ids of the stored items that *items*, a list or one item, refer to."""
    if isinstance(items, dict):
        items = [items]
    if not isinstance(items, list):
        return
    if len(items) > MAX_READ_ITEMS:
        msg = f"'{items_field}' has {len(items)} items; send at most {MAX_READ_ITEMS}."
        raise BadRequest(msg, items_field)
    for at, item in enumerate(items):
        if not isinstance(item, dict):
            continue
        if not item.keys() <= _COMMON_ITEM_FIELDS:
            _check_spelling(item, _ITEM_FIELDS, _LONGEST_ITEM_FIELD, items_field, at)
        if _refers(item):
            field = f"{items_field}[{at}].id"
            if not (name := _id_in(item.get("id"), field)):
                msg = f"'{field}' must be the id of a stored item."
                raise BadRequest(msg, field)
            found[name] = None
            if len(found) > MAX_REFERENCED_ITEMS:
                msg = f"'{items_field}' refers to more than {MAX_REFERENCED_ITEMS} stored items."
                raise BadRequest(msg, items_field)


def _refers(item: dict[str, Any]) -> bool:
    """Return whether *item* stands for a stored one: `type` may be absent or null in a reference.

    So does an item of any other type that has an id and no content of its own, which only the server can add.
    """
    kind = item.get("type")
    if kind is None:
        return "id" in item and "content" not in item and "role" not in item
    if kind == ITEM_REFERENCE:
        return True
    if item.get("id") in (None, ""):
        return False
    own = OWN_CONTENT_FIELDS.get(kind) if isinstance(kind, str) else None
    if own is None:
        return item.keys() <= _FIELDS_WITHOUT_CONTENT and kind != COMPACTION_TRIGGER
    return not any(item.get(field) for field in own)


def _check_spelling(
    data: dict[str, Any], fields: frozenset[str], longest: int, where: str, at: int | None = None
) -> None:
    """Raise `BadRequest` for a key that equals one of *fields* except for case, or up to a NUL character.

    Measured: 0.3 us for each key. *where* and the index *at* are the place of *data* in the body.
    """
    for key in data:
        start = key[: longest + 1]
        if key in fields or (len(start) > longest and "\0" not in start):
            continue
        if (right := start.partition("\0")[0].casefold()) in fields:
            where = where if at is None else f"{where}[{at}]."
            msg = f"'{where}{key[:100]}' must be spelt '{where}{right}': to some servers it is the same field, to others not."
            raise BadRequest(msg, f"{where}{key[:100]}")
