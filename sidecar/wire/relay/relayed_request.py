"""A request that is relayed as bytes, as the route hands it to the attempts, and the head of the answer on its way back.

It is in the `state` of its call: attempts and routes do not know each other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeAlias
from urllib.parse import urlsplit

import msgspec

from sidecar.wire.limit_headers import Header

from .json_model import JsonFields

if TYPE_CHECKING:
    from policies.api.call import Call
    from policies.api.rejection import Rejection

RELAY_STATE = "sidecar.relay"
"""The key in a call's `state` of its `RelayedRequest`."""
V1_PREFIX = "/v1/"
BODY_METHODS = frozenset({"POST", "PUT", "PATCH"})
"""Methods whose requests have a body, even an empty one (RFC 9110, 8.6)."""


class UploadFault(Exception):
    """The body of the request will not be complete: it is too large, the client left, or it is not as it must be.

    *rejection* is the answer to the client.
    """

    def __init__(self, rejection: Rejection) -> None:
        super().__init__(rejection.message)
        self.rejection = rejection


class Upload(Protocol):
    """A body that streams through. It can be read once."""

    length: int | None
    """The bytes of the whole body as the client announced them; None for a chunked body."""

    @property
    def received(self) -> int:
        """Bytes that the client has sent so far."""
        ...

    @property
    def taken(self) -> bool:
        """Whether bytes have been read, so that the request cannot be repeated."""
        ...

    async def read(self) -> bytes:
        """Wait for the next bytes and return them; empty at the end. Raises `UploadFault`. Cancellation loses nothing."""
        ...


RelayedBody: TypeAlias = bytes | Upload


class AnswerHead(msgspec.Struct, frozen=True):
    """Status and headers of an answer for the client; *length* is that of its body, None if it is not known."""

    status: int
    headers: list[Header]
    length: int | None


class RelayedRequest(msgspec.Struct, eq=False, kw_only=True):
    """One request, and what its attempts have found out."""

    method: str
    path: str
    """The path as it is requested: pattern and ids, without escapes."""
    query: str
    headers: dict[str, str]
    """Content type, accept and the like; names in lower case."""
    body: RelayedBody
    model: str = ""
    """The model that `body` names; empty if it names none, or none that can be read."""
    fields: JsonFields | None = None
    """The fields of a JSON body in memory, by which its model can be replaced."""
    is_normalised: bool = False
    """Whether the JSON body is encoded from its `fields`, so that no field occurs twice."""
    answer: AnswerHead | None = None
    """The head of the answer that is delivered."""
    received_bytes: int = 0
    """Bytes of the answer's body so far."""


def relayed_url(endpoint: str, path: str) -> str:
    """Return the URL of *path* at an upstream whose requests begin with the URL *endpoint*.

    `/v1` stands for the path of *endpoint*; other paths, the own ones of engines, are at its origin.
    """
    if path.startswith(V1_PREFIX):
        return f"{endpoint}/{path.removeprefix(V1_PREFIX)}"
    parts = urlsplit(endpoint)
    return f"{parts.scheme}://{parts.netloc}{path}"


def relayed(call: Call) -> RelayedRequest:
    """Return the relayed request of *call*."""
    found = call.state[RELAY_STATE]
    assert isinstance(found, RelayedRequest)  # for the type: only the route sets it
    return found
