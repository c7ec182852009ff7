"""The host names under which clients may reach the sidecar.

A web page of another site can let its own host name resolve to 127.0.0.1 (DNS rebinding). Its requests to that name are then
of the same origin, for which browsers need no permission. Their `Host` header has the page's host name, which distinguishes
them from requests of the user: DNS gives an attacker no IP address, no `localhost` and no name below `internal`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from ipaddress import ip_address

ANY_HOST = "*"
WILDCARD_PREFIX = "*."
LOCAL_NAME = "localhost"
LOCAL_SUFFIXES = (".localhost", ".internal")
"""Ends of names that no public DNS has: RFC 6761, 6.3, and ICANN's reservation of `internal` for private use (2024).

Containers reach their host as `host.docker.internal` and `host.containers.internal`.
"""
MAX_VALUE_BYTES = 300
"""Bytes of a `Host` header that are read: a host name has at most 253 characters."""
_HOST_VALUE = re.compile(r"(?:\[(?P<literal>[^\[\]]+)\]|(?P<name>[a-z0-9._-]+))(?::[0-9]{0,5})?")


class AllowedHosts:
    """IP addresses, `localhost`, the names below `LOCAL_SUFFIXES`, the name of this *machine*, and those that *listed* has.

    An entry is a host name, `*.` and a name for all its subdomains, or `*` for every host. Case, ports and the dot behind a
    name do not matter.
    """

    def __init__(self, listed: Sequence[str], machine: str) -> None:
        entries = [_normal(entry) for entry in listed]
        self._any = ANY_HOST in entries
        self._names = {LOCAL_NAME, _normal(machine), *entries} - {""}
        wildcards = (entry.removeprefix("*") for entry in entries if entry.startswith(WILDCARD_PREFIX))
        self._suffixes = (*LOCAL_SUFFIXES, *wildcards)

    def permits(self, value: bytes) -> bool:
        """Return whether *value*, that of a `Host` header, names an allowed host."""
        if self._any:
            return True
        if len(value) > MAX_VALUE_BYTES:
            return False
        found = _HOST_VALUE.fullmatch(value.decode("latin-1").lower())
        if found is None:
            return False
        if found["literal"] is not None:
            return ":" in found["literal"] and _is_address(found["literal"])
        name = _normal(found["name"])
        return name in self._names or name.endswith(self._suffixes) or _is_address(name)


def _normal(name: str) -> str:
    return name.lower().removesuffix(".")


def _is_address(text: str) -> bool:
    """Return whether *text* is an IP address in the spelling to which browsers convert all others (`0x7f.1`, `2130706433`)."""
    try:
        ip_address(text)
    except ValueError:
        return False
    return True
