"""Read `[[key]]`: the clients that may call, their tenants, and what each may use.

Without keys every client belongs to the tenant `default`.  With keys a request needs one, in `Authorization`, `api-key` or
`x-api-key`.  The file holds only the SHA-256 of each key: reading the file is not enough to make calls.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from hashlib import sha256
from secrets import token_urlsafe
from typing import Annotated, Any, TypeAlias

import msgspec

from policies.api.policy import Policy
from policies.builtin.option_checks import raise_faults
from sidecar.wire.request.documented_fields import ForwardedFields

from .access import Access, KeyHash, Profile
from .key_values.expiry import last_moment
from .key_values.texts import HASH_FAULT, MAX_HASHES, comment_fault, id_fault, is_hash, tenant_fault
from .key_values.toml_text import table_text
from .profiles import apply_key_limits
from .tables import ConfigFault, to_struct
from .upstream import Text

KEY_PREFIX = "sk-sidecar-"


LastDay: TypeAlias = Annotated[Any, msgspec.Meta(description="a date or date-time")]
"""A TOML date or date-time; `last_moment` reads it."""


class RetiringHash(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One hash of a list with a date of its own, as the old one during a rotation."""

    sha256: str
    not_after: LastDay

    def __post_init__(self) -> None:
        hash_faults = [f"sha256: {HASH_FAULT}"] if not is_hash(self.sha256) else []
        raise_faults(hash_faults, _date_faults(self.not_after))


HashList: TypeAlias = Annotated[tuple[str | RetiringHash, ...], msgspec.Meta(min_length=1, max_length=MAX_HASHES)]


class KeySettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[[key]]`: its tenant, the SHA-256 of the key, and its permissions.

    *sha256* may list several hashes: each is a key of its own with the same permissions, so that a key can be rotated.  After
    *not_after* the key is refused.  *profiles* and *models* restrict what the key may use; without them it may use all.
    *limits* override fields of policies, by policy name.  With *fields* = "known" only documented fields of its requests are
    forwarded.
    """

    tenant: str
    sha256: str | HashList
    id: str = ""
    not_after: LastDay = None
    profiles: Annotated[tuple[Text, ...], msgspec.Meta(min_length=1)] | None = None
    models: Annotated[tuple[Text, ...], msgspec.Meta(min_length=1)] | None = None
    limits: dict[str, Any] = msgspec.field(default_factory=dict)
    fields: ForwardedFields = "any"
    comment: str = ""

    def __post_init__(self) -> None:
        dates = _date_faults(self.not_after)
        raise_faults(self._tenant_faults(), self._hash_faults(), self._id_faults(), dates, self._comment_faults())

    @property
    def hashes(self) -> tuple[KeyHash, ...]:
        """The hashes, each with its last moment: its own date or that of the key, whichever is earlier."""
        entries = (self.sha256,) if isinstance(self.sha256, str) else self.sha256
        end = last_moment(self.not_after)
        return tuple(
            KeyHash(bytes.fromhex(each), end)
            if isinstance(each, str)
            else KeyHash(bytes.fromhex(each.sha256), min(end, last_moment(each.not_after)))
            for each in entries
        )

    def _tenant_faults(self) -> Iterator[str]:
        if fault := tenant_fault(self.tenant):
            yield f"tenant: {fault}"

    def _hash_faults(self) -> Iterator[str]:
        if isinstance(self.sha256, str):
            if not is_hash(self.sha256):
                yield f"sha256: {HASH_FAULT}"
            return
        for at, each in enumerate(self.sha256):
            if isinstance(each, str) and not is_hash(each):
                yield f"sha256[{at}]: {HASH_FAULT}"

    def _id_faults(self) -> Iterator[str]:
        if self.id and (fault := id_fault(self.id)):
            yield f"id: {fault}"

    def _comment_faults(self) -> Iterator[str]:
        if fault := comment_fault(self.comment):
            yield f"comment: {fault}"


def _date_faults(value: object) -> Iterator[str]:
    try:
        last_moment(value)
    except ValueError as error:
        yield f"not_after: {error}"


def read_keys(
    entries: object,
    base: Profile,
    profiles: Mapping[str, Profile],
    broken: Mapping[str, type[Policy] | None],
    faults: list[ConfigFault],
) -> tuple[Access, ...]:
    """Return the permissions of each `[[key]]` of *entries*; add faults to *faults*.

    *profiles* are the chains by name, *broken* the policies that have a fault of their own.
    """
    if not isinstance(entries, list):
        faults.append(ConfigFault("key", "expected a list of tables", "write each key below [[key]]"))
        return ()
    found = [
        _access(entry, f"key[{at}]", base, profiles, broken=broken, faults=faults) for at, entry in enumerate(entries)
    ]
    faults += _duplicates(found)
    return tuple(access for access in found if access is not None)


def _duplicates(found: Sequence[Access | None]) -> Iterator[ConfigFault]:
    """Yield a fault for each hash and each id that a key before has too. None stands for a faulty key."""
    hashes: dict[bytes, str] = {}
    ids: dict[str, str] = {}
    for at, access in enumerate(found):
        if access is None:
            continue
        path = f"key[{at}]"
        if access.key_id in ids:
            problem = f"{access.key_id!r} is already the id of {ids[access.key_id]}"
            yield ConfigFault(f"{path}.id", problem, "choose another id for one of them")
        if access.key_id:
            ids.setdefault(access.key_id, path)
        is_list = isinstance(access.table.get("sha256"), list)
        for number, each in enumerate(access.hashes):
            where, first = f"{path}.sha256[{number}]" if is_list else f"{path}.sha256", hashes.get(each.digest)
            if first == path:
                yield ConfigFault(where, "the list has this hash already", "remove one of the two")
            elif first is not None:
                yield ConfigFault(
                    where, f"same key as {first}", "create a separate key for each with `sidecar key new`"
                )
            hashes.setdefault(each.digest, path)


def _access(
    entry: object,
    path: str,
    base: Profile,
    profiles: Mapping[str, Profile],
    *,
    broken: Mapping[str, type[Policy] | None],
    faults: list[ConfigFault],
) -> Access | None:
    settings = to_struct(KeySettings, entry, path, faults)
    if settings is None:
        names, limits = (entry.get("profiles"), entry.get("limits")) if isinstance(entry, dict) else (None, None)
        if isinstance(names, list):
            tuple(_allowed([name for name in names if isinstance(name, str)], profiles, path, faults))
        if isinstance(limits, dict):
            apply_key_limits(base, base, limits, path, broken=broken, faults=faults)
        return None
    allowed = None if settings.profiles is None else tuple(_allowed(settings.profiles, profiles, path, faults))
    own_base = apply_key_limits(base, base, settings.limits, path, broken=broken, faults=faults)
    return Access(
        tenant=settings.tenant,
        key_id=settings.id,
        hashes=settings.hashes,
        table=entry if isinstance(entry, dict) else {},
        base=own_base,
        profiles={
            name: apply_key_limits(each, base, settings.limits, path, broken=broken, faults=[])
            for name, each in profiles.items()
        },
        allowed=allowed,
        models=settings.models,
        fields=settings.fields,
    )


def _allowed(
    names: Iterable[str], profiles: Mapping[str, Profile], path: str, faults: list[ConfigFault]
) -> Iterable[str]:
    for at, name in enumerate(names):
        wanted = name.strip().lower()
        if wanted not in profiles:
            cure = f"use one of {', '.join(sorted(profiles))}" if profiles else "add a [profile.NAME], or omit profiles"
            faults.append(ConfigFault(f"{path}.profiles[{at}]", f"unknown profile {name!r}", cure))
        yield wanted


def new_key(tenant: str, **more: object) -> str:
    """Return a new random key on the first line, and below it the `[[key]]` table to add to the configuration.

    *more* are further keys of the table, such as `not_after`; those that are None are left out.
    """
    token, digest = random_key()
    table = {"id": more.pop("id", None), "tenant": tenant, "sha256": digest, **more}
    return f"{token}\n\n{table_text('[[key]]', {name: value for name, value in table.items() if value is not None})}"


def random_key() -> tuple[str, str]:
    """Return a new random key and its SHA-256 in hexadecimal."""
    token = KEY_PREFIX + token_urlsafe(32)
    return token, sha256(token.encode()).hexdigest()
