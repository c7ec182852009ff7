"""The head of a relayed answer: the few headers of the upstream that its client gets."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from sidecar.wire.limit_headers import Header

from .relayed_request import AnswerHead

PASSED_NAMES = (b"content-type", b"content-disposition")
"""Headers about the body. Cookies, servers and limits of the sidecar's own account are not for clients."""
MAX_VALUE_BYTES = 1_024
MAX_LENGTH_DIGITS = 18
EVENT_STREAM_TYPE = b"text/event-stream"
STREAM_HEADERS: tuple[Header, ...] = ((b"cache-control", b"no-cache"), (b"x-accel-buffering", b"no"))
BODILESS_STATUS = 204


def answer_head(
    status: int, fields: Iterable[Header], holds_secret: Callable[[str], bool], *, is_encoded: bool
) -> AnswerHead:
    """Return the head for the client of an answer with the header *fields*, names in lower case.

    Values that are no printable ASCII, too long, or for which *holds_secret* is true are dropped. The length is passed on
    where it is that of the bytes that follow: not for a chunked or compressed (*is_encoded*) answer.
    """
    values = dict(reversed(list(fields)))
    headers: list[Header] = []
    for name in PASSED_NAMES:
        value = values.get(name, b"")
        if value and len(value) <= MAX_VALUE_BYTES and _is_plain(value) and not holds_secret(value.decode("ascii")):
            headers.append((name, value))
    if values.get(b"content-type", b"").lower().startswith(EVENT_STREAM_TYPE):
        headers += STREAM_HEADERS
    return AnswerHead(status, headers, 0 if status == BODILESS_STATUS else _length(values, is_encoded=is_encoded))


def _length(values: dict[bytes, bytes], *, is_encoded: bool) -> int | None:
    value = values.get(b"content-length", b"").strip()
    if is_encoded or b"transfer-encoding" in values or not value.isdigit() or len(value) > MAX_LENGTH_DIGITS:
        return None
    return int(value)


def _is_plain(value: bytes) -> bool:
    return value.isascii() and value.decode("ascii").isprintable()
