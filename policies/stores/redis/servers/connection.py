"""Connections to one Redis server: of the client library, which does TLS, AUTH with users, and SELECT."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from redis.asyncio.connection import AbstractConnection, Connection, SSLConnection, UnixDomainSocketConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError, ResponseError

from policies.stores.batching.deadline import finish_within

from .classification import NamedFailure, failure_of
from .url import Address, RedisUrl

Reply: TypeAlias = Any
"""A reply of a server: bytes, int, None, or a list of replies."""
Receiver: TypeAlias = Callable[[Reply], None]
"""Gets the reply to one command, or an error."""
UNSENT_SECONDS = 10
"""Time after which the kernel closes a connection whose peer does not acknowledge data (Linux)."""
_KEEPALIVE_OPTIONS = {
    getattr(socket, name): value
    for name, value in {
        "TCP_KEEPIDLE": 15,
        "TCP_KEEPINTVL": 5,
        "TCP_KEEPCNT": 3,
        "TCP_USER_TIMEOUT": UNSENT_SECONDS * 1000,
    }.items()
    if hasattr(socket, name)
}


class CannotConnect(NamedFailure):
    """There is no connection to a server. No operation was sent.

    *seconds* is the deadline that has passed, 0 where the server refused. `is_temporary`: it loads its data.
    """

    def __init__(self, failure: str, text: str, *, seconds: float = 0.0) -> None:
        super().__init__(failure, text)
        self.seconds, self.is_temporary = seconds, failure == "loading"


class ConnectionLost(NamedFailure):
    """The connection ended before the reply: the command may have been executed. *is_stalled*: the server was silent."""

    def __init__(self, failure: str, text: str, *, is_stalled: bool = False) -> None:
        super().__init__(failure, text)
        self.is_stalled = is_stalled


async def connected(url: RedisUrl, address: Address, seconds: float) -> AbstractConnection:
    """Return a connection to the server at *address*, with the credentials and the database of *url*.

    Raises `CannotConnect`, after *seconds* at the latest. The caller closes it by `disconnect`.
    """
    connection = _new_connection(url, address)
    try:
        await finish_within(seconds, connection.connect())  # type: ignore[no-untyped-call]  # of the library
    except TimeoutError as error:
        await closed(connection)
        raise CannotConnect("timeout", f"{address} did not answer for {seconds:g} seconds", seconds=seconds) from error
    except (RedisError, OSError) as error:
        await closed(connection)
        raise CannotConnect(failure_of(error), str(error)) from error
    except BaseException:
        await closed(connection)
        raise
    return connection


def _new_connection(url: RedisUrl, address: Address) -> AbstractConnection:
    settings: dict[str, Any] = {
        "username": url.username,
        "password": url.password,
        "db": url.database,
        "protocol": 2,  # Redis 5 has no other
        "socket_timeout": None,  # the deadlines are ours
        "socket_connect_timeout": None,
        "retry": Retry(NoBackoff(), 0),
    }
    if url.is_socket:
        return UnixDomainSocketConnection(path=address.host, **settings)
    kind = SSLConnection if url.is_encrypted else Connection
    settings |= {"socket_keepalive": True, "socket_keepalive_options": _KEEPALIVE_OPTIONS}
    return kind(host=address.host, port=address.port, **settings)


async def closed(connection: AbstractConnection) -> None:
    """Close *connection* without waiting for its peer."""
    with contextlib.suppress(RedisError, OSError):
        await connection.disconnect(nowait=True)


def encoded(*command: str | int | bytes) -> bytes:
    """Return *command* as it is sent."""
    parts = [part if isinstance(part, bytes) else str(part).encode() for part in command]
    return b"".join([b"*%d\r\n" % len(parts), *(b"$%d\r\n%b\r\n" % (len(part), part) for part in parts)])


async def replies_of(url: RedisUrl, address: Address, seconds: float, *commands: Sequence[str]) -> list[Reply]:
    """Return the replies of the server at *address* to *commands*, by a connection of its own. Errors of the server are returned too.

    Raises `CannotConnect`, after twice *seconds* at the latest.
    """
    connection = await connected(url, address, seconds)

    async def ask() -> list[Reply]:
        await connection.send_packed_command(b"".join(encoded(*each) for each in commands), check_health=False)
        return [await next_reply(connection) for _ in commands]

    try:
        return await finish_within(seconds, ask())
    except (RedisError, OSError) as error:  # and `TimeoutError`, which is an OSError
        raise CannotConnect(failure_of(error), str(error)) from error
    finally:
        await closed(connection)


async def next_reply(connection: AbstractConnection) -> Reply:
    """Return the next reply, or the error that the server answered with. Raises RedisError or OSError without a reply."""
    try:
        return await connection.read_response(disable_decoding=True, disconnect_on_error=False)
    except ResponseError as error:
        return error
    except RedisConnectionError as error:
        if type(error) is RedisConnectionError:
            raise
        return error  # the library raises some answers, such as LOADING and NOAUTH, as errors of the connection
