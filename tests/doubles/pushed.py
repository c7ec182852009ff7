"""Requests to a transport, and readers of their responses."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import httpx
from wire import TIMEOUT_SECONDS

from sidecar.upstream.transport.response import Target, Transport, UpstreamResponse


def nothing() -> None:
    """Do nothing, as `on_connected`."""


def get(url: str, *headers: tuple[str, str]) -> Target:
    """Return the target of a GET request."""
    return Target("GET", httpx.URL(url), headers)


async def ask(transport: Transport, url: str, body: bytes = b"") -> UpstreamResponse:
    """Send a request to *url* and return its response."""
    async with asyncio.timeout(TIMEOUT_SECONDS):
        return await transport.send(get(url), (), body, nothing)


async def collect(response: UpstreamResponse, seen: Callable[[bytes], None] = lambda _: None) -> bytes:
    """Return the body as it is pushed; call *seen* with each part. Raise the error that broke the response."""
    body, over = b"", asyncio.Event()

    def on_data(data: bytes) -> None:
        nonlocal body
        if data:
            body += data
            seen(data)
        if response.ended or response.broken is not None:
            over.set()

    response.on_data = on_data
    on_data(response.take())
    async with asyncio.timeout(TIMEOUT_SECONDS):
        await over.wait()
    response.on_data = None
    if response.broken is not None and not response.ended:
        raise response.broken
    return body


async def whole(response: UpstreamResponse) -> bytes:
    """Return the body by `read`, and close the response in the same iteration if all of it has arrived."""
    body = b""
    async with asyncio.timeout(TIMEOUT_SECONDS):
        while data := await response.read():
            body += data
    await response.aclose()
    return body
