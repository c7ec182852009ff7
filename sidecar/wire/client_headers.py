"""The client's request headers as policies see them: decoded on use, without credentials."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

HIDDEN_HEADERS = frozenset({"authorization", "cookie", "proxy-authorization", "x-api-key", "api-key"})
"""Headers that hold credentials: policies identify callers by tenant."""


class ClientHeaders(Mapping[str, str]):
    """A read-only mapping over raw ASGI headers. Names are in lower case; of a repeated header the last value counts.

    Nothing is decoded before it is read: most calls have no policy that looks at headers.
    """

    __slots__ = ("_raw",)

    def __init__(self, raw: Mapping[bytes, bytes]) -> None:
        self._raw = raw

    def __getitem__(self, name: str) -> str:
        name = name.lower()
        if name in HIDDEN_HEADERS:
            raise KeyError(name)
        return self._raw[name.encode("latin-1", "replace")].decode("latin-1")

    def __iter__(self) -> Iterator[str]:
        names = (name.decode("latin-1") for name in self._raw)
        return (name for name in names if name not in HIDDEN_HEADERS)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __repr__(self) -> str:
        return f"<ClientHeaders: {len(self)} names>"
