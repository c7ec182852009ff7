"""Attempts at requests that generate nothing: they pass the same chain as every other call, and bypass the circuit breaker.

They bypass it in both directions. A server that answers them may still be unable to run a model, so an answer does not close
the breaker. And an open breaker must not fail clients that list models before their first call.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING

from policies.api.event import Batch, Event
from policies.api.usage import Usage

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from policies.api.call import Call

    from .client import UpstreamClient


class WholeAttempt(ABC):
    """See `policies.api.upstream.Stream`: one batch, the JSON as upstream sent it."""

    usage = Usage()
    has_finished = False

    def __init__(self, upstream: UpstreamClient, call: Call) -> None:
        self._upstream, self._call = upstream, call

    def cut_off(self, sample: bytes, prompt_tokens: int) -> Batch:
        """Raise `NotImplementedError`: the answer is one batch and reserves no tokens."""
        raise NotImplementedError

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    async def deliver(self, to: Callable[[Batch], bool]) -> None:
        """Request the answer and deliver it as one batch. Raises `UpstreamError`."""
        body = await self._body()
        to(Batch(events=[Event(index=-1, raw=body)], raw=body, last=True))

    @abstractmethod
    async def _body(self) -> bytes:
        """Return the whole answer. Raises `UpstreamError`."""
