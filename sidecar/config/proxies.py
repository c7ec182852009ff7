"""Select the HTTP proxy for an upstream: the configured one, else that of the environment.

`HTTPS_PROXY`, `HTTP_PROXY` and `ALL_PROXY` are read as curl and httpx read them; the lower-case name takes precedence.  Loopback
addresses and `localhost` never use a proxy of the environment, as in Go: a proxy cannot reach a local server.
(curl and httpx use the proxy unless `NO_PROXY` names the host.)  An explicit proxy is always used.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Mapping
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import TypeAlias
from urllib.parse import SplitResult, unquote, urlsplit

import msgspec

_Address: TypeAlias = IPv4Address | IPv6Address

DEFAULT_PORTS = {"http": 80, "https": 443}
PROXY_VARIABLES = {"http": ("http_proxy", "all_proxy"), "https": ("https_proxy", "all_proxy")}
"""Variables for each URL scheme, in lower case; the first one that is set applies."""
NO_PROXY_VARIABLE = "no_proxy"
ALL_HOSTS = "*"
_PROXY_EXAMPLE = "write it like 'http://proxy.example:3128'"


class Proxy(msgspec.Struct, frozen=True):
    """An HTTP proxy, reached by TCP, or by TLS if *secure*; *authorization* is the value of `Proxy-Authorization`."""

    host: str
    port: int
    secure: bool = False
    authorization: str = ""
    password: str = ""

    def __repr__(self) -> str:
        return f"Proxy({self.host!r}, {self.port}, secure={self.secure}, password={'set' if self.password else None})"


def parse_proxy(url: str) -> Proxy:
    """Return the proxy that *url* names.  Raise `ValueError` ("problem; cure") without repeating a password."""
    parts = _split(url if "://" in url else f"http://{url}")
    if parts is not None and parts.scheme.startswith("socks"):
        msg = "is a SOCKS proxy; only HTTP proxies are supported: set `transport` to an httpx transport with SOCKS support"
        raise ValueError(msg)
    if parts is None or parts.scheme not in DEFAULT_PORTS or not parts.hostname:
        msg = f"is not the URL of an HTTP proxy; {_PROXY_EXAMPLE}"
        raise ValueError(msg)
    if parts.path.strip("/") or parts.query or parts.fragment:
        msg = f"has a path or a query; {_PROXY_EXAMPLE}"
        raise ValueError(msg)
    user, password = unquote(parts.username or ""), unquote(parts.password or "")
    authorization = ""
    if user or password:
        authorization = "Basic " + b64encode(f"{user}:{password}".encode()).decode()
    port = parts.port or DEFAULT_PORTS[parts.scheme]
    return Proxy(parts.hostname, port, parts.scheme == "https", authorization, password)


def has_password(url: str) -> bool:
    """Return whether the proxy *url* contains a user name or a password."""
    parts = _split(url if "://" in url else f"http://{url}")
    return parts is not None and parts.username is not None


def environment_proxy(url: str, environ: Mapping[str, str]) -> tuple[str, str] | None:
    """Return the variable of *environ* that sets a proxy for *url* (http or https), and its value; None for no proxy.

    The value is not validated.  `NO_PROXY` is a list of `*`, host names (also for their subdomains), IP addresses and
    networks (`10.0.0.0/8`), separated by commas or spaces, each with an optional `:port`.
    """
    parts = _split(url)
    if parts is None or not parts.hostname or parts.scheme not in PROXY_VARIABLES or _is_loopback(parts.hostname):
        return None
    found = next(filter(None, (_variable(name, environ) for name in PROXY_VARIABLES[parts.scheme])), None)
    if found is None or not found[1]:
        return None
    port = parts.port or DEFAULT_PORTS[parts.scheme]
    excluded = _variable(NO_PROXY_VARIABLE, environ)
    if excluded is not None and any(_matches(each, parts.hostname, port) for each in re.split(r"[,\s]+", excluded[1])):
        return None
    return found


def _variable(name: str, environ: Mapping[str, str]) -> tuple[str, str] | None:
    """Return the variable *name* in lower case, else in upper case, and its value; an empty value hides the other."""
    return next(((each, environ[each].strip()) for each in (name, name.upper()) if each in environ), None)


def _split(url: str) -> SplitResult | None:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return None
    return parts


def _is_loopback(host: str) -> bool:
    address = _address(host)
    name = host.lower().rstrip(".")
    return address.is_loopback if address is not None else name == "localhost" or name.endswith(".localhost")


def _address(host: str) -> _Address | None:
    try:
        return ip_address(host.strip("[]"))
    except ValueError:
        return None


def _matches(entry: str, host: str, port: int) -> bool:
    """Return whether an *entry* of `NO_PROXY` excludes *host* at *port*."""
    if not entry:
        return False
    address = _address(host)
    if "/" in entry:
        try:
            return address is not None and address in ip_network(entry.strip("[]"), strict=False)
        except ValueError:
            return False
    if _address(entry) is None and (found := re.fullmatch(r"(.+):(\d{1,5})", entry)):
        entry = found[1]
        if int(found[2]) != port:
            return False
    if entry == ALL_HOSTS:
        return True
    if address is not None:
        return _address(entry) == address
    suffix = entry.lower().removeprefix("*").strip(".")
    name = host.lower().rstrip(".")
    return bool(suffix) and (name == suffix or name.endswith("." + suffix))
