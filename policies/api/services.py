"""Services that the process provides to policies, by `start` and on each call."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Awaitable, Callable, Hashable, Sequence
from typing import Protocol, TypeAlias, TypeVar, cast

import anyio
import msgspec

from .store import Store
from .tokens import Estimator

T = TypeVar("T")


class NamesOfModels(Protocol):
    """Return what the upstreams call a model and its fallbacks; an empty string stands for an unknown name.

    *substituted* is True if the client named no model and *model* is the default of the first upstream.
    """

    def __call__(self, model: str, fallbacks: Sequence[str], *, substituted: bool) -> Sequence[str]:
        """See the class."""
        ...


class MayServe(Protocol):
    """Whether an upstream may serve a model: False only if its models are known, and lack it.

    *substituted* is True if the client named no model and *model* is the default of the first upstream.
    """

    def __call__(self, upstream: str, model: str, *, substituted: bool) -> bool:
        """See the class."""
        ...


def _may_serve(upstream: str, model: str, *, substituted: bool) -> bool:  # noqa: ARG001  # the signature of the protocol
    return True


def _as_asked(model: str, fallbacks: Sequence[str], *, substituted: bool) -> Sequence[str]:  # noqa: ARG001  # the signature of the protocol
    return [model, *fallbacks]


StateChanged: TypeAlias = Callable[[str, str, str], None]


def _log_state(subject: str, state: str, cause: str) -> None:
    logging.getLogger("sidecar").warning("%s is %s: %s", subject, state, cause)


class _Shared(msgspec.Struct, eq=False):
    value: object
    parts: list[Hashable]
    users: list[object]


class SharedObjects:
    """The running objects that the chains of a process share, each with the chains that use it."""

    __slots__ = ("_objects", "_starting")

    def __init__(self) -> None:
        self._objects: dict[Hashable, _Shared] = {}
        self._starting: tuple[object, list[Hashable]] | None = None

    def get(self, key: Hashable, factory: Callable[[], T], user: object) -> T:
        """Return the object *key*, created by the first caller.

        *user* keeps it alive, and the objects its factory took.
        """
        if key not in self._objects:
            parts: list[Hashable] = []
            self._objects[key] = _Shared(self.start(factory, user, parts), parts, [])
        shared = self._objects[key]
        waiting = [shared]
        while waiting:
            each = waiting.pop()
            if not any(known is user for known in each.users):
                each.users.append(user)
                waiting += (self._objects[part] for part in each.parts)
        return cast("T", shared.value)

    def holds(self, value: object) -> bool:
        """Whether *value* is one of the shared objects. Then `release` returns it when it must be stopped."""
        return any(each.value is value for each in self._objects.values())

    def start(self, factory: Callable[[], T], user: object, parts: list[Hashable] | None = None) -> T:
        """Return the result of *factory*.

        Objects that it takes by `of_starting` are kept for *user*, and listed in *parts*.
        """
        before, self._starting = self._starting, (user, [] if parts is None else parts)
        try:
            return factory()
        finally:
            self._starting = before

    def of_starting(self, key: Hashable, factory: Callable[[], T]) -> T:
        """Return the object *key* for the chain that is being started. Raises `RuntimeError` outside a start."""
        if self._starting is None:
            raise RuntimeError("services.shared was called outside Policy.start; call it there, and keep the object")
        user, parts = self._starting
        parts.append(key)
        return self.get(key, factory, user)

    def release(self, user: object) -> list[object]:
        """Remove *user*; return the objects without any user left, newest first. The caller stops them."""
        unused = []
        for key, shared in reversed(list(self._objects.items())):
            shared.users = [each for each in shared.users if each is not user]
            if not shared.users:
                del self._objects[key]
                unused.append(shared.value)
        return unused


class Services(msgspec.Struct, kw_only=True, eq=False):
    """Clocks, sleep, randomness, the store, the token estimate and the log, for policies and the chain."""

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
    """Returns the upstreams' names of models; policies read `Call.served_models`."""
    may_serve: MayServe = _may_serve
    """Whether an upstream may serve a model; a policy that sends calls to another upstream asks it."""
    log: logging.Logger = logging.getLogger("sidecar")
    state_changed: StateChanged = _log_state
    """Report the state of something that calls share: its name, the state, the cause. The program logs each change once."""
    shared_objects: SharedObjects = msgspec.field(default_factory=SharedObjects)
    """The objects of `shared`, and the running policies of all chains."""

    def shared(self, name: str, factory: Callable[[], T]) -> T:
        """Return the object *name* that all chains of this process share; the first caller creates it with *factory*.

        Call it only in `Policy.start`. All policies share the names, so start the name with the policy's own. When the
        last chain that uses the object is closed, its `stop()` is awaited, if it has one. Raises `RuntimeError`
        elsewhere.
        """
        return self.shared_objects.of_starting(name, factory)
