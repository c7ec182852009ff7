"""What a client sent: headers, and a body of bounded size."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from itertools import count
from secrets import token_hex
from typing import Any, NamedTuple, TypeAlias

from sidecar.config.access import Access
from sidecar.wire.json_body import json_object, json_steps

from .client_connection import Outgoing, Straight
from .client_errors import ClientError, body_too_large, unsupported_media_type

Scope: TypeAlias = Any
Receive: TypeAlias = Callable[[], Awaitable[Any]]

JSON = b"application/json"
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,128}")


class ClientGone(Exception):
    """The client left before its request was whole."""


class RequestRefused(Exception):
    """The request is answered by a fault, before any policy has seen it."""

    def __init__(self, fault: ClientError) -> None:
        super().__init__(fault.message)
        self.fault = fault


class RequestIds:
    """Names that nobody else gives: chance once for a process, then a number; a system call for each would cost more."""

    def __init__(self) -> None:
        self._prefix, self._numbers = token_hex(12), count()

    def __call__(self) -> str:
        """Return a new name of 32 hexadecimal digits."""
        return f"{self._prefix}{next(self._numbers):08x}"


def request_id(given: bytes | None, new: Callable[[], str]) -> str:
    """Return the client's `x-request-id`, *given*, if it is a plain one, else a *new* one."""
    return given.decode() if given is not None and _REQUEST_ID.fullmatch(given) else new()


def check_json(headers: dict[bytes, bytes]) -> None:
    """Raise `RequestRefused` (415) unless the body is announced as plain JSON in UTF-8.

    A browser sends that type to another origin only after a preflight, so no web page can spend a budget unasked.
    """
    if headers.get(b"content-type") == JSON and b"content-encoding" not in headers:
        return
    kind, _, parameters = headers.get(b"content-type", b"").lower().partition(b";")
    charset = parameters.replace(b" ", b"").replace(b'"', b"")
    if kind.strip() != JSON or (b"charset=" in charset and b"charset=utf-8" not in charset):
        raise RequestRefused(unsupported_media_type())
    if headers.get(b"content-encoding", b"identity").strip().lower() not in (b"identity", b""):
        raise RequestRefused(unsupported_media_type())


async def read_body(receive: Receive, headers: dict[bytes, bytes], limit: int, *, whole: bytes | None = None) -> bytes:
    """Return the request's body of at most *limit* bytes, whatever its `content-length` says; *whole* if it is there.

    Raises `RequestRefused` (413) as soon as it is known to be larger, `ClientGone` when the client leaves.
    """
    announced = headers.get(b"content-length", b"")
    if announced.isdigit() and int(announced) > limit:
        raise RequestRefused(body_too_large(limit))
    if whole is not None:
        if len(whole) > limit:
            raise RequestRefused(body_too_large(limit))
        return whole
    message = await receive()
    pieces, size = [], 0
    while message["type"] == "http.request":
        piece: bytes = message.get("body", b"")
        size += len(piece)
        if size > limit:
            raise RequestRefused(body_too_large(limit))
        pieces.append(piece)
        if not message.get("more_body"):
            return b"".join(pieces)
        message = await receive()
    raise ClientGone


LARGE = 262_144
"""Bytes of a body from which it is read in several turns of the loop."""


class IncomingRequest(NamedTuple):
    """One request as it came, its name, and what its key opens."""

    scope: Scope
    receive: Receive
    out: Outgoing
    headers: dict[bytes, bytes]
    name: str
    access: Access


async def _object(asked: IncomingRequest, limit: int) -> dict[str, Any]:
    """Return the JSON object that was sent.  Others get their turns between the steps of reading a large one."""
    whole = asked.out.whole_body() if isinstance(asked.out, Straight) else None
    if whole is not None and len(whole) <= min(limit, LARGE):
        return json_object(whole)
    raw = await read_body(asked.receive, asked.headers, limit, whole=whole)
    if len(raw) <= LARGE:
        return json_object(raw)
    steps = json_steps(raw)
    while True:
        await asyncio.sleep(0)
        try:
            next(steps)
        except StopIteration as end:
            found: dict[str, Any] = end.value
            await asyncio.sleep(0)
            return found
