"""Bodies of upstream's answers, read up to a limit."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import httpx

from .content_encoding import decoder

if TYPE_CHECKING:
    from .response import Answer

BROKEN = (httpx.HTTPError, OSError)
"""What a body that breaks raises."""
MAX_ERROR = 65_536
ERROR_WITHIN = 5.0
"""Seconds that the body of an error gets: its status says the most important already."""


class AnswerTooLarge(Exception):
    """An answer beyond the limit of what is held in memory."""


async def read_bounded(answer: Answer, limit: int) -> bytes:
    """Return the whole body of at most *limit* bytes; raises `AnswerTooLarge`, or one of `BROKEN`."""
    pieces, size, decode = [], 0, decoder(answer.header(b"content-encoding"))
    while raw := await answer.read():
        data = raw if decode is None else decode(raw)
        size += len(data)
        if size > limit:
            msg = f"the answer has more than {limit} bytes"
            raise AnswerTooLarge(msg)
        pieces.append(data)
    return b"".join(pieces)


async def read_error(answer: Answer, *, within: float = ERROR_WITHIN) -> bytes:
    """Return the first 64 kB of an error's body: what came of it *within* seconds, and before it broke."""
    body = b""
    try:
        decode = decoder(answer.header(b"content-encoding"))
        async with asyncio.timeout(within):
            while raw := await answer.read():
                body += raw if decode is None else decode(raw)
                if len(body) >= MAX_ERROR:
                    break
    except (TimeoutError, *BROKEN):
        pass
    return body[:MAX_ERROR]
