"""Register the configured limits with the store, and log those that count otherwise than at the last start.

A store that loses its content also forgets the limits. Then they are registered again, so that a later change is found.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from policies.api.call import Call
from policies.api.store import MAX_REGISTERED_LIMITS, LimitRegistry, StoreDown
from policies.engine.error_report import error_report
from sidecar.observers.levels import LEVEL_NUMBERS
from sidecar.wire.operations.chat_completions import CHAT_COMPLETIONS

from .limit_changes import Countings, countings_of, described, first_of, limit_changes

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping

    from policies.api.services import Services
    from policies.engine.chain import Chain
    from sidecar.config.access import Access

CLOSE_SECONDS = 2.0


class LimitRegistration:
    """Compares the limits of all *chains* with those that the store remembers, in a task of the event loop.

    It does so at start, and again when the store has lost its content: it compares `generation` every *interval* seconds, without I/O.
    Each worker does so: the store replaces its list in one step, so only the first one sees a difference. While the store
    is down, it is tried again every *interval* seconds, as heartbeats are. A store that is no `LimitRegistry` is left alone.
    """

    def __init__(
        self,
        services: Services,
        chains: Mapping[tuple[str, str], Chain],
        accesses: Iterable[Access],
        interval: float,
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._services, self._chains, self._accesses = services, chains, accesses
        self._interval, self._sleep = interval, sleep
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start the comparison, unless the store remembers no limits."""
        if isinstance(self._services.store, LimitRegistry):
            self._task = asyncio.get_running_loop().create_task(self._run(self._services.store))

    async def aclose(self) -> None:
        """End the task. Takes at most `CLOSE_SECONDS`."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task], timeout=CLOSE_SECONDS)

    async def _run(self, store: LimitRegistry) -> None:
        log = self._services.log
        try:
            limits = await self._countings()
            while True:
                before, generation = await self._registered(store, described(limits))
                for change in limit_changes(before, limits):
                    log.log(LEVEL_NUMBERS[change.level], "%s", change.text)
                while store.generation == generation:
                    await self._sleep(self._interval)
        except Exception as error:  # noqa: BLE001  # a policy or a store of the deployment must not end the process
            log.error("the limits could not be compared with those of the last start: %s", error_report(error))  # noqa: TRY400  # without values

    async def _registered(self, store: LimitRegistry, limits: Mapping[str, str]) -> tuple[Mapping[str, str], str]:
        """Register *limits*; return the limits before, and the generation of the store before the registration.

        If the content is lost between the two, the generation differs afterwards, and the limits are registered again.
        """
        while True:
            try:
                await self._services.store.heartbeat()  # corrections from now on are logged
                generation = store.generation
                return await store.register_limits(limits), generation
            except StoreDown:
                await self._sleep(self._interval)

    async def _countings(self) -> dict[str, Countings]:
        """Return how each limit of each chain is counted.

        Those of profiles and keys may differ in policies of the deployment. Each chain gets an event-loop iteration of its own.
        """
        found: dict[str, Countings] = {}
        seen = set()
        for access in self._accesses:
            for profile in (access.base, *access.profiles.values()):
                if (at := (profile.owner, profile.name)) in seen:
                    continue
                seen.add(at)
                path, name = CHAT_COMPLETIONS.path, profile.name
                call = Call(id="", path=path, body={}, services=self._services, tenant=access.tenant, profile=name)
                claims = [claim for listed in self._chains[at].limits_for(call) for claim in listed.claims]
                for policy, countings in countings_of(claims).items():
                    found[policy] = found.get(policy, countings) | countings
                await asyncio.sleep(0)
        return {policy: first_of(found[policy]) for policy in sorted(found)[:MAX_REGISTERED_LIMITS]}
