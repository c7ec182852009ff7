"""Who a limit counts."""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

import msgspec

if TYPE_CHECKING:
    from .call import Call

Who: TypeAlias = Literal["tenant", "ip", "model", "user", "global"]
By: TypeAlias = Who | Annotated[list[Who], msgspec.Meta(min_length=1)]

SEPARATOR = "\x1e"
LONGEST = 128


def identity(call: Call, by: By) -> str:
    """Return the name under which *call* is counted.  A user is one of its tenant's, so nobody spends as another's."""
    if isinstance(by, list):
        return SEPARATOR.join(identity(call, who) for who in by)
    if by == "tenant":
        return call.tenant
    if by == "ip":
        return call.ip
    if by == "model":
        return _counted(call.model)
    if by == "user":
        return call.tenant + SEPARATOR + _counted(call.user)
    return ""


def _counted(name: str) -> str:
    # A client chooses these: however long or odd, a name is one short key, and never looks like two.
    if len(name) <= LONGEST and name.isprintable():
        return name
    return "sha256:" + sha256(name.encode()).hexdigest()
