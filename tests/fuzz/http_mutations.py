"""Mutations of HTTP messages that keep most of their structure: first line, header lines, framing."""

from __future__ import annotations

import gzip
from random import Random
from typing import NamedTuple

from byte_mutations import INTERESTING


class Parts(NamedTuple):
    """One message: its first line, its header lines, and its body."""

    start: bytes
    lines: list[bytes]
    body: bytes

    def joined(self) -> bytes:
        """Return the bytes of the message, with its lines as they are."""
        return b"\r\n".join([self.start, *self.lines]) + b"\r\n\r\n" + self.body

    def without(self, *names: bytes) -> list[bytes]:
        """Return the header lines other than those of *names*."""
        return [line for line in self.lines if line.partition(b":")[0].strip().lower() not in names]


METHODS = (
    b"GET",
    b"HEAD",
    b"POST",
    b"PUT",
    b"DELETE",
    b"PATCH",
    b"OPTIONS",
    b"TRACE",
    b"CONNECT",
    b"PRI",
    b"get",
    b"P\xc3\xb6ST",
    b"",
)
TARGETS = (
    *(b"/", b"/api/chat", b"/v1/chat/completions", b"/v1/models", b"/v1/models/m", b"/healthz", b"/readyz", b"/v1/usage", b"*"),
    *(b"/v1/models/" + b"x" * 3_000, b"/v1/models/%00", b"/v1/models/a%2fb", b"/v1/models/..", b"/%ff%fe", b"//x//y", b"/a?b=c&d", b"/a#b"),
    *(b"http://127.0.0.1/v1/models", b"http://127.0.0.1", b"http://[::1/", b"http://x:99999/", b"x:443", b"/" + b"a/" * 900, b"/v1/embeddings"),
    *(b"/API/CHAT", b"/api/chat/", b"/api/chat;x", b"/api//chat", b"/v1/chat/completions?stream=true", b"?", b"http://127.0.0.1:80:80/"),
)  # fmt: skip
VERSIONS = (b"HTTP/1.1", b"HTTP/1.0", b"HTTP/0.9", b"HTTP/1.2", b"HTTP/2.0", b"HTTP/1.1 ", b"HTTP/1.", b"http/1.1", b"")
REQUEST_LINES = (
    *(b"transfer-encoding: chunked", b"transfer-encoding: gzip, chunked", b"transfer-encoding: identity", b"content-length: 0"),
    *(b"content-length: 5", b"content-length: 99999999999999999999", b"content-length: -1", b"content-length: +5", b"content-length: 99999999"),
    *(b"expect: 100-continue", b"expect: x", b"upgrade: websocket", b"connection: upgrade", b"connection: close", b"connection: keep-alive"),
    *(b"content-encoding: gzip", b"content-encoding: deflate", b"content-encoding: br", b"content-type: text/plain", b"content-type:"),
    *(b"content-type: application/json; charset=utf-16", b"x-request-id: mine", b"x-request-id: " + b"y" * 500, b"x-request-id: a b"),
    *(b"x-profile: balanced", b"x-profile: none", b"x-event-schema: chat-nest", b"x-event-schema: other", b"origin: http://localhost:5173"),
    *(b"authorization: Bearer x", b"authorization: Basic \xff", b"authorization:", b"x-forwarded-for: 1.2.3.4, \xff", b'forwarded: for="[::1]"'),
    *(b"host: localhost", b"host:", b"traceparent: 00-x", b"x-stainless-retry-count: 1", b"idempotency-key: k", b"cookie: a=b", b"via: 1.1 x"),
    *(b"x-api-key: a", b"api-key: b", b"range: bytes=0-0", b"if-none-match: *", b"te: trailers", b"x: " + b"z" * 9_000, b"x\0y: z", b"x: S\xe3o"),
    *(b"x : y", b" x: y", b"nonsense", b": y", b"x: \r\n y", b"x: y\nz: w", b"sec-fetch-site: cross-site", b"access-control-request-method: POST"),
)  # fmt: skip
ANSWER_LINES = (
    *(b"transfer-encoding: chunked", b"transfer-encoding: gzip", b"transfer-encoding: chunked, identity", b"content-length: 0", b"content-length: 5"),
    *(b"content-length: 9999", b"content-length: -1", b"content-length: x", b"content-encoding: gzip", b"content-encoding: deflate", b"content-encoding: br"),
    *(b"content-encoding: identity, gzip", b"connection: close", b"connection: keep-alive", b"connection: upgrade", b"upgrade: h2c", b"retry-after: 0"),
    *(b"retry-after: -5", b"retry-after: 1e9", b"retry-after: Wed, 21 Oct 2099 07:28:00 GMT", b"retry-after: S\xe3o", b"retry-after-ms: x", b"x-should-retry: true"),
    *(b"x-ratelimit-reset-requests: 1h", b"x-ratelimit-remaining-tokens: 0", b"x-request-id: a b", b"x-request-id: r\x01", b"request-id: ok", b"openai-processing-ms: 5"),
    *(b"content-type: text/html", b"content-type: application/json", b"content-type: text/event-stream; charset=utf-16", b"content-type:", b"x-region: S\xc3\xa3o"),
    *(b"x: " + b"z" * 70_000, b"x\0y: z", b"x : y", b" x: y", b"nonsense", b": y", b"x: y\rz", b"x: y\nz: w", b"set-cookie: a=b", b"location: http://x/"),
)  # fmt: skip
STATUSES = (
    *(b"200 OK", b"201 X", b"204 X", b"206 X", b"100 X", b"101 X", b"103 X", b"301 X", b"302 X", b"304 X", b"400 X", b"401 X", b"402 X", b"403 X"),
    *(b"404 X", b"405 X", b"408 X", b"409 X", b"413 X", b"422 X", b"429 X", b"499 X", b"500 X", b"501 X", b"502 X", b"503 X", b"504 X", b"529 X"),
    *(b"600 X", b"999 X", b"099 X", b"20 X", b"2000 X", b"-1 X", b"200", b"200  ", b"OK", b""),
)  # fmt: skip


def parts_of(data: bytes) -> Parts:
    """Return the parts of the message *data*, its body with its framing."""
    head, _, rest = data.partition(b"\r\n\r\n")
    start, *lines = head.split(b"\r\n")
    return Parts(start, lines, rest)


def framed(parts: Parts, chance: Random, *, zipped: bool = False) -> bytes:
    """Return the message with its body in a valid framing: a length, or chunks of random sizes."""
    lines, body = parts.without(b"content-length", b"transfer-encoding"), parts.body
    if zipped:
        lines, body = [*lines, b"content-encoding: gzip"], gzip.compress(body, mtime=0)
    if chance.random() < 0.5:
        return Parts(parts.start, [*lines, b"content-length: %d" % len(body)], body).joined()
    return Parts(parts.start, [*lines, b"transfer-encoding: chunked"], chunks(body, chance)).joined()


def chunks(body: bytes, chance: Random) -> bytes:
    """Return *body* as chunks of random sizes, now and then with an extension, leading zeros or a trailer."""
    framing, at = bytearray(), 0
    largest = max(1, len(body) // chance.choice((1, 2, 5, 20)))
    while at < len(body):
        piece = body[at : at + chance.randrange(1, largest + 1)]
        at += len(piece)
        size = b"%x" % len(piece)
        if chance.random() < 0.05:
            size = chance.choice((b"000" + size, size.upper(), size + b";x=y", size + b';x="y"'))
        framing += size + b"\r\n" + piece + b"\r\n"
    trailer = chance.choice((b"", b"", b"", b"", b"x-t: 1\r\n"))
    return bytes(framing) + b"0\r\n" + trailer + b"\r\n"


def mutate_lines(parts: Parts, chance: Random, extra: tuple[bytes, ...]) -> Parts:
    """Return *parts* after one to three changes of header lines; *extra* are lines that may be added."""
    lines = list(parts.lines)
    for _ in range(chance.choice((1, 1, 2, 3))):
        at = chance.randrange(len(lines)) if lines else 0
        how = chance.randrange(8)
        if how < 3 or not lines:
            lines.insert(chance.randrange(len(lines) + 1), chance.choice(extra))
        elif how == 3:
            lines.insert(at, lines[at])
        elif how == 4:
            del lines[at]
        elif how == 5:
            chance.shuffle(lines)
        elif how == 6:
            name, colon, value = lines[at].partition(b":")
            lines[at] = chance.choice(
                (name.upper() + colon + value, name + colon + value + b"  ", name + colon + b"\t" + value)
            )
        else:
            name, colon, value = lines[at].partition(b":")
            cut = chance.randrange(len(value) + 1)
            lines[at] = name + colon + value[:cut] + chance.choice(INTERESTING[:30]) + value[cut:]
    if chance.random() < 0.02:
        lines += [b"x-%d: y" % each for each in range(chance.choice((60, 200, 600)))]
    return parts._replace(lines=lines)


def mutate_request_line(parts: Parts, chance: Random) -> Parts:
    """Return *parts* with another method, target or version."""
    words = parts.start.split(b" ")
    words += [b""] * (3 - len(words))
    at = chance.randrange(3)
    words[at] = chance.choice((METHODS, TARGETS, VERSIONS)[at])
    return parts._replace(start=chance.choice((b" ", b" ", b" ", b"  ", b"\t")).join(words))


def mutate_status_line(parts: Parts, chance: Random) -> Parts:
    """Return *parts* with another status or version."""
    version, _, status = parts.start.partition(b" ")
    if chance.random() < 0.2:
        version = chance.choice(VERSIONS)
    else:
        status = chance.choice(STATUSES)
    return parts._replace(start=version + b" " + status)
