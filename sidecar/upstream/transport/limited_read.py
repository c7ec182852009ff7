"""Read the body of a response up to a limit."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

import httpx

from sidecar.wire.error_object import MAX_ERROR_BYTES

from .content_encoding import decoder

if TYPE_CHECKING:
    from .response import UpstreamResponse

READ_ERRORS = (httpx.HTTPError, OSError)
"""The exceptions of a body that breaks."""
ERROR_BODY_SECONDS = 5.0
"""Limit for the body of an error; its status is already known."""


class ResponseTooLarge(Exception):
    """A response is larger than the limit for responses in memory."""


async def read_limited(response: UpstreamResponse, limit: int, on_blank: Callable[[], None] | None = None) -> bytes:
    """Return the whole decoded body.  Raise `ResponseTooLarge` beyond *limit* bytes, or one of `READ_ERRORS`.

    *on_blank* is called for each read of white space before the first other byte: servers keep connections alive by it.
    """
    pieces, size, decode = [], 0, decoder(response.header(b"content-encoding"))
    while raw := await response.read():
        for data in (raw,) if decode is None else decode(raw):
            size += len(data)
            if size > limit:
                msg = f"the response has more than {limit} bytes"
                raise ResponseTooLarge(msg)
            pieces.append(data)
            if on_blank is not None and data:
                if data.isspace():
                    on_blank()
                else:
                    on_blank = None
            if decode is not None:
                await asyncio.sleep(0)  # other tasks run between two steps
    return b"".join(pieces)


async def read_error_body(response: UpstreamResponse, *, within: float = ERROR_BODY_SECONDS) -> bytes:
    """Return the first `MAX_ERROR_BYTES` of a body: what arrived *within* seconds, and before it broke."""
    body = b""
    try:
        decode = decoder(response.header(b"content-encoding"))
        async with asyncio.timeout(within):
            while len(body) < MAX_ERROR_BYTES and (raw := await response.read()):
                for data in (raw,) if decode is None else decode(raw):
                    body += data
                    if len(body) >= MAX_ERROR_BYTES:
                        break
                    if decode is not None:
                        await asyncio.sleep(0)
    except (TimeoutError, *READ_ERRORS):
        pass
    return body[:MAX_ERROR_BYTES]
