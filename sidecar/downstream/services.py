"""What the routes need of the process that serves them; the composition root provides it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Protocol, TypeAlias

from .client_connection import Scope

if TYPE_CHECKING:
    from policies.api.services import Services
    from policies.engine.chain import Chain
    from policies.records.record import Record
    from sidecar.config.settings import Settings

    from .active_calls import ActiveCalls
    from .authentication import KeyTable
    from .buffered_bodies import BufferedBodies
    from .client_address import TrustedProxies
    from .client_errors import ClientError
    from .heartbeat import Heartbeats
    from .ownership.owners import ResponseOwners
    from .request import RequestIds


Observe: TypeAlias = "Callable[[Record], None]"
OriginFault: TypeAlias = "Callable[[Scope, Mapping[bytes, bytes]], ClientError | None]"


class RouteServices(Protocol):
    """The shared objects of one process, as the routes see them. `sidecar.server.gateway` builds them."""

    loop: asyncio.AbstractEventLoop
    settings: Settings
    policy_services: Services
    chains: Mapping[tuple[str, str], Chain]
    """The chain of each profile, by the owner of its limits and its name."""
    heartbeats: Heartbeats
    active_calls: ActiveCalls
    keys: KeyTable
    trusted_proxies: TrustedProxies
    request_ids: RequestIds
    buffered: BufferedBodies
    """The unread bodies of all requests."""
    owners: ResponseOwners
    """The tenants of stored responses and conversations."""
    origin_fault: OriginFault
    """Returns the error for a request whose host or web page may not call; None to serve it. Called once per request."""
    observe: Observe | None
    """Receives the record of each finished request; None if nothing observes them."""

    @property
    def default_model(self) -> str:
        """The model of calls that name none; empty while it is not known."""
        ...
