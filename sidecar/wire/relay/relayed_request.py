"""A request that is relayed as bytes, as the route hands it to the attempts, and the head of the answer on its way back.

It is in the `state` of its call: attempts and routes do not know each other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeAlias

import msgspec

from sidecar.wire.limit_headers import Header

from .json_model import JsonFields

if TYPE_CHECKING:
    from policies.api.call import Call

RELAY_STATE = "sidecar.relay"
"""The key in a call's `state` of its `RelayedRequest`."""
V1_PREFIX = "/v1/"
"""Paths below it are requested below the `base_url`, all others at the origin of the upstream."""


class UploadFault(Exception):
    """The body of the request will not be complete: it is too large, the client left, or it is not as it must be.

    The route that made the upload knows the answer to its client.
    """


class Upload(Protocol):
    """A body that streams through. It can be read once."""

    length: int | None
    """The bytes of the whole body as the client announced them; None for a chunked body."""
    taken: bool
    """Whether bytes have been read, so that the request cannot be repeated."""

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


def relayed(call: Call) -> RelayedRequest:
    """Return the relayed request of *call*."""
    found = call.state[RELAY_STATE]
    assert isinstance(found, RelayedRequest)  # for the type: only the route sets it
    return found
