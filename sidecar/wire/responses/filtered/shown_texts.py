"""Write the text that the client has got into everything that repeats it."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from policies.api.decoding.values import decode_forwarded
from sidecar.wire.decoding.own_choice import DECODE_FAULTS
from sidecar.wire.responses.events.outline import item_key_of, part_names
from sidecar.wire.responses.events.response_event import (
    ARGUMENTS_NAME,
    CODE_NAME,
    DONE_ENDING,
    INPUT_NAME,
    MCP_ARGUMENTS_NAME,
    REFUSAL_NAME,
    REPEATED_FIELDS,
    Key,
    ResponseEvent,
)

from .seen_parts import name_of_part

if TYPE_CHECKING:
    from sidecar.wire.responses.events.outline import Outline

    from .seen_parts import SeenParts

CALL_TEXTS = {
    "function_call": ("arguments", ARGUMENTS_NAME),
    "mcp_call": ("arguments", MCP_ARGUMENTS_NAME),
    "custom_tool_call": ("input", INPUT_NAME),
    "code_interpreter_call": ("code", CODE_NAME),
}
"""The field of a call that repeats its deltas, and the name of those."""


class ShownTexts:
    """Corrects events that repeat texts: *seen* is what upstream sent, *shown* what the client has got."""

    __slots__ = ("_changed", "_seen", "_shown")

    def __init__(self, seen: SeenParts, shown: Outline) -> None:
        self._seen, self._shown, self._changed = seen, shown, False

    def corrected(self, payload: bytes, event: ResponseEvent, withheld: Collection[Key]) -> dict[str, Any] | None:
        """Return the JSON object of *event* with the texts that were shown; None where it has them already.

        *withheld*: calls that are left out of the response object.
        """
        name = event.type
        repeats = event.part is not None or event.item is not None or event.response is not None
        if not repeats and not (name.endswith(DONE_ENDING) and event.repeated):
            return None
        try:
            data = decode_forwarded(payload)
        except DECODE_FAULTS:
            return None
        self._changed = False
        if isinstance(part := data.get("part"), dict):
            for each in part_names(name, event.part):
                self._correct_part(part, event.item_key, each, event.place)
        if isinstance(item := data.get("item"), dict):
            self._correct_item(item, item_key_of(event))
        if isinstance(response := data.get("response"), dict):
            self._correct_response(response, withheld)
        if not repeats:
            text = self._text(event.item_key, name.removesuffix(DONE_ENDING), event.place)
            if text is not None:
                self._put(data, REPEATED_FIELDS, text)
        return data if self._changed else None

    def _text(self, key: Key, name: str, place: int) -> str | None:
        """Return what the client has got of a part; None for a part that had no deltas."""
        if self._seen.seen(key, name, place) is None:
            return None
        part = self._shown.parts.get((key, name, place))
        return "" if part is None else part.text.getvalue()

    def _put(self, data: dict[str, Any], fields: Collection[str], text: str) -> None:
        for field in fields:
            if isinstance(value := data.get(field), str) and value != text:
                data[field] = text
                self._changed = True
                if data.get("logprobs"):
                    data["logprobs"] = []

    def _correct_part(self, part: dict[str, Any], key: Key, name: str, place: int) -> None:
        if (text := self._text(key, name, place)) is not None:
            self._put(part, ("refusal" if name == REFUSAL_NAME else "text",), text)

    def _correct_item(self, item: dict[str, Any], key: Any) -> None:
        for field in ("content", "summary"):
            parts = item.get(field)
            for at, part in enumerate(parts if isinstance(parts, list) else ()):
                if isinstance(part, dict) and (name := name_of_part(part, field)):
                    self._correct_part(part, key, name, at)
        kind = item.get("type")
        field, name = CALL_TEXTS.get(kind, ("", "")) if isinstance(kind, str) else ("", "")
        if field and (text := self._text(key, name, 0)) is not None:
            self._put(item, (field,), text)

    def _correct_response(self, response: dict[str, Any], withheld: Collection[Key]) -> None:
        output = response.get("output")
        if not isinstance(output, list):
            return
        kept = []
        for at, item in enumerate(output):
            identity = item.get("id") if isinstance(item, dict) else None
            key: Any = at if self._seen.has_item(at) or not isinstance(identity, str) else identity
            if key in withheld:
                self._changed = True
                continue
            kept.append(item)
            if isinstance(item, dict):
                self._correct_item(item, key)
        if len(kept) < len(output):
            response["output"] = kept
        if isinstance(response.get("output_text"), str):
            self._put(response, ("output_text",), _joined(output))


def _joined(output: list[Any]) -> str:
    """Return the texts of all messages in *output*, as SDKs join them."""
    messages = [item for item in output if isinstance(item, dict) and item.get("type") == "message"]
    listed = [content for item in messages if isinstance(content := item.get("content"), list)]
    parts = [part for content in listed for part in content if isinstance(part, dict)]
    texts = [part.get("text") for part in parts if part.get("type") == "output_text"]
    return "".join(text for text in texts if isinstance(text, str))
