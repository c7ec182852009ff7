"""Look up the access that a client's API key gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from hmac import compare_digest

import msgspec

from sidecar.config.access import Access
from sidecar.config.key_values.expiry import NO_EXPIRY
from sidecar.wire.request.client_headers import OTHER_KEY_HEADERS

DIGEST_PREFIX_BYTES = 8
"""Bytes of a key's SHA-256 by which it is looked up; the rest is compared in constant time."""


_OTHER_NAMES = tuple(sorted(name.encode() for name in OTHER_KEY_HEADERS))


class UnknownKey(Exception):
    """The request has no API key, or one that is not configured."""


class AmbiguousKeys(UnknownKey):
    """The request has several configured API keys, each in a header of its own."""


class ExpiredKey(UnknownKey):
    """The key of the request was valid until a date that has passed. *access* is what it gave."""

    def __init__(self, access: Access) -> None:
        super().__init__()
        self.access = access


class _Known(msgspec.Struct, frozen=True, eq=False):
    """One configured hash, and the access that its key gives."""

    digest: bytes
    last_moment: float
    access: Access


class KeyTable:
    """All configured keys. Without any, every client has *default_access*. *clock* returns seconds since 1970."""

    def __init__(self, default_access: Access, accesses: Sequence[Access], clock: Callable[[], float]) -> None:
        self._default_access = None if accesses else default_access
        self._clock = clock
        self._by_prefix: dict[bytes, list[_Known]] = {}
        for access in accesses:
            for each in access.hashes:
                known = _Known(each.digest, each.last_moment, access)
                self._by_prefix.setdefault(each.digest[:DIGEST_PREFIX_BYTES], []).append(known)

    def access(self, headers: Mapping[bytes, bytes]) -> Access:
        """Return the access of the request's key. Raises `UnknownKey`, `ExpiredKey` or `AmbiguousKeys`. Called once per request.

        The key is the bearer token of `Authorization`, or the value of `api-key` (Azure's clients) or `x-api-key`
        (Anthropic's). Some clients send a token for a proxy in another of these headers, so values that are no
        configured key are ignored. Two different configured keys are refused, also where one has expired. With an order
        of precedence instead, a client could override the key that a proxy in front of the sidecar has added.
        """
        if self._default_access is not None:
            return self._default_access
        scheme, _, token = headers.get(b"authorization", b"").strip().partition(b" ")
        found = self._known(token.strip()) if scheme.lower() == b"bearer" else None
        for name in _OTHER_NAMES:
            if name in headers and (other := self._known(headers[name].strip())) is not None:
                if found is not None and found.access is not other.access:
                    raise AmbiguousKeys
                if found is None or other.last_moment > found.last_moment:  # the old and the new hash of one key
                    found = other
        if found is None:
            raise UnknownKey
        if found.last_moment != NO_EXPIRY and self._clock() > found.last_moment:
            raise ExpiredKey(found.access)
        return found.access

    def _known(self, token: bytes) -> _Known | None:
        """Return what is known of the key *token*; None if it is not configured.

        The digest is looked up by its prefix and compared in constant time. The timing of the look-up reveals only a
        part of the digest, from which the key cannot be derived.
        """
        digest = sha256(token).digest()
        for known in self._by_prefix.get(digest[:DIGEST_PREFIX_BYTES], ()):
            if token and compare_digest(known.digest, digest):
                return known
        return None
