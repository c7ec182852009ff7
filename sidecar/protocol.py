"""What is no HTTP at all is refused in the same form as everything else."""

from __future__ import annotations

from uuid import uuid4

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from .errors import invalid_request, openai_body


class Protocol(HttpToolsProtocol):
    """uvicorn's protocol, with JSON for requests that cannot be parsed, and never a word into an answer that is running."""

    def send_400_response(self, msg: str) -> None:
        """Refuse what cannot be read, and close: nothing behind it can be trusted to begin where it seems to."""
        running = getattr(self, "cycle", None)
        if running is None or running.response_complete or not running.response_started:
            body = openai_body(invalid_request(f"This is not valid HTTP: {msg}", None))
            head = b"HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\ncontent-length: %d\r\n" % len(body)
            head += b"x-should-retry: false\r\nx-request-id: %b\r\nconnection: close\r\n\r\n" % uuid4().hex.encode()
            self.transport.write(head + body)
        self.transport.close()
