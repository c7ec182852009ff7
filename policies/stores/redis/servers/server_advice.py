"""What endangers counters on a Redis server that works: eviction of keys, and missing persistence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from redis.exceptions import ResponseError

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
_INFO_SECTIONS = ("memory", "persistence", "stats", "replication")


class Ask(Protocol):
    """Sends one command to the server and returns its reply. Errors of the server may be returned or raised.

    Raises the error of a connection that fails.
    """

    async def __call__(self, *command: str) -> Any:
        """See the class."""
        ...


async def server_warnings(ask: Ask, address: str) -> list[str]:
    """Return a line for each danger, as `ADDRESS: problem; remedy`. Sends five commands; those that are refused are skipped.

    Raises the error of a connection that fails.
    """
    facts: dict[str, str] = {}
    for section in _INFO_SECTIONS:
        facts |= await _fields(ask, "INFO", section) or {}
    if not facts:
        return [f"{address}: {SERVER_WARNINGS['hidden']}"]
    config = await _fields(ask, "CONFIG", "GET", "save")
    found = advice(facts, None if config is None else config.get("save"))
    failed = ", ".join(_failed(facts))
    return [
        f"{address}: {SERVER_WARNINGS[name].format(policy=facts.get('maxmemory_policy'), failed=failed)}"
        for name in found
    ]


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


async def _fields(ask: Ask, *command: str) -> dict[str, str] | None:
    """Return the reply to *command* as fields, whether the client has parsed it or not; None if it is refused."""
    try:
        reply = await ask(*command)
    except ResponseError:
        return None
    if isinstance(reply, Exception):
        return None
    if isinstance(reply, Mapping):
        return {_text(name): _text(value) for name, value in reply.items()}
    if isinstance(reply, list):
        return {_text(name): _text(value) for name, value in zip(reply[::2], reply[1::2], strict=False)}
    return facts_of(reply)


def facts_of(reply: object) -> dict[str, str]:
    """Return the fields of a reply to INFO; none for an error."""
    if not isinstance(reply, bytes | str):
        return {}
    lines = (line.partition(":") for line in _text(reply).splitlines())
    return {name: value for name, colon, value in lines if colon}


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
