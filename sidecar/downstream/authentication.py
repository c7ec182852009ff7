"""Look up the access that a client's API key gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import sha256
from hmac import compare_digest

from sidecar.config.access import Access
from sidecar.wire.request.client_headers import OTHER_KEY_HEADERS

DIGEST_PREFIX_BYTES = 8
"""Bytes of a key's SHA-256 by which it is looked up; the rest is compared in constant time."""


_OTHER_NAMES = tuple(sorted(name.encode() for name in OTHER_KEY_HEADERS))


class UnknownKey(Exception):
    """The request has no API key, or one that is not configured."""


class AmbiguousKeys(UnknownKey):
    """The request has several configured API keys, each in a header of its own."""


class KeyTable:
    """All configured keys. Without any, every client has *default_access*."""

    def __init__(self, default_access: Access, accesses: Sequence[Access]) -> None:
        self._default_access = None if accesses else default_access
        self._by_prefix: dict[bytes, list[Access]] = {}
        for access in accesses:
            self._by_prefix.setdefault(access.digest[:DIGEST_PREFIX_BYTES], []).append(access)

    def access(self, headers: Mapping[bytes, bytes]) -> Access:
        """Return the access of the request's key. Raises `UnknownKey` or `AmbiguousKeys`. Called once per request.

        The key is the bearer token of `Authorization`, or the value of `api-key` (Azure's clients) or `x-api-key`
        (Anthropic's). Some clients send a token for a proxy in another of these headers, so values that are no
        configured key are ignored. Two different configured keys are refused: with an order of precedence, a client
        could override the key that a proxy in front of the sidecar has added.
        """
        if self._default_access is not None:
            return self._default_access
        scheme, _, token = headers.get(b"authorization", b"").strip().partition(b" ")
        found = self._known(token.strip()) if scheme.lower() == b"bearer" else None
        for name in _OTHER_NAMES:
            if name in headers and (access := self._known(headers[name].strip())) is not None:
                if found is not None and found is not access:
                    raise AmbiguousKeys
                found = access
        if found is None:
            raise UnknownKey
        return found

    def _known(self, token: bytes) -> Access | None:
        """Return the access of the key *token*; None if it is not configured.

        The digest is looked up by its prefix and compared in constant time. The timing of the look-up reveals only a
        part of the digest, from which the key cannot be derived.
        """
        digest = sha256(token).digest()
        for access in self._by_prefix.get(digest[:DIGEST_PREFIX_BYTES], ()):
            if token and compare_digest(access.digest, digest):
                return access
        return None
