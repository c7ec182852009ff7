"""The names of models in answers: the client's, where the upstream has another one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from sidecar.wire.decoding.model_echo import ModelEcho

if TYPE_CHECKING:
    from policies.api.call import Call
    from sidecar.config.upstream import ResolvedUpstream

    from .model_listing import ModelListing


class NamingUpstream(Protocol):
    """What decides about the names of an upstream's models; see `sidecar.upstream.client.UpstreamClient`."""

    settings: ResolvedUpstream
    listing: ModelListing

    def name_of(self, model: str, *, substituted: bool) -> str:
        """Return the upstream's name of *model*."""
        ...


def echo_of(upstream: NamingUpstream, call: Call) -> ModelEcho | None:
    """Return what writes the client's name of the model into the answer of *upstream* to *call*; None if both are the same."""
    settings = upstream.settings
    if not settings.rewrite_answers or not (settings.models or upstream.listing.names) or not call.names_model:
        return None
    names = {upstream.name_of(name, substituted=False): name for name in reversed(call.candidate_models)}
    if all(own == name for own, name in names.items()):
        return None
    return ModelEcho(call.model, names if call.fallback_models else None)
