"""A strict parser of HTTP/1.1 messages (RFC 9112), independent of the sidecar's: it refuses whatever is ambiguous."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-5]\d\d) [\t\x20-\x7e\x80-\xff]*")
REQUEST_LINE = re.compile(rb"([A-Z]+) ([\x21-\x7e]+) HTTP/1\.1")
FIELD = re.compile(
    rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):[ \t]*((?:[\x21-\x7e\x80-\xff](?:[\t\x20-\x7e\x80-\xff]*[\x21-\x7e\x80-\xff])?)?)[ \t]*"
)
ANY_VALUE = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):[ \t]*([^\0\r\n]*?)[ \t]*")
"""A field whose value may have control characters, which do not concern the framing."""
_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
CHUNK_SIZE = re.compile(
    rb"([0-9A-Fa-f]{1,15})(?:;%b(?:=(?:%b|\"[\t\x20\x21\x23-\x5b\x5d-\x7e]*\"))?)*" % (_TOKEN, _TOKEN)
)
LENGTH = re.compile(rb"\d{1,15}")
NO_BODY = frozenset({204, 304})
FIRST_FINAL_STATUS = 200


class NotStrict(Exception):
    """The bytes are no HTTP/1.1 message, or an ambiguous one."""


class Message(NamedTuple):
    """One message. *status* is 0 for a request. *ended*: the body is complete; False where more bytes must follow.

    *until_close*: the body ends with the connection. *size* counts the bytes of the message.
    """

    start: bytes
    status: int
    fields: list[tuple[bytes, bytes]]
    body: bytes
    ended: bool
    until_close: bool
    size: int

    def field(self, name: bytes) -> bytes:
        """Return the first value of *name*, in lower case; empty if it is absent."""
        return next((value for each, value in self.fields if each == name), b"")

    @property
    def closes(self) -> bool:
        """Whether the connection ends behind this message."""
        version = self.start[5:8] if self.status else b"1.1"
        options = [
            part.strip().lower() for name, value in self.fields if name == b"connection" for part in value.split(b",")
        ]
        return self.until_close or b"close" in options or (version == b"1.0" and b"keep-alive" not in options)


def read_message(
    data: bytes, *, request: bool = False, has_body: bool = True, controls: bool = False
) -> Message | None:
    """Return the first message of *data*; None while its head is incomplete. Raise `NotStrict` for anything else.

    *has_body*: False for the response to HEAD. *controls*: values of fields may have control characters.
    """
    end = data.find(b"\r\n\r\n")
    if end < 0:
        return None
    start, *lines = data[:end].split(b"\r\n")
    match = (REQUEST_LINE if request else STATUS_LINE).fullmatch(start)
    if match is None:
        raise NotStrict(f"first line {start[:80]!r}")
    fields = read_fields(lines, ANY_VALUE if controls else FIELD)
    status = 0 if request else int(match[2])
    lengths = [value for name, value in fields if name == b"content-length"]
    codings = [value.lower() for name, value in fields if name == b"transfer-encoding"]
    body_at = end + 4
    if len(lengths) > 1 or len(codings) > 1 or (lengths and codings):
        raise NotStrict("several lengths or codings")
    if codings and (codings[0] != b"chunked" or (not request and match[1] == b"0")):
        raise NotStrict(f"coding {codings[0]!r}")
    if lengths and not LENGTH.fullmatch(lengths[0]):
        raise NotStrict(f"length {lengths[0]!r}")
    if status and (status < FIRST_FINAL_STATUS or status in NO_BODY or not has_body):
        return Message(start, status, fields, b"", ended=True, until_close=False, size=body_at)
    if codings:
        body, size, ended = read_chunks(data[body_at:])
        return Message(start, status, fields, body, ended=ended, until_close=False, size=body_at + size)
    if lengths or request:
        length = int(lengths[0]) if lengths else 0
        body = data[body_at : body_at + length]
        return Message(
            start, status, fields, body, ended=len(body) == length, until_close=False, size=body_at + len(body)
        )
    return Message(start, status, fields, data[body_at:], ended=False, until_close=True, size=len(data))


def read_fields(lines: Sequence[bytes], field: re.Pattern[bytes] = FIELD) -> list[tuple[bytes, bytes]]:
    """Return names in lower case and values of header *lines*. Raise `NotStrict` for a line that is no field."""
    fields = []
    for line in lines:
        if (match := field.fullmatch(line)) is None:
            raise NotStrict(f"header line {line[:80]!r}")
        fields.append((match[1].lower(), match[2]))
    return fields


def read_chunks(data: bytes) -> tuple[bytes, int, bool]:
    """Return the body of chunked *data*, the bytes that were read, and whether it has ended. Raise `NotStrict`."""
    body, at = bytearray(), 0
    while (end := data.find(b"\r\n", at)) >= 0:
        match = CHUNK_SIZE.fullmatch(data[at:end])
        if match is None:
            raise NotStrict(f"chunk size {data[at:end][:80]!r}")
        at, size = end + 2, int(match[1], 16)
        if not size:
            trailers = data.find(b"\r\n", at)
            if trailers == at:
                return bytes(body), at + 2, True
            trailers = data.find(b"\r\n\r\n", at)
            if trailers >= 0:
                read_fields(data[at:trailers].split(b"\r\n"))
                return bytes(body), trailers + 4, True
            return bytes(body), len(data), False
        body += data[at : at + size]
        at += size
        if data[at : at + 2] not in (b"\r\n", b"\r", b""):
            raise NotStrict(f"behind a chunk: {data[at : at + 2]!r}")
        at += 2
    if not CHUNK_SIZE.fullmatch(data[at:].removesuffix(b"\r") or b"0"):
        raise NotStrict(f"chunk size {data[at:][:80]!r}")
    return bytes(body), len(data), False


def read_responses(data: bytes, *, methods: Sequence[bytes] = ()) -> list[Message]:
    """Return the final responses in *data*, all that a client received. Raise `NotStrict` where it is no sequence of them.

    *methods* are those of the requests, in order; only HEAD matters.
    """
    found: list[Message] = []
    while data:
        has_body = len(found) >= len(methods) or methods[len(found)] != b"HEAD"
        message = read_message(data, has_body=has_body)
        if message is None:
            raise NotStrict(f"an incomplete head: {data[:80]!r}")
        data = data[message.size :]
        if message.status >= FIRST_FINAL_STATUS:
            found.append(message)
    return found
