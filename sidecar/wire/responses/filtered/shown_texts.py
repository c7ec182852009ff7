"""Write the text that the client has got into everything that repeats it."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

import msgspec

from policies.api.decoding.choices import MAX_CHOICES
from policies.api.decoding.values import decode_forwarded
from sidecar.wire.decoding.own_choice import DECODE_FAULTS, decode_fields
from sidecar.wire.responses.events.outline import item_id_of, item_key_of, part_names
from sidecar.wire.responses.events.output_items import PART_LISTS, item_texts, output_items, text_of_part
from sidecar.wire.responses.events.response_event import (
    ARGUMENTS_NAME,
    CODE_NAME,
    DONE_ENDING,
    INPUT_NAME,
    MCP_ARGUMENTS_NAME,
    REFUSAL_NAME,
    REPEATED_FIELDS,
    SUMMARY_NAME,
    TERMINAL_TYPES,
    TEXT_NAME,
    Key,
    ResponseEvent,
)
from sidecar.wire.whole_answer import AnswerTooComplex, first_items

if TYPE_CHECKING:
    from sidecar.wire.responses.events.outline import Outline

    from .seen_parts import SeenParts

MAX_DECODED_BYTES = 65_536
"""Bytes of a field that is decoded to write it again; a larger one stays JSON."""
CALL_TEXTS = {
    "function_call": ("arguments", ARGUMENTS_NAME),
    "mcp_call": ("arguments", MCP_ARGUMENTS_NAME),
    "custom_tool_call": ("input", INPUT_NAME),
    "code_interpreter_call": ("code", CODE_NAME),
}
"""The field of a call that repeats its deltas, and the name of those."""


class ShownTexts:
    """Corrects events that repeat texts: *seen* is what upstream sent, *shown* what the client has got."""

    __slots__ = ("_seen", "_shown")

    def __init__(self, seen: SeenParts, shown: Outline) -> None:
        self._seen, self._shown = seen, shown

    def corrected(self, payload: bytes, event: ResponseEvent, withheld: Collection[Key]) -> dict[str, Any] | None:
        """Return the fields of *event* with the texts that were shown; None where it has them already.

        *withheld*: calls that are left out of the response object. Large fields stay JSON.
        """
        name = event.type
        changed: dict[str, Any] = {}
        if event.part is not None:
            for each in part_names(name, event.part):
                changed |= self._part_change(event.part, event.item_key, each, event.place)
        elif event.item is not None:
            if (item := self._changed_item(event.item, item_key_of(event))) is not None:
                changed["item"] = item
        elif event.response is not None:
            is_last = name in TERMINAL_TYPES
            if (response := self._changed_response(event.response, withheld, is_last=is_last)) is not None:
                changed["response"] = response
        elif name.endswith(DONE_ENDING) and event.repeated:
            text = self._text(event.item_key, name.removesuffix(DONE_ENDING), event.place)
            if text is not None and text != event.repeated:
                fields = shallow_fields(payload)
                changed = {field: text for field in REPEATED_FIELDS if isinstance(fields.get(field), str)}
                changed |= {"logprobs": []} if "logprobs" in fields else {}
        return {**shallow_fields(payload), **changed} if changed else None

    def _text(self, key: Key, name: str, place: int) -> str | None:
        """Return what the client has got of a part; None for a part that had no deltas. Empty beyond the kept parts."""
        if self._seen.seen(key, name, place) is None:
            return "" if self._seen.is_full else None
        part = self._shown.parts.get((key, name, place))
        return "" if part is None else part.text.getvalue()

    def _part_change(self, raw: msgspec.Raw, key: Key, name: str, place: int) -> dict[str, Any]:
        text = self._text(key, name, place)
        return {} if text is None or text == text_of_part(raw) else {"part": _with_text(raw, name, text)}

    def _changed_item(self, raw: msgspec.Raw, key: Key) -> dict[str, Any] | None:
        """Return the item in *raw* with the texts that were shown; None where it has them.

        A list with more parts than are read becomes empty: the client has got their texts by deltas.
        """
        changes = [
            (found, text)
            for found in item_texts(raw)
            if (text := self._text(key, found.name, found.place)) is not None and text != found.text
        ]
        fields = shallow_fields(bytes(raw))
        unread = [listed for listed in PART_LISTS if _is_unread(fields.get(listed))]
        kind = fields.get("type")
        field, name = CALL_TEXTS.get(kind, ("", "")) if isinstance(kind, str) else ("", "")
        called = self._text(key, name, 0) if field and isinstance(fields.get(field), str) else None
        is_same = called is None or called == fields[field]
        if is_same and not changes and not unread:
            return None
        if not is_same:
            fields[field] = called
        for found, text in changes:
            listed = "summary" if found.name == SUMMARY_NAME else "content"
            parts = fields[listed] = _listed(fields[listed])
            parts[found.place] = _with_text(parts[found.place], found.name, text)
        return fields | {listed: [] for listed in unread}

    def _changed_response(self, raw: msgspec.Raw, withheld: Collection[Key], *, is_last: bool) -> dict[str, Any] | None:
        """Return the response object in *raw* with the texts that were shown; None where it has them.

        Its output becomes empty if it has more items than are read, and before the end, when policies have not seen it yet.
        """
        fields = shallow_fields(bytes(raw))
        items = output_items(raw)
        kept: list[Any] = []
        is_same = not _is_unread(fields.get("output")) and (is_last or not items)
        for at, item in enumerate(items if is_last else ()):
            key = self._seen.key_in_output(item_id_of(item), at)
            if key in withheld:
                is_same = False
                continue
            changed = self._changed_item(item, key)
            is_same = is_same and changed is None
            kept.append(item if changed is None else changed)
        shown = fields.get("output_text")
        if isinstance(shown, msgspec.Raw | str):
            text = "".join(part.text.getvalue() for part in self._shown.parts.values() if part.name == TEXT_NAME)
            is_same = is_same and (decode_forwarded(shown) if isinstance(shown, msgspec.Raw) else shown) == text
            fields["output_text"] = text
        if is_same:
            return None
        if isinstance(fields.get("output"), msgspec.Raw | list):
            fields["output"] = kept
        return fields


def shallow_fields(payload: bytes) -> dict[str, Any]:
    """Return the fields of the JSON object in *payload*, of which large ones stay JSON; empty for anything else."""
    try:
        fields = decode_fields(payload)
        return {name: raw if len(raw) > MAX_DECODED_BYTES else decode_forwarded(raw) for name, raw in fields.items()}
    except DECODE_FAULTS:
        return {}


def _is_unread(value: Any) -> bool:
    """Whether *value*, a list that may be JSON, has more items than are read."""
    if isinstance(value, list):
        return len(value) > MAX_CHOICES
    try:
        if isinstance(value, msgspec.Raw):
            first_items(value)
    except AnswerTooComplex:
        return True
    return False


def _listed(value: Any) -> list[Any]:
    """Return a list of parts, which may be JSON."""
    return list(first_items(value)) if isinstance(value, msgspec.Raw) else list(value)


def _with_text(part: Any, name: str, text: str) -> dict[str, Any]:
    """Return *part*, which may be JSON, with *text* and without the log probabilities of its own."""
    fields = shallow_fields(bytes(part)) if isinstance(part, msgspec.Raw) else dict(part)
    fields["refusal" if name == REFUSAL_NAME else "text"] = text
    if "logprobs" in fields:
        fields["logprobs"] = []
    return fields
