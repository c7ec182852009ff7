"""The list of models as an attempt, so that it passes the same chain as every other call.

It bypasses the circuit breaker in both directions. A server that lists its models may still be unable to run one, so a
list does not close the breaker. And an open breaker must not fail clients that list models before their first call.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from policies.api.event import Batch, Event
from policies.api.usage import Usage

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from policies.api.call import Call

    from .client import UpstreamClient


class ModelListAttempt:
    """See `policies.api.upstream.Stream`: one batch, the JSON list as upstream sent it."""

    usage = Usage()

    def __init__(self, upstream: UpstreamClient, call: Call) -> None:
        self._upstream, self._call = upstream, call

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    async def deliver(self, to: Callable[[Batch], bool]) -> None:
        """Request the list and deliver it as one batch. Raises `UpstreamError`."""
        body = await self._upstream.models(self._call.forwarded_headers, self._call)
        to(Batch(events=[Event(index=-1, raw=body)], raw=body, last=True))
