"""What the URL of a Redis store means: servers, credentials, database and options. It imports no client library.

| form | servers |
| --- | --- |
| `redis://HOST:PORT/DB` | one server, or one node of a cluster |
| `redis://HOST:PORT,HOST:PORT/0` | nodes of a cluster |
| `redis+sentinel://HOST:PORT,HOST:PORT/MASTER/DB` | sentinels, and the name that they give to the primary server |
| `redis+unix:///PATH?db=DB` | one server on a Unix socket |

`rediss` is TLS; `valkey` and `valkeys` mean the same as `redis` and `rediss`. `USER:PASSWORD@` precedes the first host.
"""

from __future__ import annotations

import re
from typing import NamedTuple
from urllib.parse import parse_qsl, unquote

import msgspec

_PLAIN_SCHEMES = {"redis": False, "rediss": True, "valkey": False, "valkeys": True}
"""Schemes of servers on TCP, and whether they are encrypted."""
_SENTINEL_SCHEMES = {f"{scheme}+sentinel": encrypted for scheme, encrypted in _PLAIN_SCHEMES.items()}
_UNIX_SCHEMES = ("redis+unix", "valkey+unix", "unix")
URL_SCHEMES = (*_PLAIN_SCHEMES, *_SENTINEL_SCHEMES, *_UNIX_SCHEMES[:2])
"""Schemes of store URLs."""
SERVER_PORT, SENTINEL_PORT = 6379, 26379
MAX_PORT = 65_535
MAX_CONFIGURED_NODES = 64
DEFAULT_PREFIX = "sidecar"
DEFAULT_WAIT_MS, MAX_WAIT_MS = 100, 1_000
"""Time that a replica gets to acknowledge a write, in milliseconds."""
_URL_PARTS = re.compile(
    r"(?P<scheme>[A-Za-z+]+)://(?P<authority>[^/?#]*)(?P<path>[^?#]*)(?:\?(?P<query>[^#]*))?(?:#.*)?", re.DOTALL
)
_OPTION_NUMBER = re.compile(r"[0-9]{1,9}")
_SERVICE_NAME = re.compile(r"[A-Za-z0-9._-]+")
"""Names that Sentinel accepts: https://github.com/redis/redis/blob/7.0/sentinel.conf."""
_HOST_AND_PORT = re.compile(r"(?:\[(?P<v6>[0-9A-Fa-f:.%]+)\]|(?P<name>[^\s:\[\]@/]+))(?::(?P<port>[0-9]{1,5}))?")


class Address(NamedTuple):
    """A server: host and TCP port, or the path of a Unix socket and 0."""

    host: str
    port: int

    def __str__(self) -> str:
        """Return it as it is written in a URL."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}" if self.port else self.host


class RedisUrl(msgspec.Struct, frozen=True, kw_only=True):
    """A valid URL of a Redis store; made by `parse`.

    `nodes` are servers, or sentinels where `service` is the name of the primary. `wait_ms` is how long a write waits for a
    replica; 0 if it does not. `shown` is the URL without credentials and options.
    """

    nodes: tuple[Address, ...]
    shown: str
    is_encrypted: bool = False
    is_socket: bool = False
    service: str = ""
    database: int = 0
    username: str | None = None
    password: str | None = None
    prefix: str = DEFAULT_PREFIX
    wait_ms: int = DEFAULT_WAIT_MS

    def __repr__(self) -> str:
        """Return it without credentials."""
        return f"RedisUrl({self.shown!r})"

    @classmethod
    def parse(cls, text: str) -> RedisUrl:
        """Return *text* as a URL. Raises ValueError with the remedy, without credentials, for a wrong one.

        The error is "" where *text* has no servers at all.
        """
        parts = _URL_PARTS.fullmatch(text)
        if parts is None or "@" in parts["path"]:
            raise ValueError
        scheme, (credentials, _, hosts) = parts["scheme"].lower(), parts["authority"].rpartition("@")
        username, password = _parse_credentials(credentials)
        shown = f"{scheme}://{hosts}{parts['path']}"
        options = _parse_options(parts["query"] or "", is_socket=scheme in _UNIX_SCHEMES)
        nodes: tuple[Address, ...]
        if scheme in _UNIX_SCHEMES:
            path = unquote(parts["path"])
            if hosts or len(path) < len("/x"):
                raise ValueError("write the path of the socket after three slashes: 'redis+unix:///run/redis.sock'")
            nodes, service, database = (Address(path, 0),), "", int(options.get("db", "0"))
        elif scheme in _SENTINEL_SCHEMES:
            nodes = _parse_hosts(hosts, SENTINEL_PORT)
            service, database = _parse_service(parts["path"])
        elif scheme in _PLAIN_SCHEMES:
            nodes = _parse_hosts(hosts, SERVER_PORT)
            service, database = "", _parse_database(parts["path"], "'redis://HOST:PORT/0'")
            if len(nodes) > 1 and database:
                raise ValueError("several servers are a cluster, which has only the database 0: end the URL with '/0'")
        else:
            raise ValueError
        return cls(
            nodes=nodes,
            shown=shown,
            is_encrypted=_PLAIN_SCHEMES[scheme.partition("+")[0]] if scheme != "unix" else False,
            is_socket=scheme in _UNIX_SCHEMES,
            service=service,
            database=database,
            username=username,
            password=password,
            prefix=options.get("prefix", DEFAULT_PREFIX),
            wait_ms=int(options.get("wait", DEFAULT_WAIT_MS)),
        )


def _parse_credentials(text: str) -> tuple[str | None, str | None]:
    username, _, password = text.partition(":")
    return unquote(username) or None, unquote(password) or None


def _parse_hosts(text: str, default_port: int) -> tuple[Address, ...]:
    found = []
    for each in text.split(","):
        host = _HOST_AND_PORT.fullmatch(each)
        port = int(host["port"] or default_port) if host else 0
        if host is None or not 0 < port <= MAX_PORT:
            raise ValueError
        found.append(Address(host["v6"] or host["name"], port))
    if len(found) > MAX_CONFIGURED_NODES:
        raise ValueError(f"name at most {MAX_CONFIGURED_NODES} nodes: the others are found")
    return tuple(dict.fromkeys(found))


def _parse_database(path: str, example: str) -> int:
    number = path.strip("/")
    if number and not _OPTION_NUMBER.fullmatch(number):
        raise ValueError(f"the database must be a number: {example}")
    return int(number or 0)


def _parse_service(path: str) -> tuple[str, int]:
    service, _, database = path.strip("/").partition("/")
    if not _SERVICE_NAME.fullmatch(service):
        raise ValueError("add the name that the sentinels give to the primary: 'redis+sentinel://HOST:26379/NAME/0'")
    return service, _parse_database(database, "'redis+sentinel://HOST:26379/NAME/0'")


def _parse_options(query: str, *, is_socket: bool) -> dict[str, str]:
    names = ["prefix", "wait", *(["db"] if is_socket else [])]
    found: dict[str, str] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name not in names:
            shown = "" if "@" in query else f" {name!r}"  # else it may be part of a password
            raise ValueError(f"remove the option{shown}: there are only {' and '.join(map(repr, names))}")
        is_number = _OPTION_NUMBER.fullmatch(value) is not None
        if name == "prefix" and (
            not value or not value.isascii() or not value.isprintable() or set(value) & set("{}:")
        ):
            raise ValueError("give 'prefix' a name of printable ASCII without '{', '}' and ':', such as 'sidecar'")
        if name == "wait" and not (is_number and int(value) <= MAX_WAIT_MS):
            raise ValueError(
                f"'wait' is the time for a replica's answer, 0 to {MAX_WAIT_MS} milliseconds; 0 = do not wait"
            )
        if name == "db" and not is_number:
            raise ValueError("the database must be a number: 'redis+unix:///PATH?db=0'")
        found[name] = value
    return found
