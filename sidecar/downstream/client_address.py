"""Find the address of a client: the peer of its connection, or the address that a trusted proxy reports.

Each proxy appends what it knows to the end of the header, and the client may have invented the beginning. So the header is
read from its end, up to the first hop that is not trusted or not an address. What stands in front of that, such as a quote
that is never closed, has no effect.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from itertools import islice
from typing import TypeAlias

from .client_connection import Scope

Network: TypeAlias = IPv4Network | IPv6Network
Address: TypeAlias = IPv4Address | IPv6Address

MAX_HOPS = 32
"""Hops of the header that are read, from the end; the client may have invented the earlier ones."""
MAX_FORWARDED_CHARACTERS = 4_096
"""Characters of the header `Forwarded` that are read, from the end."""
_HOST_WITH_PORT = re.compile(r"^(?:\[([^\]]+)\](?::\d+)?|([^:]+):\d+)$")
_NODE_ADDRESS = re.compile(
    r"(?:\[(?P<v6>[0-9A-Fa-f.]*:[0-9A-Fa-f:.]*)\]|(?P<v4>[0-9.]+))(?::(?:[0-9]{1,5}|_[A-Za-z0-9._-]+))?"
)
"""An address with an optional port (RFC 7239, 6). `unknown` and obfuscated names are no addresses."""
_NAME_CHARACTER = r"[!#$%&'*+.^_`|~0-9A-Za-z-]"
_ODD_BACKSLASHES = r"\\(?:\\\\)*+(?!\\)"
"""An odd number of backslashes, in reversed text: the quote in front of them is escaped."""
_PAIR_FROM_END = re.compile(
    rf'[ \t]*+(?:(?:"(?!{_ODD_BACKSLASHES})(?P<quoted>(?:[^"]|"(?={_ODD_BACKSLASHES}))*+)"|(?P<plain>(?:{_NAME_CHARACTER}|[:\[\]])++))'
    rf"[ \t]*+=[ \t]*+(?P<name>{_NAME_CHARACTER}++))?+[ \t]*+(?P<mark>[;,]|\Z)"
)
"""The last `name=value` of reversed text, and the mark in front of it: `;` in its hop, `,` between hops, empty at the start.

RFC 7239, 4. More is accepted in two cases that proxies send: white space around the marks, and `:`, `[` and `]` without
quotes. No quantifier gives back what it took, so the time is linear.
"""
_QUOTED_PAIR = re.compile(r"\\(.)", re.DOTALL)


class TrustedProxies:
    """Trusted proxies by network, and the one header in which they report the client's address.

    *header* is `x-forwarded-for` or `forwarded` (RFC 7239), in lower case. No other header is read: a proxy forwards it
    as the client sent it. Raises `ValueError` for an invalid network.
    """

    def __init__(self, networks: Sequence[str], header: str) -> None:
        self._networks: list[Network] = [ip_network(each, strict=False) for each in networks]
        self._header = header.encode()
        self._hops = forwarded_hops if header == "forwarded" else x_forwarded_for_hops
        self._trusts = lru_cache(1024)(self._trusted)

    def client(self, scope: Scope) -> str:
        """Return the client's address: the last hop that is not a trusted proxy. Called once per request.

        It is the peer's own address unless the peer is trusted, and empty for a Unix socket without trusted proxies. A hop
        that is no valid address ends the search: the trusted proxy that reported it stands for the client.
        """
        peer: str = scope["client"][0] if scope.get("client") else ""
        if not self._networks or not self._trusts(peer):
            return peer
        fields = [value.decode("latin-1") for name, value in scope["headers"] if name == self._header]
        address = peer
        for hop in islice(self._hops(fields), MAX_HOPS):
            if not hop:
                break
            address = hop
            if not self._trusts(hop):
                break
        return address

    def _trusted(self, address: str) -> bool:
        if (parsed := _parsed(address)) is None:
            return not address  # a Unix socket has no address; its peer is a local process
        return any(parsed in network for network in self._networks)


def x_forwarded_for_hops(fields: Sequence[str]) -> Iterator[str]:
    """Yield the addresses of an `X-Forwarded-For` header, the last one first; empty for a hop that is no address."""
    for hop in reversed(",".join(fields).rsplit(",", MAX_HOPS)):
        found = _HOST_WITH_PORT.match(hop.strip())
        yield _canonical((found[1] or found[2]) if found else hop.strip())


def forwarded_hops(fields: Sequence[str]) -> Iterator[str]:
    """Yield the addresses in the `for` parameters of a `Forwarded` header, the last one first; empty for any other hop.

    A hop that does not follow the grammar is empty and ends the iteration: the hops in front of it cannot be separated.
    """
    left = MAX_FORWARDED_CHARACTERS
    for field in reversed(fields):
        text, at = field[: -left - 1 : -1], 0
        complete, left = len(field) <= left, left - len(text)
        hop: dict[str, str] = {}
        while True:
            found = _PAIR_FROM_END.match(text, at)
            if found is None or not (found["mark"] or complete):
                yield ""
                return
            if (name := found["name"]) is not None:
                name = name[::-1].lower()
                if name in hop:  # RFC 7239, 4: at most once
                    yield ""
                    return
                quoted = found["quoted"]
                hop[name] = found["plain"][::-1] if quoted is None else _QUOTED_PAIR.sub(r"\1", quoted[::-1])
            if found["mark"] != ";":
                if hop:  # RFC 9110, 5.6.1: empty elements of a list do not count
                    yield _address_of(hop.get("for", ""))
                hop = {}
            if not found["mark"]:
                break
            at = found.end()


def _address_of(node: str) -> str:
    found = _NODE_ADDRESS.fullmatch(node)
    return "" if found is None else _canonical(found["v6"] or found["v4"])


def _canonical(text: str) -> str:
    """Return the one spelling of the address *text*, without a zone; empty if it is none."""
    parsed = _parsed(text.partition("%")[0])
    return "" if parsed is None else str(parsed)


def _parsed(address: str) -> Address | None:
    try:
        parsed = ip_address(address)
    except ValueError:
        return None
    return parsed.ipv4_mapped or parsed if isinstance(parsed, IPv6Address) else parsed
