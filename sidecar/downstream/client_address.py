"""Find the address of a client: the peer of its connection, or the address that a trusted proxy reports."""

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
"""Hops of the header that are read, from the end; the client may have invented the earlier ones."""


class TrustedProxies:
    """Trusted proxies by network, and the one header in which they report the client's address.

    *header* is `x-forwarded-for` or `forwarded` (RFC 7239), in lower case. No other header is read: a proxy forwards it
    as the client sent it. Raises `ValueError` for an invalid network.
    """

    def __init__(self, networks: Sequence[str], header: str) -> None:
        self._networks: list[Network] = [ip_network(each, strict=False) for each in networks]
        self._header = header.encode()
        self._trusts = lru_cache(1024)(self._trusted)

    def client(self, scope: Scope) -> str:
        """Return the client's address: the last hop that is not a trusted proxy. Called once per request.

        It is the peer's own address unless the peer is trusted, and empty for a Unix socket without trusted proxies.
        """
        peer: str = scope["client"][0] if scope.get("client") else ""
        if not self._networks or not self._trusts(peer):
            return peer
        values = b",".join(value for name, value in scope["headers"] if name == self._header)
        hops = list(self._hops(values.decode("latin-1")))[-MAX_HOPS:]
        address = peer
        for hop in reversed(hops):
            if _parsed(hop) is None:
                break
            address = hop
            if not self._trusts(hop):
                break
        return address

    def _hops(self, values: str) -> Iterable[str]:
        for hop in values.split(",") if values else ():
            if self._header == b"forwarded":
                match = _FORWARDED_FOR.search(hop)
                yield _without_port(match[1].strip('"')) if match else ""
            else:
                yield _without_port(hop.strip())

    def _trusted(self, address: str) -> bool:
        if (parsed := _parsed(address)) is None:
            return not address  # a Unix socket has no address; its peer is a local process
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
