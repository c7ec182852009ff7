"""The ids of what upstream has stored for a call, as its answer names them.

A Responses answer names itself (`id`), its conversation and its output items. A whole answer has them itself. A stream has
them in the object `response` of its first event (`response.created`) and of the terminal one. Reading them costs nothing per delta: only those
events are passed in.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from .references import is_stored_id

if TYPE_CHECKING:
    from policies.api.call import Call

MAX_CREATED_ITEMS = 200
"""Items of one answer whose owner is kept."""
CREATED_STATE = "sidecar.created"
"""The key in a call's `state` under which the `CreatedIds` of its answer are."""


class _Named(msgspec.Struct):
    id: str | None = None


class _Object(msgspec.Struct):
    id: str | None = None
    conversation: _Named | str | None = None
    output: msgspec.Raw = msgspec.Raw(b"null")


class _Event(msgspec.Struct):
    response: _Object | None = None


_decode_object = msgspec.json.Decoder(_Object).decode
_decode_event = msgspec.json.Decoder(_Event).decode
_decode_named = msgspec.json.Decoder(_Named).decode
_decode_list = msgspec.json.Decoder(list[msgspec.Raw]).decode
_DECODING_FAULTS = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


class CreatedIds(msgspec.Struct, eq=False):
    """The ids that an answer has named so far. Ids that no client can refer to later are left out."""

    response: str = ""
    conversation: str = ""
    items: tuple[str, ...] = ()

    def note_event(self, payload: bytes) -> None:
        """Note the ids in the JSON *payload* of `response.created` or of a terminal event. Faulty JSON has none."""
        try:
            found = _decode_event(payload).response
        except _DECODING_FAULTS:
            return
        if found is not None:
            self._note(found)

    def note_answer(self, body: bytes) -> None:
        """Note the ids in *body*, one JSON object: a response or a conversation. Faulty JSON has none."""
        try:
            found = _decode_object(body)
        except _DECODING_FAULTS:
            return
        self._note(found)

    def _note(self, found: _Object) -> None:
        conversation = found.conversation
        if isinstance(conversation, _Named):
            conversation = conversation.id
        if is_stored_id(found.id):
            self.response = found.id or ""
        if is_stored_id(conversation):
            self.conversation = conversation or ""
        self.items = _item_ids(found.output) or self.items


def _item_ids(output: msgspec.Raw) -> tuple[str, ...]:
    """Return the ids of the first 200 items of *output*; none if it is no list."""
    names = []
    try:
        for raw in _decode_list(output)[:MAX_CREATED_ITEMS]:
            name = _decode_named(raw).id
            if name is not None and is_stored_id(name):
                names.append(name)
    except _DECODING_FAULTS:
        pass  # the items before the faulty one are known
    return tuple(names)


def created_by(call: Call) -> CreatedIds | None:
    """Return the ids that the answer of *call* has named; None for a call whose answer is not stored."""
    found = call.state.get(CREATED_STATE)
    return found if isinstance(found, CreatedIds) else None
