"""Decode bodies that are compressed although the request accepts only `identity`: some proxies compress all traffic.

A body is decoded in steps, between which the event loop can run: one read of 256 kB can hold a thousand times its size.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from typing import TypeAlias

import httpx

Decode: TypeAlias = Callable[[bytes], Iterator[bytes]]
"""Decodes one network read, step by step."""

GZIP_OR_ZLIB_WBITS = 32 + zlib.MAX_WBITS
"""For zlib: detect gzip or deflate by the first bytes."""
RAW_DEFLATE_WBITS = -zlib.MAX_WBITS
"""For zlib: deflate without a header, which some servers send as `deflate`."""
GZIP_MAGIC = b"\x1f\x8b"
DECODED_STEP_BYTES = 16_384
"""Bytes that one step makes at most, as many as `MAX_PART_BYTES`.  Measured: 0.1 ms."""
ENCODED_STEP_BYTES = 4_096
"""Bytes that one step reads at most.  zlib copies the rest of its input behind each member of a gzip body."""
MAX_EXPANSION = 200
"""Largest size of a decoded body, as a multiple of what has arrived of it.  Answers in JSON have 5 to 50."""
MIN_CHECKED_BYTES = 4_194_304
"""Decoded bytes up to which the size is not compared: keep-alive comments alone compress a thousandfold."""


def decoder(coding: str) -> Decode | None:
    """Return a function that decodes a body with the `content-encoding` *coding*, read by read; None for no encoding.

    See `Inflater.decode`.  Raise `httpx.DecodingError` for an unknown encoding.
    """
    found = inflater(coding)
    return None if found is None else found.decode


def inflater(coding: str) -> Inflater | None:
    """Return the decoder of a body with the `content-encoding` *coding*; None for no encoding.

    Raise `httpx.DecodingError` for an unknown encoding.
    """
    if not coding:
        return None
    names = [name.strip().lower() for name in coding.split(",")]
    names = [name for name in names if name not in ("", "identity")]
    if not names:
        return None
    if len(names) > 1 or names[0] not in ("gzip", "x-gzip", "deflate"):
        msg = "the response has an unsupported content encoding"
        raise httpx.DecodingError(msg)
    return Inflater(may_be_raw=names[0] == "deflate")


class Inflater:
    """The state of one body.  All members of a gzip body are decoded; bytes behind the last member are ignored."""

    def __init__(self, *, may_be_raw: bool) -> None:
        self._may_be_raw = may_be_raw
        self._start = b""
        self._inflate = zlib.decompressobj(GZIP_OR_ZLIB_WBITS)
        self._begun = self._is_later_member = self._complete = False
        self._read = self._made = 0

    @property
    def is_complete(self) -> bool:
        """Whether the body may end here: nothing has arrived, or a whole stream has.  Else it was truncated."""
        is_behind_member = self._complete or (self._is_later_member and not self._begun)
        return not self._read or is_behind_member or self._inflate.eof

    def decode(self, data: bytes) -> Iterator[bytes]:
        """Yield what *data*, one network read, decodes to: at most `DECODED_STEP_BYTES` at a time, possibly none.

        Raise `httpx.DecodingError` for invalid bytes, and for a body that expands more than `MAX_EXPANSION` times.
        """
        for at in range(0, len(data), ENCODED_STEP_BYTES):
            piece = data[at : at + ENCODED_STEP_BYTES]
            self._read += len(piece)
            rest: bytes | None = piece
            while rest is not None:
                made, rest = self._step(rest)
                self._made += len(made)
                if self._made > max(MIN_CHECKED_BYTES, MAX_EXPANSION * self._read):
                    msg = f"the response decodes to more than {MAX_EXPANSION} times its size"
                    raise httpx.DecodingError(msg)
                yield made

    def _step(self, data: bytes) -> tuple[bytes, bytes | None]:
        """Return the bytes of one step, and the input for the next one; None if *data* is used up."""
        plain, left = [], DECODED_STEP_BYTES
        rest: bytes | None = data
        while rest is not None and left:
            try:
                made, rest = self._decode_member(rest, left)
            except zlib.error as error:
                msg = "the compressed response is invalid"
                raise httpx.DecodingError(msg) from error
            plain.append(made)
            left -= len(made)
        return b"".join(plain), rest

    def _decode_member(self, data: bytes, limit: int) -> tuple[bytes, bytes | None]:
        """Return at most *limit* bytes of the current member, and the input behind them; None if it is used up."""
        inflate = self._inflate
        if inflate.eof:
            inflate = self._inflate = zlib.decompressobj(GZIP_OR_ZLIB_WBITS)
            self._begun, self._is_later_member = False, True
        if not self._begun:
            data = self._start + data
            self._start = b"" if len(data) >= len(GZIP_MAGIC) else data
            if not self._start:
                self._begin(data)
                inflate = self._inflate
        if self._start or self._complete:
            return b"", None
        made = inflate.decompress(data, limit)
        if inflate.eof:
            return made, inflate.unused_data or None
        # zlib may have read all of its input and still hold output.
        return made, inflate.unconsumed_tail if len(made) == limit or inflate.unconsumed_tail else None

    def _begin(self, data: bytes) -> None:
        """Choose the format of a body or member by its first two bytes, with which *data* begins."""
        self._begun, gzip = True, data.startswith(GZIP_MAGIC)
        self._complete = self._is_later_member and not gzip
        if self._may_be_raw and not gzip and not _has_zlib_header(data):
            self._inflate = zlib.decompressobj(RAW_DEFLATE_WBITS)


def _has_zlib_header(data: bytes) -> bool:
    return data[0] & 0x0F == zlib.DEFLATED and int.from_bytes(data[:2]) % 31 == 0
