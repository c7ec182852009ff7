"""Read `[[key]]`: the clients that may call, their tenants, and what each may use.

Without keys every client belongs to the tenant `default`.  With keys a request needs one, in `Authorization`, `api-key` or
`x-api-key`.  The file holds only the SHA-256 of each key: reading the file is not enough to make calls.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from hashlib import sha256
from secrets import token_urlsafe
from typing import Annotated, Any

import msgspec

from policies.api.claim import MAX_IDENTITY_LENGTH
from policies.api.policy import Policy
from policies.builtin.option_checks import raise_faults
from sidecar.wire.request.documented_fields import ForwardedFields

from .access import Access, Profile
from .profiles import apply_key_limits
from .tables import ConfigFault, to_struct
from .upstream import Text

KEY_PREFIX = "sk-sidecar-"
SHA256_PATTERN = re.compile("[0-9a-fA-F]{64}")


class KeySettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[[key]]`: its tenant, the SHA-256 of the key, and its permissions.

    *profiles* and *models* restrict what the key may use; without them it may use all.  *limits* override fields of policies,
    by policy name.  With *fields* = "known" only documented fields of its requests are forwarded.
    """

    tenant: str
    sha256: str
    profiles: Annotated[tuple[Text, ...], msgspec.Meta(min_length=1)] | None = None
    models: Annotated[tuple[Text, ...], msgspec.Meta(min_length=1)] | None = None
    limits: dict[str, Any] = msgspec.field(default_factory=dict)
    fields: ForwardedFields = "any"

    def __post_init__(self) -> None:
        raise_faults(self._tenant_faults(), self._hash_faults())

    def _tenant_faults(self) -> Iterator[str]:
        if not (self.tenant.strip() and self.tenant.isprintable() and len(self.tenant) <= MAX_IDENTITY_LENGTH):
            yield f"tenant: invalid name; use 1 to {MAX_IDENTITY_LENGTH} printable characters"

    def _hash_faults(self) -> Iterator[str]:
        if not SHA256_PATTERN.fullmatch(self.sha256):
            yield "sha256: not a SHA-256 (64 hexadecimal digits); create key and hash with `sidecar key new`"


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
    known: dict[str, str] = {}
    found = [
        _access(entry, f"key[{at}]", base, profiles, broken=broken, faults=faults) for at, entry in enumerate(entries)
    ]
    for at, access in enumerate(found):
        if access is None:
            continue
        path = f"key[{at}].sha256"
        if access.digest.hex() in known:
            faults.append(
                ConfigFault(
                    path,
                    f"same key as {known[access.digest.hex()]}",
                    "create a separate key for each with `sidecar key new`",
                )
            )
        known.setdefault(access.digest.hex(), f"key[{at}]")
    return tuple(access for access in found if access is not None)


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
        digest=bytes.fromhex(settings.sha256),
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


def new_key(tenant: str) -> str:
    """Return a new random key on the first line, and below it the `[[key]]` table to add to the configuration."""
    token = KEY_PREFIX + token_urlsafe(32)
    name = msgspec.json.encode(tenant).decode()
    return f'{token}\n\n[[key]]\ntenant = {name}\nsha256 = "{sha256(token.encode()).hexdigest()}"\n'
