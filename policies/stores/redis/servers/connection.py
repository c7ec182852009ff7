"""Connections to one Redis server: of the client library, which does TLS, AUTH with users, and SELECT."""

from __future__ import annotations

import contextlib
import socket
from typing import Any, TypeAlias

from redis.asyncio.connection import AbstractConnection, Connection, SSLConnection, UnixDomainSocketConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import BusyLoadingError, RedisError, ResponseError
from redis.exceptions import ConnectionError as RedisConnectionError

from policies.stores.batching.deadline import finish_within

from .url import Address, RedisUrl

Reply: TypeAlias = Any
"""A reply of a server: bytes, int, None, or a list of replies."""
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


class CannotConnect(Exception):
    """There is no connection to a server. No operation was sent.

    `seconds` is the deadline that has passed, 0 where the server refused. `is_temporary`: it loads its data.
    """

    def __init__(self, cause: Exception | str, *, seconds: float = 0.0) -> None:
        super().__init__(str(cause))
        self.seconds, self.is_temporary = seconds, isinstance(cause, BusyLoadingError)


async def connected(url: RedisUrl, address: Address, seconds: float) -> AbstractConnection:
    """Return a connection to the server at *address*, with the credentials and the database of *url*.

    Raises `CannotConnect`, after *seconds* at the latest. The caller closes it by `disconnect`.
    """
    connection = _new_connection(url, address)
    try:
        await finish_within(seconds, connection.connect())  # type: ignore[no-untyped-call]  # of the library
    except TimeoutError as error:
        await closed(connection)
        raise CannotConnect(f"{address} did not answer for {seconds:g} seconds", seconds=seconds) from error
    except (RedisError, OSError) as error:
        await closed(connection)
        raise CannotConnect(error) from error
    except BaseException:
        await closed(connection)
        raise
    return connection


def library_settings(url: RedisUrl) -> dict[str, Any]:
    """Return the arguments of the library for any server. The deadlines are ours, so it gets none."""
    return {
        "username": url.username,
        "password": url.password,
        "protocol": 2,  # Redis 5 has no other
        "socket_timeout": None,
        "socket_connect_timeout": None,
        "retry": Retry(NoBackoff(), 0),
    }


def _new_connection(url: RedisUrl, address: Address) -> AbstractConnection:
    settings = library_settings(url) | {"db": url.database}
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


async def asked(connection: AbstractConnection, *command: str | int) -> Reply:
    """Return the reply to *command* on a connection without others in flight. Errors of the server are returned too.

    Raises `redis.exceptions.ConnectionError` if the connection is lost.
    """
    await connection.send_packed_command(encoded(*command), check_health=False)
    return await next_reply(connection)


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
