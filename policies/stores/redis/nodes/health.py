"""Warnings about a Redis server that may forget what it has counted: how it is configured, and how it fares.

They come from INFO and CONFIG GET. Where the user may not use one of them, those warnings are missing; nothing else depends on it.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeAlias

from policies.stores.redis.connecting.connection import Reply
from policies.stores.redis.connecting.url import Address

CHECK_SECONDS = 60.0
INFO_SECTIONS = ("server", "memory", "persistence", "stats", "replication")
_log = logging.getLogger("sidecar.store")

Ask: TypeAlias = Callable[..., Awaitable[Reply]]
"""Returns the reply to a command; errors are returned too."""


class HealthCheck:
    """Logs each warning about a server once, until it no longer holds. *monotonic* is a clock in seconds."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._due_at: dict[Address, float] = {}
        self._known: set[str] = set()
        self._evicted: int | None = None
        self._address: Address | None = None

    def is_due(self, address: Address) -> bool:
        """Return whether the server at *address* was not checked in the last minute; then it counts as checked."""
        now = self._monotonic()
        if now < self._due_at.get(address, now):
            return False
        self._due_at = {address: now + CHECK_SECONDS}
        return True

    async def check(self, address: Address, ask: Ask) -> None:
        """Log what is wrong with the server at *address*, and was not wrong at the last check."""
        facts = await facts_about(ask)
        evicted = _number(facts, "evicted_keys")
        before = self._evicted if self._address == address else None
        self._address, self._evicted = address, evicted
        found = warnings_about(facts, evicted_before=before)
        for cause, text in found.items():
            if cause not in self._known:
                _log.warning("Redis %s: %s", address, text)
        self._known = set(found)


async def facts_about(ask: Ask) -> Mapping[str, str]:
    """Return the fields of INFO, and `save` from CONFIG; what the user may not see is missing."""
    facts: dict[str, str] = {}
    for section in INFO_SECTIONS:
        facts |= facts_of(await ask("INFO", section))
    settings = await ask("CONFIG", "GET", "save")
    if isinstance(settings, list) and len(settings) == len(("save", "value")):
        facts["save"] = bytes(settings[1]).decode()
    return facts


def warnings_about(facts: Mapping[str, str], *, evicted_before: int | None = None) -> dict[str, str]:
    """Return what is wrong by *facts*: cause and text.

    *evicted_before* is the number of evicted keys at the last check, None if this is the first.
    """
    found: dict[str, str] = {}
    policy = facts.get("maxmemory_policy", "noeviction")
    if policy != "noeviction" and _number(facts, "maxmemory"):
        found["policy"] = (
            f"maxmemory-policy is {policy}: at maxmemory it deletes counters, and limits begin again at 0;"
            " set maxmemory-policy noeviction"
        )
    evicted = _number(facts, "evicted_keys")
    if evicted > (evicted_before or 0) and (evicted_before is not None or policy != "noeviction"):
        found["evicted"] = (
            f"it has evicted {evicted - (evicted_before or 0)} keys: if counters were among them, their limits began again"
            " at 0; give it more memory, and set maxmemory-policy noeviction"
        )
    if facts.get("aof_enabled") == "0" and facts.get("save") == "":
        found["persistence"] = (
            "it writes nothing to disk: when it restarts, all limits begin again at 0; set appendonly yes"
        )
    elif facts.get("aof_enabled") == "0":
        found["persistence"] = (
            "appendonly is off: when it crashes, limits forget what was counted since its last snapshot; set appendonly yes"
        )
    failed = [
        name
        for name in ("aof_last_write_status", "aof_last_bgrewrite_status", "rdb_last_bgsave_status")
        if facts.get(name, "ok") != "ok"
    ]
    if failed:
        found["writing"] = (
            f"it fails to write to disk ({', '.join(failed)}): when it restarts, limits forget what was counted since; see"
            " that its disk has room and can be written"
        )
    if facts.get("role") == "slave":
        found["role"] = (
            "it is a replica and takes no writes: each policy follows its when_store_fails; name the primary, or its"
            " sentinels by redis+sentinel://"
        )
    return found


def facts_of(reply: Reply) -> dict[str, str]:
    """Return the fields of a reply to INFO; none for an error."""
    if not isinstance(reply, bytes):
        return {}
    pairs = (line.partition(":") for line in reply.decode(errors="replace").splitlines())
    return {name: value for name, separator, value in pairs if separator}


def _number(facts: Mapping[str, str], name: str) -> int:
    value = facts.get(name, "0")
    return int(value) if value.isascii() and value.isdigit() else 0
