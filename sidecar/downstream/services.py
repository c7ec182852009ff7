"""What the routes need of the process that serves them; the composition root provides it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from policies.api.services import Process
    from policies.engine.chain import Chain
    from sidecar.config.settings import Settings

    from .active_calls import LiveCalls
    from .authentication import Keys
    from .client_address import Proxies
    from .heartbeat import Heart
    from .request import Names


class RouteServices(Protocol):
    """The shared objects of one process, as the routes see them. `sidecar.server.gateway` builds them."""

    loop: asyncio.AbstractEventLoop
    settings: Settings
    process: Process
    chains: Mapping[tuple[str, str], Chain]
    """The chain of each profile, by the owner of its limits and its name."""
    heart: Heart
    live: LiveCalls
    keys: Keys
    proxies: Proxies
    names: Names

    @property
    def default_model(self) -> str:
        """The model of calls that name none; empty while it is not known."""
        ...
