"""Keep the documented fields of a request, for `fields = "known"`: what is not documented is dropped, nested names included.

So no server gets a ceiling, a count or a route under a name that limits do not read. The dropped names are in the call's
record. The text of messages, schemas and grammars is forwarded as it is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from .documented_fields import (
    DOCUMENTED_FIELDS,
    MESSAGE_NAMES,
    TOOL_BODIES,
    TOOL_FIELDS,
    TOOL_TYPES,
    FieldKind,
    FieldShape,
    adds_tools,
)
from .json_body import BadRequest
from .routing_fields import (
    MAX_FIELD_NAME_LENGTH,
    MAX_JUDGED_VALUES,
    decoded_field,
    is_routing_name,
    may_hide_object,
    name_cost,
)

CLIENT_FIELDS_STATE = "sidecar.client_fields"
"""The key in a call's `state` for its fields as the client sent them, where only some upstreams receive all of them."""
DROP_COST = 2
"""What a dropped name counts of `MAX_JUDGED_VALUES`. Measured: 10 ms for all of them in messages."""
MAX_NAMED_FIELDS = 5
"""Dropped fields that a note names; the others are counted."""
_PLAIN_NAME = re.compile("[A-Za-z_]{1,40}")
"""Names that a note shows. Others may be text or a key of the client, which does not belong in a log."""
_COUNT_STEM = re.compile("token|predict|maxlen|length|bestof|budget|numreturn|ncmpl|candidate")
_COUNT_NAMES = frozenset({"n", "length"})
_NOT_LETTERS = re.compile(r"[\W_]+")
_TOOL_SETTINGS = ("tool_choice", "parallel_tool_calls")


class DocumentedPart:
    """The documented part of one request's *body*, which stays as it is: `body` is the copy, without the dropped fields.

    *fields* are those that the API documents. With *original*, only values that are still those of *original* are judged: policies have set the others. Of messages
    and `stream_options` only the documented names are kept in any case. Time is linear. Raises `BadRequest` for a body with
    too many names and values to judge, by `MAX_JUDGED_VALUES`.
    """

    __slots__ = ("_left", "_named", "body", "dropped")

    def __init__(
        self,
        body: Mapping[str, Any],
        original: Mapping[str, Any] | None = None,
        *,
        fields: Mapping[str, FieldShape] = DOCUMENTED_FIELDS,
    ) -> None:
        self._left, self.dropped = MAX_JUDGED_VALUES, 0
        self._named: list[str] = []
        judged, kept = body, {}
        if original is not None:
            is_ours = {name for name, value in body.items() if original.get(name, self) is not value}
            is_ours -= {"messages", "stream_options"}
            kept = {name: body[name] for name in is_ours}
            judged = {name: value for name, value in body.items() if name not in is_ours}
        part = self._fields(judged, fields, "")
        if isinstance(messages := part.get("messages"), list):
            part["messages"] = self._messages(messages)
        if "tools" in judged and "tools" not in part:
            for name in _TOOL_SETTINGS:
                part.pop(name, None)
        self.body: dict[str, Any] = {**part, **kept}
        """The fields to forward."""

    def note(self) -> str:
        """Return a line about the dropped fields for the call's record; empty if there are none."""
        if not self.dropped:
            return ""
        more = self.dropped - len(self._named)
        also = [f"{more} more"] if self._named and more else []
        return f"dropped fields that are not documented: {', '.join([*self._named, *also]) or self.dropped}"

    def _drop(self, where: str, name: str) -> None:
        self._judge(DROP_COST)
        self.dropped += 1
        if len(self._named) < MAX_NAMED_FIELDS and _PLAIN_NAME.fullmatch(name):
            self._named.append(where + name)

    def _judge(self, cost: int) -> None:
        self._left -= cost
        if self._left < 0:
            msg = f"The body has too many fields that are not documented, more than {MAX_JUDGED_VALUES}. Remove them."
            raise BadRequest(msg)

    def _fields(self, found: Mapping[str, Any], table: Mapping[str, FieldShape], where: str) -> dict[str, Any]:
        part = {}
        if where:
            self._judge(len(found))
        for name, value in found.items():
            shape = table.get(name)
            if shape is None:
                self._drop(where, name)
            elif (
                shape is FieldKind.CONTENT
                or value is None
                or isinstance(value, int | float)
                or (shape is FieldKind.SETTING and isinstance(value, str))
            ):
                part[name] = value
            elif (kept := self._value(_decoded(value), shape, where + name)) is not None:
                part[name] = kept
            else:
                self._drop(where, name)
        return part

    def _value(self, value: Any, shape: FieldShape, path: str) -> Any:
        """Return the documented part of *value*; None if it has none."""
        if not isinstance(value, list | dict):
            return None if may_hide_object(value, shape) else value
        if shape is FieldKind.VARIABLES:
            return self._variables(value, f"{path}.")
        if shape is FieldKind.TOOLS:
            return self._tools(value) if isinstance(value, list) else None
        if shape is FieldKind.ITEMS:
            return self._items(value) if isinstance(value, list) else self._item(value, path)
        if isinstance(value, list):
            self._judge(len(value))
            return None if any(isinstance(each, list | dict) for each in value) else value
        return None if isinstance(shape, FieldKind) else self._fields(value, shape, f"{path}.")

    def _variables(self, value: Any, where: str) -> Any:
        if isinstance(value, list):
            self._judge(len(value))
            return [self._variables(each, where) for each in value]
        if not isinstance(value, dict):
            return value
        part = {}
        for name, each in value.items():
            self._judge(name_cost(name))
            if len(name) > MAX_FIELD_NAME_LENGTH or _is_count(name) or is_routing_name(name):
                self._drop(where, name)
            else:
                part[name] = self._variables(each, where)
        return part

    def _tools(self, tools: list[Any], where: str = "") -> list[Any] | None:
        self._judge(len(tools))
        part = []
        for at, tool in enumerate(tools):
            kind = tool.get("type") if isinstance(tool, dict) else ""
            if (kind is None or kind in TOOL_TYPES) and not TOOL_BODIES.isdisjoint(tool):
                part.append(self._fields(tool, TOOL_FIELDS, f"{where}tools[{at}]."))
            else:
                self._drop(f"{where}tools[{at}].", "type")
        return part or None

    def _items(self, items: list[Any]) -> list[Any]:
        if not any(map(adds_tools, items)):
            return items
        return [self._item(item, f"input[{at}]") for at, item in enumerate(items)]

    def _item(self, item: Any, where: str) -> Any:
        """Return *item* without tools that the server runs."""
        if not adds_tools(item):
            return item
        tools = item["tools"]
        kept = self._tools(tools, f"{where}.") if isinstance(tools, list) else None
        if kept is None and tools:
            self._drop(f"{where}.", "tools")
        return item | {"tools": kept or []}

    def _messages(self, messages: list[Any]) -> list[Any]:
        part = messages
        for at, message in enumerate(messages):
            if MESSAGE_NAMES.issuperset(message):
                continue
            kept = {}
            for name, value in message.items():
                if name in MESSAGE_NAMES:
                    kept[name] = value
                else:
                    self._drop(f"messages[{at}].", name)
            part = list(messages) if part is messages else part
            part[at] = kept
        return part


def _is_count(name: str) -> bool:
    """Whether *name* is that of a ceiling or of a number of answers."""
    folded = _NOT_LETTERS.sub("", name.casefold())
    return folded in _COUNT_NAMES or _COUNT_STEM.search(folded) is not None


def _decoded(value: Any) -> Any:
    """Return *value*, decoded if it is not yet; None if it is too large or cannot be read."""
    if not isinstance(value, msgspec.Raw):
        return value
    try:
        return decoded_field(value)
    except ValueError:
        return None
