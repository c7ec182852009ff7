"""Run requests over any httpx transport."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx

from .response import Answer, Headers, Reached, Target


class OverHttpx:
    """See `Exchange`: over any transport of httpx.  Mock transports come in here."""

    def __init__(self, transport: httpx.AsyncBaseTransport) -> None:
        self._transport = transport

    async def send(self, target: Target, headers: Headers, body: bytes, reached: Reached) -> Answer:
        """See `Exchange.send`."""
        reached()
        fields = [*target.headers, *headers]
        request = httpx.Request(target.method, target.url, headers=fields, content=body or None)
        return HttpxAnswer(await self._transport.handle_async_request(request))

    async def close(self) -> None:
        """See `Exchange.close`."""
        await self._transport.aclose()


class HttpxAnswer:
    """See `Answer`."""

    def __init__(self, response: httpx.Response) -> None:
        self.status, self.headers = response.status_code, response.headers
        self._response = response
        self._pieces: AsyncIterator[bytes] = aiter(response.stream)  # type: ignore[arg-type]  # an asynchronous transport's
        self.ended = False

    def header(self, name: bytes) -> str:
        """See `Answer.header`."""
        value: str = self.headers.get(name.decode(), "")
        return value

    async def read(self) -> bytes:
        """See `Answer.read`."""
        async for piece in self._pieces:
            if piece:
                return piece
        self.ended = True
        return b""

    async def aclose(self) -> None:
        """See `Answer.aclose`."""
        await self._response.aclose()
