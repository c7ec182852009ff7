"""All upstreams of a process, and which of them gets a call; a policy can name another one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from policies.api.requests.request_form import CHAT_REQUEST, MODELS_REQUEST, STORED_REQUEST
from sidecar.wire.operations.messages import COUNT_REQUEST

from .attempt import Attempt, CountedAttempt
from .circuit_breaker import State
from .model_list import ModelListAttempt
from .relay_attempt import RelayAttempt
from .routing.listed_names import LATEST_TAG, plain_name
from .routing.model_routing import ModelRouting
from .stored_attempt import StoredAttempt
from .token_count import TokenCountAttempt

if TYPE_CHECKING:
    from policies.api.call import Call
    from policies.api.upstream import Stream

    from .client import UpstreamClient


HEALTH_WORDS: Mapping[State, str] = {
    "closed": "ok",
    "open": "failing",
    "half-open": "probing",
    "partly-open": "partly",
}
"""The words of `/readyz` for the states of a circuit breaker: attempts are made, none is made, a probe is made, some are made."""


class UpstreamRouter:
    """The configured upstreams; see `policies.api.upstream.Upstream`."""

    def __init__(self, upstreams: Sequence[UpstreamClient]) -> None:
        self._upstreams, self._first = upstreams, upstreams[0]
        self._by_name = {upstream.settings.name: upstream for upstream in upstreams}
        self.routing = ModelRouting(upstreams) if len(upstreams) > 1 else None
        """None for a single upstream, which gets every call."""

    def start(self) -> None:
        """Begin to read the lists of models that routing needs, in the background; none for a single upstream."""
        if self.routing is not None:
            self.routing.start()

    def open(self, call: Call, name: str | None = None) -> Stream:
        """Prepare one attempt at the upstream called *name*, by default the first.  Raises `LookupError` for an unknown name."""
        found = self._first if name is None else self._by_name.get(name)
        if found is None:
            msg = f"there is no upstream {name!r}; those that are configured: {', '.join(self._by_name)}"
            raise LookupError(msg)
        if call.operation is not CHAT_REQUEST and (special := self._special(found, call)) is not None:
            return special
        routing = self.routing
        return (
            Attempt(found, call) if routing is None else CountedAttempt(found, call, routing.loads[found.settings.name])
        )

    def _special(self, upstream: UpstreamClient, call: Call) -> Stream | None:
        """Return the attempt at a *call* whose answer is not read as that of a model; None for all others."""
        operation = call.operation
        if operation is MODELS_REQUEST:
            return ModelListAttempt(upstream, call, self._upstreams, self.routing)
        if operation is STORED_REQUEST:
            return StoredAttempt(upstream, call)
        if operation is COUNT_REQUEST:
            return TokenCountAttempt(upstream, call)
        return RelayAttempt(upstream, call) if operation.is_relayed else None

    async def choose(self, call: Call) -> str:
        """See `policies.api.upstream.Upstream.choose`."""
        return self._first.settings.name if self.routing is None else await self.routing.choose(call)

    def another(self, call: Call, tried: Sequence[str]) -> str | None:
        """See `policies.api.upstream.Upstream.another`."""
        return None if self.routing is None else self.routing.another(call, tried)

    def may_serve(self, upstream: str, model: str, *, substituted: bool) -> bool:
        """See `policies.api.services.MayServe`."""
        return self.routing is None or self.routing.may_serve(upstream, model, substituted=substituted)

    @property
    def default_model(self) -> str:
        """The model of calls that name none; empty while it is unknown."""
        return self._first.default_model

    @property
    def states(self) -> dict[str, str]:
        """The state of each upstream's circuit breaker, by the upstream's name."""
        return {name: upstream.breaker.state for name, upstream in self._by_name.items()}

    @property
    def health(self) -> dict[str, str]:
        """The state of each upstream's circuit breaker in a word of `HEALTH_WORDS`, by the upstream's name."""
        return {name: HEALTH_WORDS[upstream.breaker.state] for name, upstream in self._by_name.items()}

    def names_of(self, model: str, fallbacks: Sequence[str], *, substituted: bool) -> list[str]:
        """Return the upstreams' names of *model* and its *fallbacks*; an empty name stands for one that is unknown yet.

        With several upstreams, `x` is among them for `x:latest`. An upstream that lists `x` alone gets `x`, and its list may
        be read after the policies have admitted the call.
        """
        upstreams = self._by_name.values()
        names = [upstream.name_of(model, substituted=substituted) for upstream in upstreams]
        others = [upstream.settings.named(other) for other in fallbacks for upstream in upstreams]
        found = [*names, *others]
        if self.routing is not None:
            found += [plain_name(name) for name in found if name.endswith(LATEST_TAG)]
        return list(dict.fromkeys(found))

    async def aclose(self) -> None:
        """Close all connections, and end the reads of lists of models."""
        if self.routing is not None:
            await self.routing.aclose()
        for upstream in self._by_name.values():
            await upstream.aclose()
