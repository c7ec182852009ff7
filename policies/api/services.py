"""What a policy needs of the process that it runs in.  It reaches a policy through its call."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Protocol

import anyio
import msgspec

from .tokens import Estimator

if TYPE_CHECKING:
    from .store import Store


class NamesOfModels(Protocol):
    """Return what the upstreams call a model and its fallbacks; an empty name stands for one that is not known yet.

    *substituted* says that the client named no model and *model* is the default of the first upstream.
    """

    def __call__(self, model: str, fallbacks: Sequence[str], *, substituted: bool) -> Sequence[str]:
        """See the class."""
        ...


def _as_asked(model: str, fallbacks: Sequence[str], *, substituted: bool) -> Sequence[str]:  # noqa: ARG001  # as the protocol has it
    return [model, *fallbacks]


class Services(msgspec.Struct, kw_only=True, eq=False):
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
    names_of: NamesOfModels = _as_asked
    """What the upstreams call the models of a call; policies read `Call.served_models`."""
    log: logging.Logger = logging.getLogger("sidecar")
