"""The number of tokens of a prompt as upstream counts them, as an attempt without a completion.

It bypasses the circuit breaker in both directions, as a list of models does: a server may count tokens while its models fail,
and may have no such route.
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


class TokenCountAttempt:
    """See `policies.api.upstream.Stream`: one batch, the JSON as upstream sent it. It costs nothing."""

    usage = Usage()
    has_finished = False

    def __init__(self, upstream: UpstreamClient, call: Call) -> None:
        self._upstream, self._call = upstream, call

    def cut_off(self, sample: bytes, prompt_tokens: int) -> Batch:
        """Raise `NotImplementedError`: a count is one batch and reserves no tokens."""
        raise NotImplementedError

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    async def deliver(self, to: Callable[[Batch], bool]) -> None:
        """Request the number and deliver it as one batch. Raises `UpstreamError`."""
        body = await self._upstream.count_tokens(self._call)
        to(Batch(events=[Event(index=-1, raw=body)], raw=body, last=True))
