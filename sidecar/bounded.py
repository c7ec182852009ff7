"""Bodies of upstream's answers, read up to a limit."""

from __future__ import annotations

import aiohttp
import httpx

from .encodings import decoder

BROKEN = (httpx.HTTPError, aiohttp.ClientError, OSError)
"""What a body that breaks raises."""
MAX_ERROR = 65_536


class AnswerTooLarge(Exception):
    """An answer beyond the limit of what is held in memory."""


async def read_bounded(response: httpx.Response, limit: int) -> bytes:
    """Return the whole body of at most *limit* bytes; raises `AnswerTooLarge`, or one of `BROKEN`."""
    pieces, size, decode = [], 0, decoder(response.headers)
    async for raw in response.aiter_raw():
        data = raw if decode is None else decode(raw)
        size += len(data)
        if size > limit:
            msg = f"the answer has more than {limit} bytes"
            raise AnswerTooLarge(msg)
        pieces.append(data)
    return b"".join(pieces)


async def read_error(response: httpx.Response) -> bytes:
    """Return the first 64 kB of an error's body, or what came of it before it broke."""
    body = b""
    try:
        decode = decoder(response.headers)
        async for data in response.aiter_raw():
            body += data if decode is None else decode(data)
            if len(body) >= MAX_ERROR:
                break
    except BROKEN:
        pass
    return body[:MAX_ERROR]
