"""The entries of lists of models as clients see them: permitted ones, by their names, with the size of the context."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import msgspec

from .listed_names import ENTRIES_PER_ITERATION, MAX_MODEL_NAME_LENGTH, entries_of

CONTEXT_FIELDS = ("max_model_len", "context_window", "loaded_context_length")
"""Fields for the effective context in tokens: vLLM and SGLang; Groq; LM Studio. llama.cpp has `meta.n_ctx`.

Fields of the trained size are not among them (`n_ctx_train`, `max_context_length`): a server may be started with less.
Sources: vLLM `entrypoints/openai/engine/protocol.py` (ModelCard), console.groq.com/docs/models, LM Studio's REST API v0.
"""
CONTEXT_MARKS = (*(f'"{field}"'.encode() for field in CONTEXT_FIELDS), b'"n_ctx"')
_PARENT_MARK = b'"parent"'
MAX_CONTEXT_TOKENS = 2**53 - 1
"""The largest number that every JSON reader reads exactly."""
Entries: TypeAlias = "dict[str, msgspec.Raw]"


class _Sizes(msgspec.Struct):
    context_length: msgspec.Raw = msgspec.Raw()
    max_model_len: Any = None
    context_window: Any = None
    loaded_context_length: Any = None
    parent: Any = None
    meta: Any = None


_decode_sizes = msgspec.json.Decoder(_Sizes).decode
_decode_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


async def shown_entries(body: bytes, aliases: Mapping[str, str], permits: Callable[[str], bool]) -> Entries:
    """Return the entries of the list in *body* that *permits* shows, by id, in order; raise `ValueError` if it is no list.

    *aliases* maps the clients' names of models to the server's.  An alias of a listed model is added, with the fields of the
    server's entry.  A server's name that is an alias of another model is left out.  A long list is read in several
    event-loop iterations.
    """
    listed: Entries = {}
    for name, raw in await entries_of(body):
        listed.setdefault(name, raw)
    contexts: dict[str, int] = {}
    shown = {name: _with_context(raw, contexts, name) async for name, raw in _in_iterations(listed)}
    async for name, raw in _in_iterations(listed):
        if _PARENT_MARK in bytes(raw):
            shown[name] = _with_inherited_context(shown[name], raw, contexts)
    named = {alias: renamed(shown[name], alias) for alias, name in aliases.items() if name in shown}
    own = {name: raw for name, raw in shown.items() if name not in aliases}
    return {
        name: raw
        async for name, raw in _in_iterations(own | named)
        if len(name) <= MAX_MODEL_NAME_LENGTH and permits(name)
    }


async def _in_iterations(entries: Entries) -> AsyncIterator[tuple[str, msgspec.Raw]]:
    """Yield the *entries*, a hundred in an event-loop iteration."""
    for at, entry in enumerate(entries.items(), start=1):
        yield entry
        if at % ENTRIES_PER_ITERATION == 0:
            await asyncio.sleep(0)


def merged(lists: Iterable[Entries]) -> Entries:
    """Return the entries of all *lists*; the first one of each id."""
    found: Entries = {}
    for entries in lists:
        for name, raw in entries.items():
            found.setdefault(name, raw)
    return found


def written_list(entries: Sequence[msgspec.Raw]) -> bytes:
    """Return the JSON of a list with *entries*, as OpenAI defines it."""
    return msgspec.json.encode({"object": "list", "data": entries})


def with_entries(body: bytes, entries: Sequence[msgspec.Raw]) -> bytes:
    """Return the list in *body* with other *entries*; its other fields stay."""
    return msgspec.json.encode({**_decode_fields(body), "data": entries})


def shown_entry(body: bytes, alias: str | None) -> bytes:
    """Return the entry of one model in *body* with the size of its context, and with *alias* as its id if one is given.

    A body that is no such entry is returned as it is.
    """
    if alias is None and not any(mark in body for mark in CONTEXT_MARKS):
        return body
    try:
        if "id" not in _decode_fields(body):
            return body
        raw = msgspec.Raw(body) if alias is None else renamed(msgspec.Raw(body), alias)
        return bytes(_with_context(raw, {}, ""))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return body


def renamed(raw: msgspec.Raw, name: str) -> msgspec.Raw:
    """Return the entry in *raw* with *name* as its id."""
    return msgspec.Raw(msgspec.json.encode({**_decode_fields(raw), "id": name}))


def _with_context(raw: msgspec.Raw, contexts: dict[str, int], name: str) -> msgspec.Raw:
    """Return the entry in *raw* with `context_length` if its size is known, which is added to *contexts*."""
    data = bytes(raw)
    if not any(mark in data for mark in CONTEXT_MARKS):
        return raw
    sizes = _decode_sizes(raw)
    for value in (sizes.max_model_len, sizes.context_window, sizes.loaded_context_length, _in_meta(sizes.meta)):
        if type(value) is int and 0 < value <= MAX_CONTEXT_TOKENS:
            contexts[name] = value
            return raw if len(sizes.context_length) else _added(data, value)
    return raw


def _with_inherited_context(shown: msgspec.Raw, raw: msgspec.Raw, contexts: Mapping[str, int]) -> msgspec.Raw:
    """Return the entry *shown*, of an adapter, with the context of its parent: vLLM lists LoRA adapters without one."""
    sizes = _decode_sizes(raw)
    if len(sizes.context_length) or len(shown) != len(raw) or not isinstance(sizes.parent, str):
        return shown
    size = contexts.get(sizes.parent)
    return shown if size is None else _added(bytes(raw), size)


def _added(data: bytes, size: int) -> msgspec.Raw:
    return msgspec.Raw(b'%b,"context_length":%d}' % (data.rstrip()[:-1].rstrip(), size))


def _in_meta(meta: object) -> object:
    return meta.get("n_ctx") if isinstance(meta, dict) else None
