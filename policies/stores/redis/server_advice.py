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
    "hidden": "its INFO cannot be read, so it is not known whether it evicts or persists counters; permit INFO to its user",
}
"""All warnings, by name."""


class Ask(Protocol):
    """Sends one command to the server and returns its reply. Raises `redis.exceptions.RedisError`."""

    async def __call__(self, *command: str) -> Any:
        """See the class."""
        ...


async def server_warnings(ask: Ask, address: str) -> list[str]:
    """Return a line for each danger, as `ADDRESS: problem; remedy`. Sends three commands; those that are refused are skipped.

    Raises the error of a connection that fails.
    """
    memory, persistence = await _fields(ask, "INFO", "memory"), await _fields(ask, "INFO", "persistence")
    if memory is None and persistence is None:
        return [f"{address}: {SERVER_WARNINGS['hidden']}"]
    config = await _fields(ask, "CONFIG", "GET", "save")
    found = advice(memory or {}, persistence or {}, None if config is None else config.get("save"))
    return [
        f"{address}: {SERVER_WARNINGS[name].format(policy=(memory or {}).get('maxmemory_policy'))}" for name in found
    ]


def advice(memory: Mapping[str, str], persistence: Mapping[str, str], save: str | None) -> list[str]:
    """Return the names of the warnings for a server with these fields of INFO.

    *save* is the server's setting of that name, None where it cannot be read, as on many managed servers.
    """
    found: list[str] = []
    if memory.get("maxmemory_policy", NO_EVICTION) != NO_EVICTION:
        found.append("evicting")
    if persistence.get("aof_enabled", "1") == "0":
        found.append("no_log" if save is None else "snapshots" if save else "in_memory")
    return found


async def _fields(ask: Ask, *command: str) -> dict[str, str] | None:
    """Return the reply to *command* as fields, whether the client has parsed it or not; None if it is refused."""
    try:
        reply = await ask(*command)
    except ResponseError:
        return None
    if isinstance(reply, Mapping):
        return {_text(name): _text(value) for name, value in reply.items()}
    if isinstance(reply, list):
        return {_text(name): _text(value) for name, value in zip(reply[::2], reply[1::2], strict=False)}
    lines = (line.partition(":") for line in _text(reply).splitlines())
    return {name: value for name, colon, value in lines if colon}


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
