"""Who a limit counts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

import msgspec

if TYPE_CHECKING:
    from .call import Call

Who: TypeAlias = Literal["tenant", "ip", "model", "user", "global"]
By: TypeAlias = Who | Annotated[list[Who], msgspec.Meta(min_length=1)]

SEPARATOR = "\x1e"


def identity(call: Call, by: By) -> str:
    """Return the name under which *call* is counted.  A user is one of its tenant's, so nobody spends as another's."""
    if isinstance(by, list):
        return SEPARATOR.join(identity(call, who) for who in by)
    if by == "tenant":
        return call.tenant
    if by == "ip":
        return call.ip
    if by == "model":
        return call.model
    if by == "user":
        return call.tenant + SEPARATOR + call.user
    return ""
