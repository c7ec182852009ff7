"""Answers of an upstream whose end is ambiguous, or that carry a second answer for the next client on the connection.

To add a case, add a row: its name, the bytes that are sent in one write for the first request, what the first client must
receive, whether the connection is kept, and the source of the technique.
"""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

from recorded_bytes import with_length
from scripts import whole_answer
from smuggling import BROWSER, DESYNC, ENDGAME, FUNKY, SECTION, chunk

POISON = b"poisoned"
"""A text that is in each hidden answer, and that the next client must never receive."""
FIRST = whole_answer("first")
"""The answer to the first client."""
SECOND = with_length(whole_answer("poisoned"))
"""A complete answer to no request."""
SIZE = len(FIRST)
QUEUE = "PortSwigger, response queue poisoning (2021)"
SPLIT = "CWE-113, response splitting"


class Client(StrEnum):
    """What the first client must receive."""

    ANSWER = "its answer"
    FAILURE = "an error"
    EITHER = "its answer or an error"


class Kept(StrEnum):
    """Whether the connection to the upstream is kept."""

    DROPPED = "dropped"
    KEPT = "kept"
    EITHER = "kept or dropped"
    """The framing is certain; to drop the connection is safe too."""


class AnswerRow(NamedTuple):
    """One case. *ends*: the upstream closes its side behind the bytes."""

    name: str
    data: bytes
    client: Client
    kept: Kept
    source: str
    ends: bool = False


def answer(*lines: bytes, body: bytes = FIRST, start: bytes = b"HTTP/1.1 200 OK") -> bytes:
    """Return a response with the header *lines*."""
    return b"\r\n".join([start, b"content-type: application/json", *lines]) + b"\r\n\r\n" + body


def measured(*lines: bytes, body: bytes = FIRST, start: bytes = b"HTTP/1.1 200 OK") -> bytes:
    """Return a response with the length of the first answer."""
    return answer(b"content-length: %d" % SIZE, *lines, body=body, start=start)


def chunked(*lines: bytes, body: bytes = chunk(FIRST) + b"0\r\n\r\n") -> bytes:
    """Return a chunked response."""
    return answer(b"transfer-encoding: chunked", *lines, body=body)


def sized(size: bytes) -> bytes:
    """Return a chunked response with *size* in place of the size of its chunk, and a hidden answer behind."""
    return chunked(body=chunk(FIRST, size) + b"0\r\n\r\n" + SECOND)


ANSWER, FAILURE, ANY = Client.ANSWER, Client.FAILURE, Client.EITHER
DROPPED, KEPT, OPEN = Kept.DROPPED, Kept.KEPT, Kept.EITHER
END = b"0\r\n\r\n"
_HEX = b"%x" % SIZE

SURPLUS = (
    AnswerRow("a second answer behind a length", measured() + SECOND, ANY, DROPPED, QUEUE),
    AnswerRow("ten answers behind a length", measured() + SECOND * 10, ANY, DROPPED, QUEUE),
    AnswerRow("a second answer behind chunks", chunked() + SECOND, ANY, DROPPED, QUEUE),
    AnswerRow("half an answer behind a length", measured() + SECOND[:30], ANY, DROPPED, QUEUE),
    AnswerRow("garbage behind a length", measured() + b"poisoned", ANY, DROPPED, f"{SECTION}6.3"),
    AnswerRow("a body longer than its length", measured(body=FIRST + b"poisoned"), ANY, DROPPED, f"{SECTION}6.3"),
    AnswerRow("CRLF behind a length", measured() + b"\r\n", ANY, OPEN, f"{SECTION}2.2"),
    AnswerRow("CRLF and an answer behind a length", measured() + b"\r\n" + SECOND, ANY, DROPPED, QUEUE),
    AnswerRow("garbage behind the last chunk", chunked() + b"poisoned", ANY, DROPPED, f"{SECTION}6.3"),
    AnswerRow("two last chunks", chunked(body=chunk(FIRST) + END + END), ANY, DROPPED, f"{SECTION}7.1"),
    AnswerRow("an answer behind 204", b"HTTP/1.1 204 No Content\r\n\r\n" + SECOND, FAILURE, DROPPED, f"{SECTION}6.3"),
    AnswerRow("204 with a length and a body", b"HTTP/1.1 204 X\r\ncontent-length: 8\r\n\r\npoisoned", FAILURE, DROPPED, f"{SECTION}6.3"),
    AnswerRow("304 with a body", b"HTTP/1.1 304 X\r\ncontent-length: 8\r\n\r\npoisoned", FAILURE, DROPPED, f"{SECTION}6.3"),
    AnswerRow("205 with a body", with_length(b"poisoned", b"205 X"), FAILURE, OPEN, "RFC 9110, 15.3.6"),
    AnswerRow("a length of 0 and a body", answer(b"content-length: 0", body=SECOND), FAILURE, DROPPED, f"{BROWSER}: CL.0"),
)  # fmt: skip

LENGTHS = (
    AnswerRow("CL.TE: a length and chunked", answer(b"content-length: 5", b"transfer-encoding: chunked", body=chunk(FIRST) + END + SECOND), ANY, DROPPED, f"{SECTION}6.3; {DESYNC}"),
    AnswerRow("TE.CL: chunked and a length", answer(b"transfer-encoding: chunked", b"content-length: 5", body=chunk(FIRST) + END), ANY, DROPPED, f"{SECTION}6.3; {DESYNC}"),
    AnswerRow("a length of 0 and chunked", answer(b"content-length: 0", b"transfer-encoding: chunked", body=chunk(FIRST) + END), ANY, DROPPED, f"{SECTION}6.3"),
    AnswerRow("two equal lengths", measured(b"content-length: %d" % SIZE), ANY, OPEN, f"{SECTION}6.3", ends=True),
    AnswerRow("two lengths", measured(b"content-length: 5") + SECOND, ANY, DROPPED, f"{SECTION}6.3", ends=True),
    AnswerRow("two lengths, the lower one first", answer(b"content-length: 5", b"content-length: %d" % SIZE) + SECOND, ANY, DROPPED, f"{SECTION}6.3", ends=True),
    AnswerRow("a list of equal lengths", answer(b"content-length: %d, %d" % (SIZE, SIZE)), ANY, OPEN, f"{SECTION}6.3", ends=True),
    AnswerRow("a list of lengths", answer(b"content-length: %d, 5" % SIZE) + SECOND, ANY, DROPPED, f"{SECTION}6.3", ends=True),
    *(
        AnswerRow(f"length {name}", answer(b"content-length: " + value) + SECOND, ANY, DROPPED, f"{SECTION}6.2, 6.3", ends=True)
        for name, value in (
            ("with a plus", b"+%d" % SIZE),
            ("with a minus", b"-1"),
            ("in hexadecimal", b"0x%x" % SIZE),
            ("with a fraction", b"%d.0" % SIZE),
            ("with a letter", b"%dx" % SIZE),
            ("with a space inside", b"%d 0" % SIZE),
            ("with an underscore", b"%d_0" % SIZE),
            ("of 2 to the 64th and its own", b"%d" % (2**64 + SIZE)),
            ("of nothing", b""),
            ("with a NUL", b"%d\x00" % SIZE),
        )
    ),
    AnswerRow("length with leading zeros", answer(b"content-length: 000%d" % SIZE), ANSWER, KEPT, f"{SECTION}6.2"),
    AnswerRow("length with a space before the colon", answer(b"content-length : 5") + SECOND, ANY, DROPPED, f"{SECTION}5.1", ends=True),
    AnswerRow("length with a tab before the colon", answer(b"content-length\t: 5") + SECOND, ANY, DROPPED, f"{SECTION}5.1", ends=True),
    AnswerRow("length on a folded line", answer(b"content-length:\r\n 5") + SECOND, ANY, DROPPED, f"{SECTION}5.2", ends=True),
    AnswerRow("length behind a folded line", answer(b"x: y\r\n content-length: 5", b"content-length: %d" % SIZE) + SECOND, ANY, DROPPED, f"{SECTION}5.2", ends=True),
    AnswerRow("a body shorter than its length", answer(b"content-length: %d" % (SIZE + 9)), FAILURE, DROPPED, f"{SECTION}8", ends=True),
    AnswerRow("a body without a length, then an answer", answer() + SECOND, ANY, DROPPED, f"{SECTION}6.3", ends=True),
)  # fmt: skip

CODINGS = (
    *(
        AnswerRow(f"transfer-encoding: {name}", answer(*lines, body=chunk(FIRST) + END + SECOND), ANY, DROPPED, f"{SECTION}6.1, 6.3; {DESYNC}: TE.TE", ends=True)
        for name, *lines in (
            ("chunked, identity", b"transfer-encoding: chunked, identity"),
            ("gzip, chunked", b"transfer-encoding: gzip, chunked"),
            ("identity, chunked", b"transfer-encoding: identity, chunked"),
            ("chunked twice", b"transfer-encoding: chunked", b"transfer-encoding: chunked"),
            ("chunked, then identity", b"transfer-encoding: chunked", b"transfer-encoding: identity"),
            ("xchunked", b"transfer-encoding: xchunked"),
            ("identity", b"transfer-encoding: identity"),
            ("with a parameter", b"transfer-encoding: chunked;q=1"),
            ("behind a vertical tab", b"transfer-encoding: \x0bchunked"),
            ("behind a NUL", b"transfer-encoding: \x00chunked"),
            ("in quotes", b'transfer-encoding: "chunked"'),
            ("an empty value", b"transfer-encoding:"),
            ("a space before the colon", b"transfer-encoding : chunked"),
            ("a folded line", b"transfer-encoding:\r\n chunked"),
            ("behind a bare LF", b"x: y\ntransfer-encoding: chunked"),
            ("behind a bare CR", b"x: y\rtransfer-encoding: chunked"),
        )
    ),
    AnswerRow("chunked in capitals", answer(b"Transfer-Encoding: CHUNKED", body=chunk(FIRST) + END), ANSWER, KEPT, f"{SECTION}6.1"),
    AnswerRow("chunked in front of a space", answer(b"transfer-encoding: chunked ", body=chunk(FIRST) + END), ANY, OPEN, "RFC 9110, 5.5", ends=True),
    AnswerRow("HTTP/1.0 with chunked", answer(b"transfer-encoding: chunked", body=chunk(FIRST) + END + SECOND, start=b"HTTP/1.0 200 OK"), ANY, DROPPED, f"{SECTION}6.1", ends=True),
    AnswerRow("HTTP/1.0 with keep-alive and an answer", measured(b"connection: keep-alive", start=b"HTTP/1.0 200 OK") + SECOND, ANY, DROPPED, f"{SECTION}9.3"),
    AnswerRow("connection: close, then an answer", measured(b"connection: close") + SECOND, ANY, DROPPED, f"{SECTION}9.6"),
)  # fmt: skip

CHUNKS = (
    *(
        AnswerRow(f"chunk size {name}", sized(size), ANY, DROPPED, f"{SECTION}7.1; {FUNKY}", ends=True)
        for name, size in (
            ("with 0x", b"0x" + _HEX),
            ("with a plus", b"+" + _HEX),
            ("with a minus", b"-" + _HEX),
            ("with an underscore", _HEX[:1] + b"_" + _HEX[1:]),
            ("with a space in front", b" " + _HEX),
            ("with a letter behind", _HEX + b"g"),
            ("of nothing", b""),
            ("of 2 to the 64th and its own", b"%x" % (2**64 + SIZE)),
            ("with a bare CR", _HEX + b"\r"),
            ("with an LF in an extension", _HEX + b";x\ny"),
            ("with CRLF in a quoted extension", _HEX + b';x="\r\n"'),
            ("with a NUL in an extension", _HEX + b";\x00"),
        )
    ),
    AnswerRow("chunk size with an extension", chunked(body=chunk(FIRST, _HEX + b';x="y"') + END), ANSWER, KEPT, f"{SECTION}7.1.1"),
    AnswerRow("chunk size with spaces behind", chunked(body=chunk(FIRST, _HEX + b"  ") + END), ANSWER, OPEN, f"{SECTION}7.1.1: BWS"),
    AnswerRow("chunk without CRLF behind it", chunked(body=_HEX + b"\r\n" + FIRST + END + SECOND), ANY, DROPPED, f"{FUNKY}: SPILL", ends=True),
    AnswerRow("chunk longer than its size", chunked(body=chunk(FIRST + b"poisoned", _HEX) + END + SECOND), ANY, DROPPED, f"{FUNKY}: SPILL", ends=True),
    AnswerRow("no last chunk", chunked(body=chunk(FIRST)), FAILURE, DROPPED, f"{SECTION}8", ends=True),
    AnswerRow("last chunk without its blank line, then an answer", chunked(body=chunk(FIRST) + b"0\r\n" + SECOND), ANY, DROPPED, f"{FUNKY}; {ENDGAME}: trailers", ends=True),
    AnswerRow("trailer with a length", chunked(body=chunk(FIRST) + b"0\r\ncontent-length: 500\r\n\r\n"), ANY, OPEN, "RFC 9110, 6.5.1", ends=True),
    AnswerRow("trailer that is an answer", chunked(body=chunk(FIRST) + b"0\r\nx: y\r\n" + SECOND), ANY, DROPPED, f"{ENDGAME}: trailers", ends=True),
)  # fmt: skip

HEADS = (
    AnswerRow("100 Continue first", b"HTTP/1.1 100 Continue\r\n\r\n" + measured(), ANSWER, KEPT, "RFC 9110, 15.2.1"),
    AnswerRow("103 Early Hints first", b"HTTP/1.1 103 X\r\nlink: </x>\r\n\r\n" + measured(), ANSWER, KEPT, "RFC 8297"),
    AnswerRow("100 with a length and a body", b"HTTP/1.1 100 X\r\ncontent-length: 8\r\n\r\npoisoned" + measured(), ANY, DROPPED, "RFC 9110, 15.2", ends=True),
    AnswerRow("100 with chunked", b"HTTP/1.1 100 X\r\ntransfer-encoding: chunked\r\n\r\n" + chunk(b"poisoned") + END + measured(), ANY, DROPPED, "RFC 9110, 15.2", ends=True),
    AnswerRow("100 behind the answer", measured() + b"HTTP/1.1 100 Continue\r\n\r\n", ANY, DROPPED, QUEUE),
    AnswerRow("101 without an offer", b"HTTP/1.1 101 X\r\nupgrade: h2c\r\nconnection: upgrade\r\n\r\n" + SECOND, FAILURE, DROPPED, "RFC 9110, 15.2.2"),
    AnswerRow("101 without an upgrade header", b"HTTP/1.1 101 X\r\n\r\n" + SECOND, FAILURE, DROPPED, "RFC 9110, 15.2.2", ends=True),
    AnswerRow("200 with an upgrade header", measured(b"connection: upgrade", b"upgrade: h2c") + SECOND, ANY, DROPPED, "RFC 9110, 7.8"),
    AnswerRow("status 099", measured(start=b"HTTP/1.1 099 X"), FAILURE, DROPPED, f"{SECTION}4", ends=True),
    AnswerRow("status of four digits", measured(start=b"HTTP/1.1 2000 X"), FAILURE, DROPPED, f"{SECTION}4", ends=True),
    AnswerRow("status with a plus", measured(start=b"HTTP/1.1 +20 X"), FAILURE, DROPPED, f"{SECTION}4", ends=True),
    AnswerRow("version 2.0", measured(start=b"HTTP/2.0 200 OK") + SECOND, ANY, DROPPED, f"{SECTION}2.3", ends=True),
    AnswerRow("another protocol", b"ICY 200 OK\r\n\r\n" + SECOND, FAILURE, DROPPED, f"{SECTION}2.3", ends=True),
    AnswerRow("CRLF before the answer", b"\r\n\r\n" + measured(), ANY, OPEN, f"{SECTION}2.2", ends=True),
    AnswerRow("garbage before the answer", b"poisoned\r\n" + measured(), FAILURE, DROPPED, f"{SECTION}2.2", ends=True),
    AnswerRow("a request as an answer", b"GET /poisoned HTTP/1.1\r\nhost: x\r\n\r\n", FAILURE, DROPPED, f"{SECTION}2.1", ends=True),
    AnswerRow("LF for all line endings of the head", measured(body=b"").replace(b"\r\n", b"\n") + FIRST, ANY, OPEN, f"{SECTION}2.2", ends=True),
    AnswerRow("a NUL in a header", measured(b"x-request-id: a\x00b"), ANY, OPEN, f"{SECTION}5.5", ends=True),
    AnswerRow("a NUL in a header name", measured(b"x\x00y: z"), FAILURE, DROPPED, f"{SECTION}5.1", ends=True),
    AnswerRow("a space in a header name", measured(b"x y: z"), ANY, DROPPED, f"{SECTION}5.1", ends=True),
    AnswerRow("a header without a colon", measured(b"poisoned"), ANY, DROPPED, f"{SECTION}5", ends=True),
    *(
        AnswerRow(f"a {name} in a header that is passed on", measured(b"retry-after: 5", b"x-ratelimit-limit-requests: 1" + value + b"2"), ANY, OPEN, SPLIT, ends=True)
        for name, value in (
            ("bare CR", b"\rset-cookie: poisoned"),
            ("bare LF", b"\nset-cookie: poisoned"),
            ("CR LF in escapes", b"%0d%0aset-cookie: x"),
            ("control byte", b"\x01"),
            ("DEL", b"\x7f"),
            ("non-ASCII letter", "ã".encode()),
            ("invalid UTF-8 byte", b"\xe3"),
            ("line separator", "\u2028".encode()),
        )
    ),
    AnswerRow("a hop-by-hop header", measured(b"connection: close, x-secret", b"x-secret: poisoned", b"set-cookie: poisoned"), ANSWER, DROPPED, "RFC 9110, 7.6.1"),
)  # fmt: skip

REFUSED = b'{"error": {"message": "busy"}}'
NAMES = (
    b"x-region",
    b"retry-after",
    b"retry-after-ms",
    b"x-should-retry",
    b"x-ratelimit-reset-requests",
    b"x-request-id",
    b"content-type",
    b"content-encoding",
    b"date",
    b"x-envoy-upstream-service-time",
)
REFUSALS = tuple(
    AnswerRow(f"{status.decode()} with a {kind} in {name.decode()}", with_length(REFUSED, status, name + b": S" + value + b"o"), FAILURE, OPEN, "RFC 9110, 5.5: obs-text is data")
    for status in (b"503 X", b"429 X")
    for name in NAMES
    for kind, value in (("UTF-8 letter", "ã".encode()), ("Latin-1 letter", b"\xe3"))
)  # fmt: skip

ANSWERS = (*SURPLUS, *LENGTHS, *CODINGS, *CHUNKS, *HEADS, *REFUSALS)

UNASKED = (
    ("a whole answer", SECOND),
    ("half an answer", SECOND[:20]),
    ("one byte", b"H"),
    ("CRLF", b"\r\n"),
    ("408 Request Timeout", b"HTTP/1.1 408 X\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"),
    ("100 Continue", b"HTTP/1.1 100 Continue\r\n\r\n"),
    ("garbage", b"\x00" * 100),
)
"""What an upstream sends on a kept connection although no request waits for it."""
