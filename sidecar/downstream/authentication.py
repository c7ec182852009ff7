"""Look up the access that a client's API key gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import sha256
from hmac import compare_digest

from sidecar.config.access import Access

DIGEST_PREFIX_BYTES = 8
"""Bytes of a key's SHA-256 by which it is looked up; the rest is compared in constant time."""


class UnknownKey(Exception):
    """The request has no API key, or one that is not configured."""


class KeyTable:
    """All configured keys. Without any, every client has *default_access*."""

    def __init__(self, default_access: Access, accesses: Sequence[Access]) -> None:
        self._default_access = None if accesses else default_access
        self._by_prefix: dict[bytes, list[Access]] = {}
        for access in accesses:
            self._by_prefix.setdefault(access.digest[:DIGEST_PREFIX_BYTES], []).append(access)

    def access(self, headers: Mapping[bytes, bytes]) -> Access:
        """Return the access of the key in the `Authorization` header. Raises `UnknownKey`. Called once per request.

        The key's digest is looked up by its prefix and compared in constant time: the timing of the look-up reveals a
        part of the digest, from which the key cannot be derived.
        """
        if self._default_access is not None:
            return self._default_access
        scheme, _, token = headers.get(b"authorization", b"").strip().partition(b" ")
        digest = sha256(token.strip()).digest()
        if scheme.lower() == b"bearer" and token:
            for access in self._by_prefix.get(digest[:DIGEST_PREFIX_BYTES], ()):
                if compare_digest(access.digest, digest):
                    return access
        raise UnknownKey
