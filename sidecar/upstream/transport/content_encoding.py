"""Decode bodies that are compressed although the request accepts only `identity`: some proxies compress all traffic."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import TypeAlias

import httpx

Decode: TypeAlias = Callable[[bytes], bytes]

GZIP_OR_ZLIB_WBITS = 32 + zlib.MAX_WBITS
"""For zlib: detect gzip or deflate by the first bytes."""
RAW_DEFLATE_WBITS = -zlib.MAX_WBITS
"""For zlib: deflate without a header, which some servers send as `deflate`."""
GZIP_MAGIC = b"\x1f\x8b"
MAX_DECODED_BYTES = 16_777_216
"""Bytes that one network read may decode to."""
SLICE_BYTES = 4_096
"""Bytes that are decoded at once.  zlib copies the rest of its input behind each member of a gzip body."""


def decoder(coding: str) -> Decode | None:
    """Return a function that decodes a body with the `content-encoding` *coding*, read by read; None for no encoding.

    Raise `httpx.DecodingError` for an unknown encoding.  The returned function raises it for invalid bytes and for a read
    that decodes to more than `MAX_DECODED_BYTES`.
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
    return _Inflater(may_be_raw=names[0] == "deflate").decode


class _Inflater:
    """The state of one body.  All members of a gzip body are decoded; bytes behind the last member are ignored."""

    def __init__(self, *, may_be_raw: bool) -> None:
        self._may_be_raw = may_be_raw
        self._start = b""
        self._inflate = zlib.decompressobj(GZIP_OR_ZLIB_WBITS)
        self._begun = self._is_later_member = self._complete = False

    def decode(self, data: bytes) -> bytes:
        plain, size = [], 0
        for at in range(0, len(data), SLICE_BYTES):
            piece = data[at : at + SLICE_BYTES]
            while piece:
                try:
                    decoded, piece = self._decode_member(piece, MAX_DECODED_BYTES + 1 - size)
                except zlib.error as error:
                    msg = "the compressed response is invalid"
                    raise httpx.DecodingError(msg) from error
                plain.append(decoded)
                size += len(decoded)
                if size > MAX_DECODED_BYTES:
                    msg = f"one read of the response decodes to more than {MAX_DECODED_BYTES} bytes"
                    raise httpx.DecodingError(msg)
        return b"".join(plain)

    def _decode_member(self, data: bytes, limit: int) -> tuple[bytes, bytes]:
        """Return the decoded bytes up to the end of the current member, and the input behind it."""
        if self._inflate.eof:
            self._inflate = zlib.decompressobj(GZIP_OR_ZLIB_WBITS)
            self._begun, self._is_later_member = False, True
        if not self._begun:
            data = self._start + data
            self._start = b"" if len(data) >= len(GZIP_MAGIC) else data
            if not self._start:
                self._begin(data)
        if self._start or self._complete:
            return b"", b""
        return self._inflate.decompress(data, limit), self._inflate.unused_data

    def _begin(self, data: bytes) -> None:
        """Choose the format of a body or member by its first two bytes, with which *data* begins."""
        self._begun, gzip = True, data.startswith(GZIP_MAGIC)
        self._complete = self._is_later_member and not gzip
        if self._may_be_raw and not gzip and not _has_zlib_header(data):
            self._inflate = zlib.decompressobj(RAW_DEFLATE_WBITS)


def _has_zlib_header(data: bytes) -> bool:
    return data[0] & 0x0F == zlib.DEFLATED and int.from_bytes(data[:2]) % 31 == 0
