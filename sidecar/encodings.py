"""Bodies in an encoding that nobody asked for: some proxies compress whatever passes."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from typing import TypeAlias

import httpx

Decode: TypeAlias = Callable[[bytes], bytes]

AUTO = 32 + zlib.MAX_WBITS
"""For zlib: gzip or deflate, whichever the first bytes are of."""
MOST = 16_777_216
"""Bytes that one network read may become."""


def decoder(headers: Mapping[str, str]) -> Decode | None:
    """Return what decodes a body with *headers*, read by read; None where nothing is to be done.

    Raises `httpx.DecodingError` for an encoding that is not known; what it returns does for bytes that are none of it, and for
    those that become too many.
    """
    name = headers.get("content-encoding", "").strip().lower()
    if name in ("", "identity"):
        return None
    if name not in ("gzip", "x-gzip", "deflate"):
        msg = "the answer has an encoding that was not asked for and is not known"
        raise httpx.DecodingError(msg)
    inflate = zlib.decompressobj(AUTO)

    def decode(data: bytes) -> bytes:
        try:
            plain = inflate.decompress(data, MOST + 1)
        except zlib.error as error:
            msg = "the answer's encoding is broken"
            raise httpx.DecodingError(msg) from error
        if len(plain) > MOST:
            msg = f"one read of the answer becomes more than {MOST} bytes"
            raise httpx.DecodingError(msg)
        return plain

    return decode
