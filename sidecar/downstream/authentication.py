"""Find what a caller's key gives access to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import sha256
from hmac import compare_digest

from sidecar.config.access import Access

DIGEST_PREFIX_BYTES = 8


class UnknownKey(Exception):
    """There is no key, or one that nobody knows."""


class KeyTable:
    """All keys.  One look-up per request."""

    def __init__(self, everybody: Access, accesses: Sequence[Access]) -> None:
        self._everybody = None if accesses else everybody
        self._by_start: dict[bytes, list[Access]] = {}
        for access in accesses:
            self._by_start.setdefault(access.digest[:DIGEST_PREFIX_BYTES], []).append(access)

    def access(self, headers: Mapping[bytes, bytes]) -> Access:
        """Return what the caller's key opens.  Raises `UnknownKey`.

        A digest is looked up by its start and compared in constant time: its start says nothing about the key.
        """
        if self._everybody is not None:
            return self._everybody
        scheme, _, token = headers.get(b"authorization", b"").strip().partition(b" ")
        digest = sha256(token.strip()).digest()
        if scheme.lower() == b"bearer" and token:
            for access in self._by_start.get(digest[:DIGEST_PREFIX_BYTES], ()):
                if compare_digest(access.digest, digest):
                    return access
        raise UnknownKey
