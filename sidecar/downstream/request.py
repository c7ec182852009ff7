"""Read what a client sent: headers, and a JSON body of bounded size."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Generator, Mapping
from contextlib import AsyncExitStack
from itertools import count
from secrets import token_hex
from typing import Any, TypeVar

import msgspec

from sidecar.config.access import Access, Profile
from sidecar.wire.request.compressed_body import REQUEST_CODINGS, InflatedTooLarge, inflate_steps
from sidecar.wire.request.json_body import LARGE_BODY_BYTES, is_light, json_object, json_steps
from sidecar.wire.request.prompt_lists import token_id_steps

from .buffered_bodies import BufferedBodies, HeldBody
from .client_connection import ClientConnection, Scope
from .client_errors import (
    ClientError,
    body_too_large,
    unread_requests_full,
    unsupported_encoding,
    unsupported_media_type,
)

T = TypeVar("T")

JSON_MEDIA_TYPE = b"application/json"
PROFILE_HEADER = b"x-profile"
MAX_LENGTH_DIGITS = 20
"""Digits of a `Content-Length` that are read; no body is so long that it has more."""
_UTF_8_CHARSET = re.compile(rb"charset=utf-?8(?![^;])")
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,128}")


class ClientDisconnected(Exception):
    """The client disconnected before its request was complete."""


class RequestRefused(Exception):
    """The request is refused before any policy has seen it; *error* is sent to its client."""

    def __init__(self, error: ClientError) -> None:
        super().__init__(error.message)
        self.error = error


class RequestIds:
    """Unique request ids: a random prefix per process plus a counter, which costs no system call each."""

    def __init__(self) -> None:
        self._prefix, self._numbers = token_hex(12), count()

    def __call__(self) -> str:
        """Return a new id of 32 hexadecimal digits."""
        return f"{self._prefix}{next(self._numbers):08x}"


def new_request_id() -> str:
    """Return a random id of 32 hexadecimal digits, where no `RequestIds` is at hand."""
    return token_hex(16)


def request_id(given: bytes | None, new: Callable[[], str]) -> str:
    """Return the client's `x-request-id`, *given*, if it is a plain one, else a *new* one."""
    return given.decode() if given is not None and _REQUEST_ID.fullmatch(given) else new()


def check_json(headers: dict[bytes, bytes]) -> None:
    """Raise `RequestRefused` (415) unless the body is announced as JSON in UTF-8, uncompressed or in one known coding.

    A browser sends that type to another origin only after a preflight, so a web page cannot spend a budget without one.
    """
    if headers.get(b"content-type") == JSON_MEDIA_TYPE and b"content-encoding" not in headers:
        return
    kind, _, parameters = headers.get(b"content-type", b"").lower().partition(b";")
    charset = parameters.replace(b" ", b"").replace(b'"', b"")
    if kind.strip() != JSON_MEDIA_TYPE or (b"charset=" in charset and not _UTF_8_CHARSET.search(charset)):
        raise RequestRefused(unsupported_media_type())
    if (coding := content_coding(headers)) and coding not in REQUEST_CODINGS:
        raise RequestRefused(unsupported_encoding())


def content_coding(headers: dict[bytes, bytes]) -> bytes:
    """Return the coding of the body in lower case; empty for none, a list for several."""
    if b"content-encoding" not in headers:
        return b""
    names = (name.strip().lower() for name in headers[b"content-encoding"].split(b","))
    return b", ".join(name for name in names if name not in (b"", b"identity"))


def announced_length(headers: Mapping[bytes, bytes]) -> int | None:
    """Return the value of `Content-Length`; None for none, and for one that is no number.

    Leading zeros are removed first: the server's parser accepts any number of them, `int` at most 4,300 digits.
    """
    value = headers.get(b"content-length", b"")
    if not value.isdigit():
        return None
    digits = value.lstrip(b"0")
    return int(digits[:MAX_LENGTH_DIGITS] or b"0")


async def read_body(connection: ClientConnection, headers: dict[bytes, bytes], limit: int, held: HeldBody) -> bytes:
    """Return the rest of a request's body, of at most *limit* bytes, independent of its `content-length`.

    Bytes that wait for the rest of their body are added to *held*.

    Raises `RequestRefused` as soon as the body is known to be larger (413), or where the process holds too many unread
    bytes (503); `ClientDisconnected` if the client leaves or the server refuses the rest.
    """
    announced = announced_length(headers)
    if announced is not None and announced > limit:
        raise RequestRefused(body_too_large(limit))
    receive = connection.receive
    message = await receive()
    body = bytearray()  # not a list: a client that sends two bytes at a time would cost 60 bytes of memory for each
    while message["type"] == "http.request":
        piece: bytes = message.get("body", b"")
        if len(body) + len(piece) > limit:
            raise RequestRefused(body_too_large(limit))
        is_last = not message.get("more_body")
        if is_last and not body:
            return piece
        if not held.add(len(piece)):
            raise RequestRefused(unread_requests_full())
        body += piece
        if is_last:
            return bytes(body)
        message = await receive()
    raise ClientDisconnected


LARGE_INFLATED_BODIES = 2
"""Compressed bodies of more than `LARGE_BODY_BYTES`, inflated, that one route decodes at the same time; others wait.

Each takes three times `max_body` of memory, up to seven where one character needs four bytes in memory, for a few kilobytes
on the wire. Measured with 60 bodies of 16 kB that inflate to 16 MB, sent at once: 2 GB without this limit.
"""


class IncomingRequest(msgspec.Struct, frozen=True, eq=False):
    """One request as it came, its id, and what its key gives access to."""

    scope: Scope
    connection: ClientConnection
    headers: dict[bytes, bytes]
    name: str
    access: Access
    ip: str

    @property
    def profile(self) -> Profile:
        """The profile that the header `x-profile` names. Raises `Forbidden` as `Access.profile` does."""
        return self.access.profile(self.headers.get(PROFILE_HEADER, b"").decode("latin-1"))


async def read_object(
    request: IncomingRequest,
    limit: int,
    large_inflated: asyncio.Semaphore,
    buffered: BufferedBodies,
    id_fields: tuple[str, ...] = (),
) -> tuple[dict[str, Any], bool]:
    """Return the JSON object in the body of *request*, and whether it is large.

    A large one is decoded in several event-loop iterations, and should be checked so too (`in_steps`).

    *limit* bounds the bytes that were sent, and those that they inflate to. *large_inflated* bounds the compressed bodies
    of more than `LARGE_BODY_BYTES` that are in memory at the same time, *buffered* all bodies until they are decoded.
    Of a body that is not light, token ids in *id_fields* stay JSON, and do not count as values.

    Raises `RequestRefused`, `BadRequest` or `ClientDisconnected`.
    """
    raw = request.connection.whole_body()
    if raw is None or b"content-encoding" in request.headers or not is_light(raw):
        return await _read_gradually(request, raw, limit, large_inflated, buffered, id_fields)
    if len(raw) > limit:
        raise RequestRefused(body_too_large(limit))
    return json_object(raw), False


async def _read_gradually(  # noqa: PLR0917  # those of `read_object`
    request: IncomingRequest,
    raw: bytes | None,
    limit: int,
    large_inflated: asyncio.Semaphore,
    buffered: BufferedBodies,
    id_fields: tuple[str, ...],
) -> tuple[dict[str, Any], bool]:
    """See `read_object`; *raw* is the body if all of it has arrived. Its bytes are held in *buffered* until it is decoded."""
    held = HeldBody(buffered, request.access.tenant)
    try:
        if raw is None:
            raw = await read_body(request.connection, request.headers, limit, held)
        elif len(raw) > limit:
            raise RequestRefused(body_too_large(limit))
        elif not held.add(len(raw)):
            raise RequestRefused(unread_requests_full())
        if coding := content_coding(request.headers):
            return await _inflated_object(inflate_steps(raw, coding, limit), limit, large_inflated, id_fields)
        return (json_object(raw), False) if is_light(raw) else (await _large_object(raw, id_fields), True)
    finally:
        held.release()


async def _inflated_object(
    steps: Generator[int, None, bytes], limit: int, large_inflated: asyncio.Semaphore, id_fields: tuple[str, ...]
) -> tuple[dict[str, Any], bool]:
    """Return the object in the body that *steps* inflate (`inflate_steps`); a large one waits for *large_inflated*."""
    async with AsyncExitStack() as held:
        waits = True
        while True:
            try:
                size = next(steps)
            except StopIteration as end:
                raw: bytes = end.value
                return (json_object(raw), False) if is_light(raw) else (await _large_object(raw, id_fields), True)
            except InflatedTooLarge:
                raise RequestRefused(body_too_large(limit)) from None
            if waits and size >= LARGE_BODY_BYTES:
                waits = False
                await held.enter_async_context(large_inflated)
            await asyncio.sleep(0)


async def _large_object(raw: bytes, id_fields: tuple[str, ...]) -> dict[str, Any]:
    """Return the object in *raw*, decoded in several event-loop iterations."""
    await asyncio.sleep(0)
    ids: dict[str, msgspec.Raw] = {}
    if id_fields:
        raw, ids = await in_steps(token_id_steps(raw, id_fields))
        await asyncio.sleep(0)
    found = await in_steps(json_steps(raw))
    await asyncio.sleep(0)
    return {**found, **ids}


async def in_steps(steps: Generator[None, None, T]) -> T:
    """Return the result of *steps*, each of which runs in an event-loop iteration of its own."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: T = end.value
            return result
        await asyncio.sleep(0)
