"""Record the requests that reach the application behind one connection of the server, and the server's own refusals."""

from __future__ import annotations

import json
from typing import Any

from served_connection import ServedConnection

from sidecar.downstream.client_errors import ClientError
from sidecar.server.http1.http_limits import LINGER_SECONDS, HttpLimits


class Refusals(list[tuple[int, str, str]]):
    """Records of the server: status, code and address."""

    def add(self, name: str, error: ClientError, ip: str) -> None:
        assert len(name) == 32
        self.append((error.status, error.code, ip))


class Asked(list[Any]):
    """An application that keeps the scope and the body of each request, and answers `ok`."""

    def __init__(self) -> None:
        super().__init__()
        self.served: ServedConnection

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body, more = body + message["body"], message["more_body"]
        self.append((scope, body))
        await ServedConnection.answer(self.served, scope, receive, send)


def asking(limits: HttpLimits | None = None) -> tuple[ServedConnection, Asked]:
    """Return a connection, and the requests that reach its application."""
    asked = Asked()
    asked.served = ServedConnection(asked, limits)
    return asked.served, asked


def refusal(served: ServedConnection) -> tuple[int, str]:
    """Return status and code of the only answer, which closes the connection after its client has read it."""
    head, body = served.transport.sent.split(b"\r\n\r\n")
    assert b"\r\nconnection: close" in head
    assert not served.transport.closing
    served.loop.advance(LINGER_SECONDS * 2.01)  # once more if it has sent something behind the refused bytes
    assert served.transport.closing
    return int(head.split()[1]), json.loads(body)["error"]["code"]
