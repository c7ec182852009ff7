"""Bodies that are compressed although the request accepts `identity` only."""

from __future__ import annotations

import gzip
import zlib
from time import process_time

import httpx
import pytest

from sidecar.upstream.transport.content_encoding import DECODED_STEP_BYTES, MIN_CHECKED_BYTES, Decode, decoder, inflater

HELLO, WORLD = gzip.compress(b"hello", mtime=0), gzip.compress(b"world", mtime=0)
"""Without the time, so that the names of tests do not change."""


def made(encoding: str) -> Decode:
    decode = decoder(encoding)
    assert decode is not None
    return decode


@pytest.mark.parametrize("encoding", ["", "identity", "Identity, identity"])
def test_identity_needs_no_decoder(encoding: str) -> None:
    """A body without an encoding needs no decoder."""
    assert decoder(encoding) is None


@pytest.mark.parametrize("encoding", ["zz", "gzip, gzip", "identity, br"])
def test_unknown_encoding_is_an_error(encoding: str) -> None:
    """An encoding that is not known, or two at once, is an error."""
    with pytest.raises(httpx.DecodingError):
        decoder(encoding)


@pytest.mark.parametrize("size", [1, 2, 7, 10_000])
@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        ("gzip", gzip.compress(b"hello ") + gzip.compress(b"") + gzip.compress(b"world")),
        ("gzip", gzip.compress(b"hello world") + b"\x00" * 5_000 + gzip.compress(b"x")),
        ("x-gzip, identity", gzip.compress(b"hello world")),
        ("deflate", zlib.compress(b"hello world") + b"junk"),
        ("deflate", zlib.compress(b"hello world", wbits=-15)),
        ("deflate", gzip.compress(b"hello world")),
    ],
    ids=["members", "padding", "identity", "zlib", "raw", "gzip as deflate"],
)
def test_any_split_gives_the_same_body(encoding: str, body: bytes, size: int) -> None:
    """All members are decoded, deflate with or without its header, for any split; bytes behind the last are ignored."""
    decode = made(encoding)

    assert b"".join(b"".join(decode(body[at : at + size])) for at in range(0, len(body), size)) == b"hello world"


@pytest.mark.parametrize(
    ("encoding", "body", "is_complete"),
    [
        ("gzip", b"", True),
        ("gzip", HELLO, True),
        ("gzip", HELLO + b"\x00", True),
        ("gzip", HELLO + b"\x00\x00", True),
        ("gzip", HELLO[:1], False),
        ("gzip", HELLO[:-1], False),
        ("gzip", HELLO + WORLD[:-9], False),
        ("deflate", zlib.compress(b"hello"), True),
        ("deflate", zlib.compress(b"hello")[:-5], False),
        ("deflate", zlib.compress(b"hello", wbits=-15)[:-1], False),
    ],
)
def test_truncated_body_is_not_complete(encoding: str, body: bytes, is_complete: bool) -> None:  # noqa: FBT001
    """A body that ends inside of a compressed stream is not complete; one that ends behind a stream is."""
    found = inflater(encoding)
    assert found is not None
    for at in range(len(body)):
        list(found.decode(body[at : at + 1]))

    assert found.is_complete is is_complete


def test_decoded_size_is_bounded() -> None:
    """The decoded size of a body is bounded by what arrived of it, and endless members take linear time."""
    with pytest.raises(httpx.DecodingError, match="more than 200 times"):
        list(made("gzip")(gzip.compress(b"x" * (MIN_CHECKED_BYTES // 2)) * 3))

    began = process_time()
    assert b"".join(made("gzip")(gzip.compress(b"x") * 40_000)) == b"x" * 40_000
    assert process_time() - began < 5


@pytest.mark.parametrize("body", [b"x" * 3_000_000, b": a\n\n" * 100_000, b""], ids=["one byte", "comments", "nothing"])
def test_steps_are_small(body: bytes) -> None:
    """Each step decodes at most 16 kB, whatever a read holds."""
    steps = list(made("gzip")(gzip.compress(body)))

    assert b"".join(steps) == body
    assert max(map(len, steps), default=0) <= DECODED_STEP_BYTES


def test_expansion_is_bounded_over_all_reads() -> None:
    """A body that expands too much is refused however it is divided: beyond 4 MB, at 200 times what arrived."""
    packed, decode, size = gzip.compress(b"x" * 60_000_000), made("gzip"), 0
    with pytest.raises(httpx.DecodingError, match="more than 200 times"):
        for at in range(0, len(packed), 100):
            for step in decode(packed[at : at + 100]):
                size += len(step)
    assert size <= 200 * len(packed)
    assert size < 20_000_000


def test_body_that_compresses_well_is_read() -> None:
    """Keep-alive comments and repeated tokens, which compress a hundredfold, stay within the limit."""
    stream = b'data: {"choices":[{"index":0,"delta":{"content":" the"},"finish_reason":null}]}\n\n' * 40_000
    packed = gzip.compress(stream)

    assert len(stream) > 100 * len(packed)
    assert b"".join(made("gzip")(packed)) == stream
