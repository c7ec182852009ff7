"""What endangers counters on a Redis server that works: eviction of keys, and missing persistence."""

from __future__ import annotations

from collections.abc import Mapping

from .connection import Reply, replies_of
from .url import Address, RedisUrl

NO_EVICTION = "noeviction"
SERVER_WARNINGS: Mapping[str, str] = {
    "evicting": (
        "it may evict counters when its memory is full (maxmemory-policy {policy}), and an evicted limit starts anew; "
        "set maxmemory-policy noeviction"
    ),
    "in_memory": (
        "it keeps counters in memory only, without append-only file and snapshots, so limits start anew when it restarts; "
        "set appendonly yes"
    ),
    "snapshots": (
        "it saves snapshots only, so limits forget what was counted since the last one when it crashes; set appendonly yes"
    ),
    "no_log": "it has no append-only file, so limits may forget what was counted when it crashes; set appendonly yes",
    "failing": (
        "it fails to write to disk ({failed}), so limits forget what was counted since when it restarts; "
        "see that its disk has room and can be written"
    ),
    "replica": (
        "it is a replica and takes no writes, so each policy follows its when_store_fails; "
        "name the primary, or its sentinels by redis+sentinel://"
    ),
    "evicted": (
        "it has evicted keys, and if counters were among them, their limits started anew; "
        "give it more memory, and set maxmemory-policy noeviction"
    ),
    "hidden": "its INFO cannot be read, so it is not known whether it evicts or persists counters; permit INFO to its user",
}
"""All warnings, by name."""

_WRITE_STATUSES = ("aof_last_write_status", "aof_last_bgrewrite_status", "rdb_last_bgsave_status")


async def server_warnings(url: RedisUrl, address: Address, seconds: float) -> list[str]:
    """Return a line for each danger on the server at *address*, as `ADDRESS: problem; remedy`. It gets *seconds* for its answer.

    Raises `CannotConnect`.
    """
    info, config = await replies_of(url, address, seconds, ("INFO",), ("CONFIG", "GET", "save"))
    facts = facts_of(info)
    found = advice(facts, config[1].decode() if isinstance(config, list) and config else None) if facts else ["hidden"]
    known = {"policy": facts.get("maxmemory_policy"), "failed": ", ".join(_failed(facts))}
    return [f"{address}: {SERVER_WARNINGS[name].format_map(known)}" for name in found]


def advice(facts: Mapping[str, str], save: str | None) -> list[str]:
    """Return the names of the warnings for a server with these fields of INFO.

    *save* is the server's setting of that name, None where it cannot be read, as on many managed servers.
    """
    found: list[str] = []
    if facts.get("maxmemory_policy", NO_EVICTION) != NO_EVICTION:
        found.append("evicting")
        if facts.get("evicted_keys", "0") != "0":
            found.append("evicted")
    if facts.get("aof_enabled", "1") == "0":
        found.append("no_log" if save is None else "snapshots" if save else "in_memory")
    if _failed(facts):
        found.append("failing")
    if facts.get("role") == "slave":
        found.append("replica")
    return found


def _failed(facts: Mapping[str, str]) -> list[str]:
    return [name for name in _WRITE_STATUSES if facts.get(name, "ok") != "ok"]


def facts_of(reply: Reply) -> dict[str, str]:
    """Return the fields of a reply to INFO; none for an error."""
    if not isinstance(reply, bytes):
        return {}
    lines = (line.partition(":") for line in reply.decode("utf-8", "replace").splitlines())
    return {name: value for name, colon, value in lines if colon}
