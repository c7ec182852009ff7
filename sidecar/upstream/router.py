"""All upstreams of a process.  The first is the default; a policy's `Retry` can name another one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from policies.api.requests.request_form import MODELS_REQUEST, STORED_REQUEST

from .attempt import Attempt
from .circuit_breaker import State
from .model_list import ModelListAttempt
from .plain_attempt import PlainAttempt

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
        self._first = upstreams[0]
        self._by_name = {upstream.settings.name: upstream for upstream in upstreams}

    def open(self, call: Call, name: str | None = None) -> Stream:
        """Prepare one attempt at the upstream called *name*, by default the first.  Raises `LookupError` for an unknown name."""
        if name is None:
            return _attempt(self._first, call)
        found = self._by_name.get(name)
        if found is None:
            msg = f"there is no upstream {name!r}; those that are configured: {', '.join(self._by_name)}"
            raise LookupError(msg)
        return _attempt(found, call)

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
        """Return the upstreams' names of *model* and its *fallbacks*; an empty name stands for one that is unknown yet."""
        upstreams = self._by_name.values()
        names = [upstream.name_of(model, substituted=substituted) for upstream in upstreams]
        others = [upstream.settings.named(other) for other in fallbacks for upstream in upstreams]
        return list(dict.fromkeys([*names, *others]))

    async def aclose(self) -> None:
        """Close all connections."""
        for upstream in self._by_name.values():
            await upstream.aclose()


def _attempt(upstream: UpstreamClient, call: Call) -> Stream:
    if call.operation is MODELS_REQUEST:
        return ModelListAttempt(upstream, call)
    return PlainAttempt(upstream, call) if call.operation is STORED_REQUEST else Attempt(upstream, call)
