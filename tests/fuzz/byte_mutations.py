"""Mutations of bytes, and splits of bytes into network reads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import TypeAlias

INTERESTING = (
    *(b"\0", b"\r", b"\n", b"\r\n", b"\r\n\r\n", b"\n\n", b" ", b"\t", b":", b",", b";", b'"', b"\\", b"{", b"}"),
    *(b"[", b"]", b"\x7f", b"\xff", b"\xc3", b"\xef\xbb\xbf", b"\xed\xa0\x80", b"%", b"%00", b"%2e%2e", b"0", b"-1"),
    *(b"9" * 20, b"1e999", b"null", b"NaN", b"\\ud800", b"\\u0000", b"data:", b"data: [DONE]\n\n", b"event: error\n"),
    *(
        b": x\n\n",
        b"retry: 1\n",
        b"chunked",
        b"0\r\n\r\n",
        b"identity",
        b"HTTP/1.1",
        b"HTTP/1.0",
        b"GET / HTTP/1.1\r\n\r\n",
    ),
    *(b"A" * 5_000, b"[" * 200, b'{"a":' * 120),
)
MAX_CASE_BYTES = 262_144
"""Mutated bytes of one case; more is cut."""
MAX_PIECES = 40

Mutation: TypeAlias = Callable[[bytes, Random, Sequence[bytes]], bytes]


def _span(data: bytes, chance: Random) -> tuple[int, int]:
    """Return a random range of *data*, more often a short one."""
    start = chance.randrange(len(data) + 1)
    return start, min(len(data), start + int(chance.expovariate(1 / 12)) + 1)


def flip(data: bytes, chance: Random, others: Sequence[bytes]) -> bytes:
    """Flip one bit."""
    at = chance.randrange(len(data))
    return data[:at] + bytes([data[at] ^ 1 << chance.randrange(8)]) + data[at + 1 :]


def replace(data: bytes, chance: Random, others: Sequence[bytes]) -> bytes:
    """Replace one byte by any other."""
    at = chance.randrange(len(data))
    return data[:at] + bytes([chance.randrange(256)]) + data[at + 1 :]


def insert(data: bytes, chance: Random, others: Sequence[bytes]) -> bytes:
    """Insert bytes that parsers treat in a special way."""
    at = chance.randrange(len(data) + 1)
    return data[:at] + chance.choice(INTERESTING) + data[at:]


def overwrite(data: bytes, chance: Random, others: Sequence[bytes]) -> bytes:
    """Overwrite a range by bytes that parsers treat in a special way."""
    start, end = _span(data, chance)
    return data[:start] + chance.choice(INTERESTING) + data[end:]


def delete(data: bytes, chance: Random, others: Sequence[bytes]) -> bytes:
    """Delete a range."""
    start, end = _span(data, chance)
    return data[:start] + data[end:]


def duplicate(data: bytes, chance: Random, others: Sequence[bytes]) -> bytes:
    """Repeat a range, a few times or often."""
    start, end = _span(data, chance)
    return data[:end] + data[start:end] * chance.choice((1, 1, 2, 50)) + data[end:]


def move(data: bytes, chance: Random, others: Sequence[bytes]) -> bytes:
    """Move a range to another place."""
    start, end = _span(data, chance)
    rest = data[:start] + data[end:]
    at = chance.randrange(len(rest) + 1)
    return rest[:at] + data[start:end] + rest[at:]


def truncate(data: bytes, chance: Random, others: Sequence[bytes]) -> bytes:
    """Cut the end off."""
    return data[: chance.randrange(len(data))]


def behead(data: bytes, chance: Random, others: Sequence[bytes]) -> bytes:
    """Cut the start off."""
    return data[chance.randrange(len(data)) :]


def splice(data: bytes, chance: Random, others: Sequence[bytes]) -> bytes:
    """Join the start of *data* and the end of another seed."""
    other = chance.choice(others) if others else data
    return data[: chance.randrange(len(data) + 1)] + other[chance.randrange(len(other) + 1) :]


def append(data: bytes, chance: Random, others: Sequence[bytes]) -> bytes:
    """Append another seed."""
    return data + (chance.choice(others) if others else data)


MUTATIONS: tuple[Mutation, ...] = (
    *(flip, replace, insert, insert, overwrite, delete, delete, duplicate, move, truncate, behead, splice, append),
)


def mutate_bytes(data: bytes, chance: Random, others: Sequence[bytes] = ()) -> bytes:
    """Return *data* after one to four mutations; *others* are the seeds that it may be spliced with."""
    for _ in range(chance.choice((1, 1, 1, 2, 2, 4))):
        if data:
            data = chance.choice(MUTATIONS)(data, chance, others)
    return data[:MAX_CASE_BYTES]


def split(data: bytes, chance: Random) -> list[bytes]:
    """Return *data* as network reads: in one, at random places, or the first bytes one by one."""
    how = chance.random()
    if how < 0.4 or len(data) < 2:
        return [data]
    if how < 0.9:
        cuts = sorted(chance.randrange(len(data)) for _ in range(chance.randrange(1, 6)))
    else:
        start = chance.randrange(len(data))
        cuts = list(range(start, min(len(data), start + MAX_PIECES)))
    pieces = [data[start:end] for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True)]
    return [piece for piece in pieces if piece]
