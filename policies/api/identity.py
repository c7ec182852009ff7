"""Who a limit counts."""

from __future__ import annotations

from functools import lru_cache
from hashlib import sha256
from ipaddress import IPv6Address, ip_address
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple, TypeAlias

import msgspec

if TYPE_CHECKING:
    from .call import Call

Who: TypeAlias = Literal["tenant", "ip", "model", "user", "global"]
By: TypeAlias = Who | Annotated[list[Who], msgspec.Meta(min_length=1)]
Identities: TypeAlias = Annotated[int, msgspec.Meta(ge=1, le=1_000_000)]

SEPARATOR = "\x1e"
LONGEST = 128
MANY = 10_000
"""How many made-up identities of one crowd have counters of their own; all further ones share one."""
HOST_BITS = 64


class Counted(NamedTuple):
    """Under which name a call is counted; *crowd* is the part of it that no client can make up, None if that is all."""

    identity: str
    crowd: str | None


def identity(call: Call, by: By) -> Counted:
    """Return whom *call* counts for.  A user is one of its tenant's, so nobody spends as another's."""
    if by == "tenant":
        return _tenant(call.tenant)
    parts = by if isinstance(by, list) else [by]
    names = [_name(call, who) for who in parts]
    if all(who in ("tenant", "global") for who in parts):
        return Counted(SEPARATOR.join(names), None)
    known = [call.tenant] if "tenant" in parts or "user" in parts else []
    return Counted(SEPARATOR.join(names), SEPARATOR.join(known))


@lru_cache(1024)
def _tenant(name: str) -> Counted:
    return Counted(name, None)


def _name(call: Call, who: Who) -> str:
    if who == "tenant":
        return call.tenant
    if who == "ip":
        return _host(call.ip)
    if who == "model":
        return _short(call.model)
    if who == "user":
        return call.tenant + SEPARATOR + _short(call.user)
    return ""


def _host(ip: str) -> str:
    # Whoever has one address of IPv6 has the 2^64 of its network.
    if ":" not in ip:
        return ip
    try:
        address = ip_address(ip.partition("%")[0])
    except ValueError:
        return _short(ip)
    if not isinstance(address, IPv6Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return f"{IPv6Address(int(address) >> HOST_BITS << HOST_BITS)}/{HOST_BITS}"


def _short(name: str) -> str:
    # A client chooses these: however long or odd, a name is one short key, and never looks like two.
    if len(name) <= LONGEST and name.isprintable():
        return name
    return "sha256:" + sha256(name.encode()).hexdigest()
