"""Bodies in an encoding that nobody asked for: some proxies compress whatever passes."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import TypeAlias

import httpx

Decode: TypeAlias = Callable[[bytes], bytes]

AUTO = 32 + zlib.MAX_WBITS
"""For zlib: gzip or deflate, whichever the first bytes are of."""
RAW = -zlib.MAX_WBITS
"""For zlib: deflate without a head, as some servers understand the word."""
MAGIC = b"\x1f\x8b"
MOST = 16_777_216
"""Bytes that one network read may become."""
SLICE = 4_096
"""Bytes that are inflated at once: behind each member of a gzip body, zlib copies what is left of them."""


def decoder(coding: str) -> Decode | None:
    """Return what decodes a body whose `content-encoding` is *coding*, read by read; None where nothing is to be done.

    Raises `httpx.DecodingError` for an encoding that is not known; what it returns does for bytes that are none of it, and for
    those that become too many.
    """
    if not coding:
        return None
    names = [name.strip().lower() for name in coding.split(",")]
    names = [name for name in names if name not in ("", "identity")]
    if not names:
        return None
    if len(names) > 1 or names[0] not in ("gzip", "x-gzip", "deflate"):
        msg = "the answer has an encoding that was not asked for and is not known"
        raise httpx.DecodingError(msg)
    return _Inflater(may_be_raw=names[0] == "deflate").decode


class _Inflater:
    """The state of one body.  Of a gzip body all members are read; what follows them, and is none, is ignored."""

    def __init__(self, *, may_be_raw: bool) -> None:
        self._may_be_raw = may_be_raw
        self._head = b""
        self._inflate = zlib.decompressobj(AUTO)
        self._begun = self._follows = self._over = False

    def decode(self, data: bytes) -> bytes:
        plain, size = [], 0
        for at in range(0, len(data), SLICE):
            piece = data[at : at + SLICE]
            while piece:
                try:
                    made, piece = self._some(piece, MOST + 1 - size)
                except zlib.error as error:
                    msg = "the answer's encoding is broken"
                    raise httpx.DecodingError(msg) from error
                plain.append(made)
                size += len(made)
                if size > MOST:
                    msg = f"one read of the answer becomes more than {MOST} bytes"
                    raise httpx.DecodingError(msg)
        return b"".join(plain)

    def _some(self, data: bytes, most: int) -> tuple[bytes, bytes]:
        """Return what *data* becomes up to the end of its member, and the bytes behind that."""
        if self._inflate.eof:
            self._inflate = zlib.decompressobj(AUTO)
            self._begun, self._follows = False, True
        if not self._begun:
            data = self._head + data
            self._head = b"" if len(data) >= len(MAGIC) else data
            if not self._head:
                self._begin(data)
        if self._head or self._over:
            return b"", b""
        return self._inflate.decompress(data, most), self._inflate.unused_data

    def _begin(self, data: bytes) -> None:
        """Choose how *data*, where a body or a member begins, is read: its first two bytes say it."""
        self._begun, gzip = True, data.startswith(MAGIC)
        self._over = self._follows and not gzip
        if self._may_be_raw and not gzip and not _has_zlib_head(data):
            self._inflate = zlib.decompressobj(RAW)


def _has_zlib_head(data: bytes) -> bool:
    return data[0] & 0x0F == zlib.DEFLATED and int.from_bytes(data[:2]) % 31 == 0
