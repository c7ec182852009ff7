"""The tenants and upstreams of stored responses, conversations and items, kept as entries of the store.

An entry is written when the call ends that created the object, before its client can read the end of the answer. It has
digests of the id, the tenant and the upstream's name, and the tokens of the conversation up to there. If an entry cannot be
written, or has been dropped, the object has no owner: with API keys, a request that refers to it is refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from typing import TYPE_CHECKING, TypeAlias

import msgspec

from policies.api.store import MAX_ENTRIES_AT_ONCE

if TYPE_CHECKING:
    from policies.api.store import EntryStore
    from sidecar.wire.stored.references import StoredKind

    StoredName: TypeAlias = tuple[StoredKind, str]

STORED_SECONDS = 30 * 86_400.0
"""How long an entry is kept after it was written: OpenAI keeps responses for 30 days."""
DIGEST_BYTES = 16
MAX_STORED_TOKENS = 2**53 - 1


class NotOwned(Exception):
    """A request names a stored object that its tenant does not have: in its path, or in its body."""

    def __init__(self, kind: StoredKind, stored_id: str, *, in_path: bool = False) -> None:
        super().__init__(kind)
        self.kind, self.stored_id, self.in_path = kind, stored_id, in_path


class OwnersUnavailable(Exception):
    """A request names a stored object while the store is down, so that its owner is unknown."""


class StoredObject(msgspec.Struct, frozen=True):
    """A stored object of a tenant: the upstream that has it, and the tokens that it adds to a prompt.

    `origin` identifies the response that an item is part of: several items of it add their tokens once.
    """

    upstream: str
    tokens: int
    origin: bytes = b""


class _Entry(msgspec.Struct, frozen=True, array_like=True):
    tenant: bytes
    upstream: bytes
    tokens: int
    origin: bytes = b""


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Entry).decode


class ResponseOwners:
    """Finds and keeps the owners of stored objects.

    *upstreams* are the names of those that are configured. *keyed*: clients have API keys, so that an object without a known
    owner is refused. All methods raise `StoreDown`.
    """

    def __init__(self, entries: EntryStore, upstreams: Sequence[str], *, keyed: bool) -> None:
        self._entries, self.keyed = entries, keyed
        self._upstreams = {_digest(name): name for name in upstreams}

    async def owned(self, tenant: str, name: StoredName) -> StoredObject | None:
        """Return the object *name* (kind and id) of *tenant*; None for an unknown one, and for another tenant's."""
        (found,) = await self.all_owned(tenant, [name])
        return found

    async def all_owned(self, tenant: str, names: Sequence[StoredName]) -> list[StoredObject | None]:
        """Return the objects *names* of *tenant* in their order; see `owned`."""
        entries, own = await self._recalled(names), _digest(tenant)
        return [self._visible(entry) if entry is not None and entry.tenant == own else None for entry in entries]

    async def has_other_owner(self, tenant: str, name: StoredName) -> bool:
        """Whether *name* is known to belong to another tenant."""
        (entry,) = await self._recalled([name])
        return entry is not None and entry.tenant != _digest(tenant)

    async def remember(
        self,
        tenant: str,
        upstream: str,
        objects: Mapping[StoredName, int],
        *,
        origin: str = "",
        conversation_before: int = MAX_STORED_TOKENS,
    ) -> None:
        """Keep *tenant* as the owner of *objects* at *upstream*, each with its tokens. *origin* is the response of items.

        *conversation_before* are the tokens of a conversation when the call began: what other calls have added since is
        added to its new number.

        An object of another tenant stays with it: some servers let clients choose the id of a response (vLLM's `request_id`),
        so its answer proves nothing.
        """
        if not objects:
            return
        own, place, made_by = _digest(tenant), _digest(upstream), _digest(origin)
        names, entries = list(objects), {}
        for name, known in zip(names, await self._recalled(names), strict=True):
            if known is not None and known.tenant != own:
                continue
            tokens = objects[name]
            if name[0] == "conversation" and known is not None:
                tokens += max(0, known.tokens - conversation_before)
            entry = _Entry(own, place, min(tokens, MAX_STORED_TOKENS), made_by if name[0] == "item" else b"")
            entries[_key(name)] = _encode(entry)
        if entries:
            await self._entries.remember(entries, STORED_SECONDS)

    async def forget(self, names: Iterable[StoredName]) -> None:
        """Drop the entries of *names*: the objects have been deleted."""
        await self._entries.forget(list(map(_key, names)))

    async def _recalled(self, names: Sequence[StoredName]) -> list[_Entry | None]:
        found: list[_Entry | None] = []
        for at in range(0, len(names), MAX_ENTRIES_AT_ONCE):
            keys = list(map(_key, names[at : at + MAX_ENTRIES_AT_ONCE]))
            found += map(_decoded, await self._entries.recall(keys))
        return found

    def _visible(self, entry: _Entry) -> StoredObject | None:
        """Return the object of *entry*; None if its upstream is not configured any more."""
        upstream = self._upstreams.get(entry.upstream)
        return None if upstream is None else StoredObject(upstream, entry.tokens, entry.origin)


def _key(name: StoredName) -> str:
    kind, stored_id = name
    return f"{kind}:{sha256(stored_id.encode()).hexdigest()}"


def _digest(text: str) -> bytes:
    return sha256(text.encode()).digest()[:DIGEST_BYTES]


def _decoded(value: bytes | None) -> _Entry | None:
    """Return the entry in *value*; None for one of another release that has another form."""
    if value is None:
        return None
    try:
        return _decode(value)
    except msgspec.MsgspecError:
        return None
