"""`[[key]]`: who may call, for whom it counts, and what each may use.

Without keys everybody is the tenant `default`.  With them a call needs `Authorization: Bearer KEY`; the file knows only the
SHA-256 of each, so whoever reads it cannot call.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from hashlib import sha256
from secrets import token_urlsafe
from typing import Annotated, Any

import msgspec

from policies.api.identity import LONGEST

from .access import Access, Profile
from .profiles import limited
from .tables import ConfigFault, to_struct
from .upstream import Text

PREFIX = "sk-sidecar-"
DIGEST = re.compile("[0-9a-fA-F]{64}")


class KeySettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One `[[key]]`: *profiles* and *models* that it may use (all without), *limits* of its own by policy."""

    tenant: str
    sha256: str
    profiles: Annotated[tuple[Text, ...], msgspec.Meta(min_length=1)] | None = None
    models: Annotated[tuple[Text, ...], msgspec.Meta(min_length=1)] | None = None
    limits: dict[str, Any] = msgspec.field(default_factory=dict)

    def __post_init__(self) -> None:
        if not (self.tenant.strip() and self.tenant.isprintable() and len(self.tenant) <= LONGEST):
            msg = f"tenant: it is no name; write one of up to {LONGEST} printable characters"
            raise ValueError(msg)
        if not DIGEST.fullmatch(self.sha256):
            msg = "sha256: it is no SHA-256 of a key; `sidecar key new` makes both, it has 64 hexadecimal digits"
            raise ValueError(msg)


def keys(
    entries: object, base: Profile, profiles: Mapping[str, Profile], broken: frozenset[str], faults: list[ConfigFault]
) -> tuple[Access, ...]:
    """Return what the keys of the file's *entries* open; faults are added to *faults*."""
    if not isinstance(entries, list):
        faults.append(ConfigFault("key", "is no list of tables", "write each key below a [[key]]"))
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
                    path, f"is also that of {known[access.digest.hex()]}", "make one for each with `sidecar key new`"
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
    broken: frozenset[str],
    faults: list[ConfigFault],
) -> Access | None:
    settings = to_struct(KeySettings, entry, path, faults)
    if settings is None:
        return None
    allowed = None if settings.profiles is None else tuple(_allowed(settings.profiles, profiles, path, faults))
    own_base = limited(base, base, settings.limits, path, broken=broken, faults=faults)
    return Access(
        tenant=settings.tenant,
        digest=bytes.fromhex(settings.sha256),
        base=own_base,
        profiles={
            name: limited(each, base, settings.limits, path, broken=broken, faults=[])
            for name, each in profiles.items()
        },
        allowed=allowed,
        models=settings.models,
    )


def _allowed(
    names: Iterable[str], profiles: Mapping[str, Profile], path: str, faults: list[ConfigFault]
) -> Iterable[str]:
    for at, name in enumerate(names):
        wanted = name.strip().lower()
        if wanted not in profiles:
            right = f"name one of {', '.join(sorted(profiles)) or 'them: there are none'}"
            faults.append(ConfigFault(f"{path}.profiles[{at}]", f"there is no profile {name!r}", right))
        yield wanted


def new_key(tenant: str) -> str:
    """Return a new key and the table that lets it in: the first line is the key, the rest is for the file."""
    token = PREFIX + token_urlsafe(32)
    name = msgspec.json.encode(tenant).decode()
    return f'{token}\n\n[[key]]\ntenant = {name}\nsha256 = "{sha256(token.encode()).hexdigest()}"\n'
