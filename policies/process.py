"""What a policy needs of the process that it runs in.  It reaches a policy through its call."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING

import anyio
import msgspec

from .tokens import Estimator

if TYPE_CHECKING:
    from .call import Call
    from .store import Store


def _as_asked(call: Call) -> Sequence[str]:
    return call.models


class Process(msgspec.Struct, kw_only=True, eq=False):
    """The things that are no option of a policy: clocks, waiting, chance, the store, the token estimate, the log."""

    store: Store
    clock: Callable[[], float] = time.time
    """Seconds since 1970."""
    monotonic: Callable[[], float] = time.monotonic
    sleep: Callable[[float], Awaitable[None]] = anyio.sleep
    random: random.Random = msgspec.field(default_factory=random.Random)
    tokens: Estimator = msgspec.field(default_factory=Estimator)
    upstreams: tuple[str, ...] = ("upstream-1",)
    """The names of all upstreams, the default one first."""
    names_of: Callable[[Call], Sequence[str]] = _as_asked
    """What the upstreams call the models that may serve a call; empty for one that is not known."""
    log: logging.Logger = logging.getLogger("sidecar")
