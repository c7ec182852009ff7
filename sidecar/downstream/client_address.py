"""Whose address a client has: that of its connection, or the one that a trusted proxy in front of us writes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import TypeAlias

from .client_connection import Scope

Network: TypeAlias = IPv4Network | IPv6Network

_FORWARDED_FOR = re.compile(r'(?:^|;)\s*for\s*=\s*("[^"]*"|[^;,\s]*)', re.IGNORECASE)
_HOST_WITH_PORT = re.compile(r"^(?:\[([^\]]+)\](?::\d+)?|([^:]+):\d+)$")
MAX_HOPS = 32
"""Hops that are looked at; a longer list was made up."""


class TrustedProxies:
    """The proxies that are believed, and the one header that they write.

    Only one header counts: a proxy passes the other one on as the client made it up.
    """

    def __init__(self, networks: Sequence[str], header: str) -> None:
        self._networks: list[Network] = [ip_network(each, strict=False) for each in networks]
        self._header = header.encode()
        self._trusts = lru_cache(1024)(self._trusted)

    def client(self, scope: Scope) -> str:
        """Return the address of the client: the last one that no trusted proxy has.  Once per request."""
        peer: str = scope["client"][0] if scope.get("client") else ""
        if not self._networks or not self._trusts(peer):
            return peer
        written = b",".join(value for name, value in scope["headers"] if name == self._header)
        hops = list(self._hops(written.decode("latin-1")))[-MAX_HOPS:]
        address = peer
        for hop in reversed(hops):
            if _parsed(hop) is None:
                break
            address = hop
            if not self._trusts(hop):
                break
        return address

    def _hops(self, written: str) -> Iterable[str]:
        for hop in written.split(",") if written else ():
            if self._header == b"forwarded":
                match = _FORWARDED_FOR.search(hop)
                yield _without_port(match[1].strip('"')) if match else ""
            else:
                yield _without_port(hop.strip())

    def _trusted(self, address: str) -> bool:
        if (parsed := _parsed(address)) is None:
            return not address  # a Unix socket has no address: whoever writes to it is on this machine
        return any(parsed in network for network in self._networks)


def _without_port(hop: str) -> str:
    match = _HOST_WITH_PORT.match(hop)
    return (match[1] or match[2]) if match else hop


def _parsed(address: str) -> object:
    try:
        parsed = ip_address(address)
    except ValueError:
        return None
    return parsed.ipv4_mapped or parsed if isinstance(parsed, IPv6Address) else parsed
