"""Choose the upstream of a call by the model that it names.

1. The upstreams that serve the model share its calls: the first one of the file, and those that have the same name for it.
2. A conversation stays at one of them, unless that has far more calls than its share. Other calls go to the least busy one.
3. An upstream with an open circuit is passed over. A repeated attempt goes to one that was not tried.
4. Where no upstream is known to serve the model, the lists are read again. If all are known and none has it, the call is
   refused. Otherwise the first upstream gets it, because some servers accept names that they do not list.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING, Protocol

from .affinity import conversation_of, preferred
from .listed_names import Fit, plain_name
from .load import Rotation, UpstreamLoad, is_overloaded
from .served_models import fit_of, has_named_models, knows_its_models, stated_names
from .unknown_model import unknown_model

if TYPE_CHECKING:
    from policies.api.call import Call
    from sidecar.config.upstream import ResolvedUpstream

    from .model_listing import ModelListing


class Circuits(Protocol):
    """What routing needs of a circuit breaker; see `sidecar.upstream.circuit_breaker.Breaker`."""

    @property
    def state(self) -> str:
        """`closed` if no attempt is refused."""
        ...

    def refuses(self, tenant: str, model: str, client: str) -> bool:
        """Whether an attempt would be refused now."""
        ...


class RoutedUpstream(Protocol):
    """What routing needs of an upstream; see `sidecar.upstream.client.UpstreamClient`."""

    settings: ResolvedUpstream
    listing: ModelListing

    @property
    def breaker(self) -> Circuits:
        """Its circuit breaker."""
        ...

    @property
    def default_model(self) -> str:
        """The model of calls that name none; empty while it is unknown."""
        ...

    def name_of(self, model: str, *, substituted: bool) -> str:
        """Return the upstream's name of *model*."""
        ...


class ModelRouting:
    """The routing of several upstreams, in the order of the file."""

    def __init__(self, upstreams: Sequence[RoutedUpstream]) -> None:
        self._upstreams = upstreams
        self._by_name = {each.settings.name: each for each in upstreams}
        self.listings = [each.listing for each in upstreams if each.settings.serves is None]
        self._rotation = Rotation()
        self.loads = {each.settings.name: UpstreamLoad(each.settings.weight) for each in upstreams}

    def start(self) -> None:
        """Begin to read the lists of models, without waiting for them."""
        for listing in self.listings:
            listing.refresh()

    async def aclose(self) -> None:
        """Cancel the reads that are running."""
        for listing in self.listings:
            await listing.aclose()

    async def choose(self, call: Call) -> str:
        """Return the name of the upstream for the first attempt of *call*.

        Raises `Rejection` for a model that no upstream has. It waits only where no upstream is known to serve the model,
        and for at most two seconds.
        """
        for listing in self.listings:
            listing.refresh()
        found = self._serving(call)
        if not found and call.model:
            found = await self._found_by_refresh(call)
            if not found and all(map(knows_its_models, self._upstreams)):
                raise unknown_model(call.model, self._known_names(), call.permitted_models)
        return self._pick(call, found or self._upstreams[:1])

    def another(self, call: Call, tried: Collection[str]) -> str | None:
        """Return the name of an upstream that serves the model of *call* as well and was not *tried*; None without one."""
        others = [each for each in self._serving(call) if each.settings.name not in tried]
        others = [each for each in others if not _is_blocked(each, call)]
        return self._pick(call, others) if others else None

    def may_serve(self, name: str, model: str, *, substituted: bool) -> bool:
        """Whether the upstream called *name* may serve *model*: False only if its models are known and lack it.

        *substituted*: the client named no model, so that the upstream's own default would replace *model*. An empty *model*
        is not known yet: the upstream's list is read for it.
        """
        upstream = self._by_name[name]
        if substituted and (upstream.default_model or not model):
            return True
        return not knows_its_models(upstream) or fit_of(upstream, model) > Fit.NOT

    def lists(self, name: str, model: str) -> bool:
        """Whether a call for *model*, which the upstream called *name* lists, would be sent there."""
        upstream = self._by_name[name]
        return upstream.settings.serves is None or fit_of(upstream, model) > Fit.NOT

    def _serving(self, call: Call) -> Sequence[RoutedUpstream]:
        """Return the upstreams that share the model of *call*, in the order of the file; none if it is not known.

        One with the alias `*` gets no call that another upstream, whose list was never read, may serve.
        """
        model = call.model
        if not call.names_model:
            # The model is the default of the first upstream, or unknown yet.
            first, *others = self._upstreams
            sharing = [each for each in others if model and fit_of(each, each.default_model or model) > Fit.NOT]
            return _of_same_model(call, [first, *sharing], counts_statements=False)
        fits = [fit_of(each, model) for each in self._upstreams]
        best = max(fits)
        if best is Fit.NOT or (best is Fit.CATCH_ALL and not all(map(has_named_models, self._upstreams))):
            return ()
        return _of_same_model(call, [each for each, fit in zip(self._upstreams, fits, strict=True) if fit is best])

    async def _found_by_refresh(self, call: Call) -> Sequence[RoutedUpstream]:
        """Have the lists read again that are due; return the upstreams that serve *call* as soon as one is found."""
        for listing in self.listings:
            listing.refresh(for_unknown=True)
        while waiting := [running for listing in self.listings if (running := listing.waiting) is not None]:
            tasks, left = [task for task, _ in waiting], max(left for _, left in waiting)
            await asyncio.wait(tasks, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            if found := self._serving(call):
                return found
        return ()

    def _pick(self, call: Call, upstreams: Sequence[RoutedUpstream]) -> str:
        if len(upstreams) > 1:
            open_ones = [each for each in upstreams if not _is_blocked(each, call)]
            upstreams = open_ones or upstreams
        names = [each.settings.name for each in upstreams]
        if len(names) == 1:
            return names[0]
        loads = [self.loads[name] for name in names]
        conversation = conversation_of(call) if call.has_completion else None
        if conversation is not None:
            at = preferred(conversation, names, [load.weight for load in loads])
            if not is_overloaded(loads[at], loads):
                return names[at]
        return names[self._rotation.least_busy(loads)]

    def _known_names(self) -> Iterator[str]:
        for each in self._upstreams:
            yield from stated_names(each)


def _own_name(upstream: RoutedUpstream, call: Call) -> str:
    return upstream.name_of(call.model, substituted=not call.names_model)


def _is_blocked(upstream: RoutedUpstream, call: Call) -> bool:
    breaker = upstream.breaker
    return breaker.state != "closed" and breaker.refuses(call.tenant, _own_name(upstream, call), call.ip)


def _of_same_model(
    call: Call, upstreams: Sequence[RoutedUpstream], *, counts_statements: bool = True
) -> Sequence[RoutedUpstream]:
    """Return those of *upstreams* that share the calls of the first one.

    They have the same name for the model, or, with *counts_statements*, state in `serves` that they serve it, as the first
    one does. An alias or a default can stand for a different model at each upstream: such calls are not spread.
    """
    if len(upstreams) == 1:
        return upstreams
    first = upstreams[0]
    name = plain_name(_own_name(first, call))
    states_it = counts_statements and first.settings.serves is not None
    return [
        each
        for each in upstreams
        if (states_it and each.settings.serves is not None) or plain_name(_own_name(each, call)) == name
    ]
