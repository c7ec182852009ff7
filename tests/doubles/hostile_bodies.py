"""Bodies of requests that cost much CPU for their size: many or long pieces, repeated up to a size or a number."""

from __future__ import annotations

import gzip
import math
from decimal import Decimal, localcontext

FREE_FIELD = b"response_format"
"""A field with any JSON, which no rule reads."""
MEGABYTE = 1_000_000
MOST = 16_000_000
"""Bytes of the largest bodies, a little less than the default `max_body`."""
USER, ANSWER = b'{"role":"user","content":"abc"}', b'{"role":"assistant","content":""}'
TEXT_PART = b'{"type":"text","text":"a"}'
TOOL = (
    b'{"type":"function","function":{"name":"f","parameters":{"type":"object","properties":{"a":{"type":"string"}}}}}'
)


def of_field(value: bytes, name: bytes = FREE_FIELD) -> bytes:
    """Return a body with the field *name*."""
    return b'{"model":"m","messages":[{"role":"user","content":"hi"}],"%b":%b}' % (name, value)


def filled(start: bytes, item: bytes, end: bytes, size: int) -> bytes:
    """Return *start*, copies of *item* with commas between them, and *end*: about *size* bytes."""
    many = max(1, (size - len(start) - len(end)) // (len(item) + 1))
    return start + b",".join([item] * many) + end


def list_field(item: bytes, size: int, name: bytes = FREE_FIELD) -> bytes:
    return of_field(filled(b"[", item, b"]", size), name)


def numbered(form: bytes, many: int) -> bytes:
    return b",".join(form % at for at in range(many))


def object_field(form: bytes, many: int, name: bytes = FREE_FIELD) -> bytes:
    return of_field(b"{%b}" % numbered(form, many), name)


def messages(item: bytes, size: int, *, many: int = 10**9) -> bytes:
    count = min(many, size // (len(item) + 1))
    return b'{"model":"m","messages":[%b]}' % b",".join([item] * count)


def parts(item: bytes, size: int, *, many: int = 10**9) -> bytes:
    count = min(many, size // (len(item) + 1))
    return messages(b'{"role":"user","content":[%b]}' % b",".join([item] * count), 2 * size, many=1)


def text(piece: bytes, size: int) -> bytes:
    return messages(b'{"role":"user","content":"%b"}' % (piece * (size // len(piece))), 2 * size, many=1)


def models(form: bytes, many: int) -> bytes:
    return of_field(b"[%b]" % numbered(form, many), b"models")


def chat(item: bytes, size: int) -> bytes:
    return filled(b'{"messages":[', item, b"]}", size)


def deep(levels: int, size: int) -> bytes:
    return list_field(b"[" * levels + b"]" * levels, size)


def number(digits: int) -> bytes:
    return b"9" * digits


def between_floats(digits: int, near: float = 1e300) -> bytes:
    """Return the first *digits* of the number in the middle between *near* and the next float: slow to convert."""
    with localcontext(prec=1_200):
        middle = (Decimal(near) + Decimal(math.nextafter(near, math.inf))) / 2
        written = f"{middle:.{digits - 1}e}" if digits < len(middle.as_tuple().digits) else f"{middle:e}"
    return written.encode()


def zipped(body: bytes) -> bytes:
    return gzip.compress(body, 9)


def prompts(item: bytes, size: int, field: bytes = b"input", *, many: int = 10**9) -> bytes:
    """Return a request for embeddings, or for another API with its *field*, with a list of *item*."""
    count = max(1, min(many, size // (len(item) + 1)))
    return b'{"model":"m","%b":[%b]}' % (field, b",".join([item] * count))


def many_messages(item: bytes, many: int = 9_990) -> bytes:
    return messages(item, 2 * MOST, many=many)


def many_parts(item: bytes, many: int = 9_990) -> bytes:
    return parts(item, 2 * MOST, many=many)


def many_values(item: bytes, many: int) -> bytes:
    return of_field(b"[%b]" % b",".join([item] * many))


def many_fields(item: bytes) -> bytes:
    return b'{"messages":[%b],%b}' % (USER, b",".join(b'"%04d":%b' % (at, item) for at in range(990)))


def floats() -> bytes:
    """Return a body of as many values as one may have, of those that take longest to decode."""
    return many_values(b"5e-324", 49_900)
