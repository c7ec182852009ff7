"""Which server has the keys, where sentinels decide it: they watch a primary and promote a replica when it fails.

All sentinels are asked at the same time. The configuration with the highest epoch counts, also if only one sentinel has it: a failover
ends for its leader before the others learn of it. Among configurations of the same epoch the majority counts. The server is used if
its own INFO says that it is a primary. The sentinel that leads a failover knows first: as soon as it names another primary, that
one is used; until then there is none. A sentinel that wanted to lead and was not elected says the same until it learns of the new
configuration; it has an older one then, which does not count. The library's `Sentinel.discover_master` is not used: it names the
former primary until the failover has ended for all replicas.
See https://redis.io/docs/latest/develop/reference/sentinel-clients/.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from typing import NamedTuple

import msgspec
from redis.exceptions import AuthenticationError

from policies.stores.batching.deadline import finish_within

from .classification import failure_of
from .connection import CannotConnect, Reply, replies_of
from .failures import causes_of
from .topology import QUERY_SECONDS, NoAddress, best_of, views_of
from .url import Address, RedisUrl

FAILOVER_FLAG = b"failover_in_progress"


class FailoverRunning(NoAddress):
    """A failover has begun, and no replica is promoted yet. What the former primary executes now may be lost."""


class SentinelView(NamedTuple):
    """What a sentinel says: the primary that clients should use, the one that it watches, and whether it leads a failover.

    `named` is older than the others, which come in one reply. `epoch` is that of the configuration.
    """

    named: Address
    watched: Address
    leads_failover: bool
    epoch: int = 0


class Sentinels:
    """See `Topology`. *ask* returns what one sentinel says, or raises `CannotConnect`; it is replaced in tests."""

    can_move = True

    def __init__(self, url: RedisUrl, ask: Callable[[Address], Awaitable[SentinelView]] | None = None) -> None:
        self._url = msgspec.structs.replace(url, database=0)
        self._ask = ask or self._view_of

    def moved(self, address: Address) -> None:
        """Ignore it: a server of sentinels is no cluster, and answers no MOVED."""

    async def find(self, avoid: Address | None) -> Address:
        """See `Topology`. Raises `FailoverRunning` too."""
        answers = await views_of({node: finish_within(QUERY_SECONDS, self._ask(node)) for node in self._url.nodes})
        views = [answer for answer in answers.values() if isinstance(answer, SentinelView)]
        if views:
            newest = [view for view in views if view.epoch == max(each.epoch for each in views)]
            for view in newest:
                if view.leads_failover:
                    if view.named == view.watched:
                        raise FailoverRunning("failover", str(view.watched))
                    return view.named
            votes = Counter(view.watched for view in views)
            return best_of(Counter({view.watched: votes[view.watched] for view in newest}), avoid)
        causes = causes_of(answer for answer in answers.values() if isinstance(answer, Exception))
        raise NoAddress("no_primary", f"{len(answers)} were asked for {self._url.service!r}: {causes}")

    async def _view_of(self, node: Address) -> SentinelView:
        """Return what the sentinel *node* says.

        The credentials of the URL are those of the servers. A sentinel may have the same ones, or none.
        """
        try:
            return await _ask_sentinel(self._url, node)
        except CannotConnect as error:
            if not isinstance(error.__cause__, AuthenticationError) or self._url.password is None:
                raise
        return await _ask_sentinel(msgspec.structs.replace(self._url, username=None, password=None), node)


async def _ask_sentinel(url: RedisUrl, node: Address) -> SentinelView:
    commands = (("SENTINEL", "GET-MASTER-ADDR-BY-NAME", url.service), ("SENTINEL", "MASTER", url.service))
    named, state = await replies_of(url, node, QUERY_SECONDS, *commands)
    for reply in (named, state):
        if isinstance(reply, Exception):
            raise CannotConnect(failure_of(reply), str(reply)) from reply
    if named is None:
        raise CannotConnect("unknown", "it knows no such name")
    fields = dict(zip(state[::2], state[1::2], strict=False))
    watched = _address_of(fields.get(b"ip", named[0]), fields.get(b"port", named[1]))
    leads = FAILOVER_FLAG in fields.get(b"flags", b"").split(b",")
    return SentinelView(_address_of(*named), watched, leads, int(fields.get(b"config-epoch", 0)))


def _address_of(host: Reply, port: Reply) -> Address:
    return Address(bytes(host).decode(), int(port))
