"""The list of models, or the entry of one, as an attempt."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from urllib.parse import quote

import msgspec

from sidecar.upstream.errors.classify import from_object
from sidecar.wire.error_object import MalformedAnswer
from sidecar.wire.request.openai_request import ENCODED_SLASH_STATE, MODEL_ROUTE

from .plain_attempt import WholeAttempt

MAX_LISTED_VALUES = 100_000
"""Values of a list that is reduced for a client: OpenRouter's list of 400 models has 25,000."""
ENTRIES_PER_ITERATION = 100
MAX_MODEL_NAME_LENGTH = 256
"""Characters of a name that is compared with patterns; a longer one is left out."""


class ModelListAttempt(WholeAttempt):
    """The list as upstream sent it, or one entry of it.

    For a client that may use some models only, the list is reduced to these.
    """

    async def _body(self) -> bytes:
        return await (self._one() if self._call.path == MODEL_ROUTE else self._listed())

    async def _one(self) -> bytes:
        call, upstream = self._call, self._upstream
        path = _encoded(upstream.settings.named(call.model), encodes_slashes=ENCODED_SLASH_STATE in call.state)
        return await upstream.models(call.forwarded_headers, f"/models/{path}", call)

    async def _listed(self) -> bytes:
        call, upstream = self._call, self._upstream
        body = await upstream.models(call.forwarded_headers, call=call)
        if call.permitted_models is None:
            return body
        try:
            return await permitted_list(body, call.permitted_models, upstream.settings.models)
        except ValueError:
            malformed = MalformedAnswer("the list of models is not as OpenAI defines it, or too long")
            raise from_object(malformed, upstream.asked) from None


class _List(msgspec.Struct):
    data: list[msgspec.Raw]


class _Entry(msgspec.Struct):
    id: str


def _encoded(name: str, *, encodes_slashes: bool) -> str:
    """Return *name* percent-encoded.  Servers differ in which form of a slash they accept, so the client's is kept."""
    return quote(name, safe=":@" if encodes_slashes else ":@/")


async def permitted_list(body: bytes, patterns: Sequence[str], aliases: Mapping[str, str]) -> bytes:
    """Return the list of models in *body* with those that *patterns* permit; raise `ValueError` if it is no list.

    *aliases* maps the clients' names of models, or patterns of names, to the server's.  A permitted alias of a listed model
    is added, with the fields of the server's entry.  A server's name that is an alias of another model is left out.  A long
    list is read in several event-loop iterations.
    """

    def permits(name: str) -> bool:
        return len(name) <= MAX_MODEL_NAME_LENGTH and any(fnmatchcase(name, pattern) for pattern in patterns)

    if body.count(b",") > MAX_LISTED_VALUES:
        msg = "the list of models is too long"
        raise ValueError(msg)
    names = {alias: name for alias, name in aliases.items() if alias != name and not _is_pattern(alias)}
    targets = frozenset(names.values())
    entries: dict[str, msgspec.Raw] = {}
    shown = []
    for at, raw in enumerate(msgspec.json.decode(body, type=_List).data, start=1):
        name = msgspec.json.decode(raw, type=_Entry).id
        if name in targets:
            entries[name] = raw
        if name not in names and permits(name):
            shown.append(raw)
        if at % ENTRIES_PER_ITERATION == 0:
            await asyncio.sleep(0)
    for alias, name in names.items():
        if name in entries and permits(alias):
            fields = msgspec.json.decode(entries[name], type=dict[str, msgspec.Raw])
            shown.append(msgspec.Raw(msgspec.json.encode({**fields, "id": alias})))
    return msgspec.json.encode({"object": "list", "data": shown})


def _is_pattern(name: str) -> bool:
    return any(character in name for character in "*?[")
