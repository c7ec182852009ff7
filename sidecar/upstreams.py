"""All upstreams of a process.  The first is the default; a policy's `Retry` may name another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from policies.call import Call
    from policies.upstream import Stream

    from .upstream import HttpUpstream


class Upstreams:
    """See `policies.upstream.Upstream`."""

    def __init__(self, upstreams: Sequence[HttpUpstream]) -> None:
        self._first = upstreams[0]
        self._by_name = {upstream.settings.name: upstream for upstream in upstreams}

    def open(self, call: Call, name: str | None = None) -> Stream:
        """Prepare one attempt at the upstream called *name*, or at the first.  Raises `LookupError` for an unknown one."""
        if name is None:
            return self._first.open(call)
        found = self._by_name.get(name)
        if found is None:
            msg = f"there is no upstream {name!r}; those that are configured: {', '.join(self._by_name)}"
            raise LookupError(msg)
        return found.open(call)

    @property
    def default_model(self) -> str:
        """The model of calls that name none; empty while it is not known."""
        return self._first.default_model

    @property
    def states(self) -> dict[str, str]:
        """The state of each upstream's breaker, by its name."""
        return {name: upstream.breaker.state for name, upstream in self._by_name.items()}

    def names_of(self, call: Call) -> list[str]:
        """Return what the upstreams call the models that may serve *call*; an empty name is one that is not known."""
        names = [upstream.name_of(call) for upstream in self._by_name.values()]
        others = [upstream.settings.named(other) for other in call.others for upstream in self._by_name.values()]
        return list(dict.fromkeys([*names, *others]))

    async def aclose(self) -> None:
        """Close all connections."""
        for upstream in self._by_name.values():
            await upstream.aclose()
