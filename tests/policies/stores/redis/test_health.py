"""Warnings about a Redis that may forget what it has counted."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from redis_server import MISSING, SERVER, free_port, redis_server
from script_links import command, script_link

from policies.api.store import StoreDown
from policies.stores.redis.nodes.health import CHECK_SECONDS, warnings_about

pytestmark = [pytest.mark.anyio, pytest.mark.skipif(SERVER is None, reason=MISSING)]

GOOD = {
    "role": "master",
    "maxmemory": "0",
    "maxmemory_policy": "allkeys-lru",
    "evicted_keys": "0",
    "aof_enabled": "1",
    "aof_last_write_status": "ok",
    "aof_last_bgrewrite_status": "ok",
    "rdb_last_bgsave_status": "ok",
    "save": "",
}


@pytest.mark.parametrize(
    ("changed", "before", "cause", "text"),
    [
        ({}, None, None, ""),
        ({"maxmemory": "1000"}, None, "policy", "set maxmemory-policy noeviction"),
        ({"maxmemory": "1000", "maxmemory_policy": "noeviction"}, None, None, ""),
        ({"evicted_keys": "7"}, 4, "evicted", "has evicted 3 keys"),
        ({"evicted_keys": "7"}, 7, None, ""),
        ({"evicted_keys": "7", "maxmemory_policy": "noeviction"}, None, None, ""),
        ({"aof_enabled": "0"}, None, "persistence", "it writes nothing to disk"),
        ({"aof_enabled": "0", "save": "60 1"}, None, "persistence", "since its last snapshot"),
        ({"aof_last_write_status": "err"}, None, "writing", "aof_last_write_status"),
        ({"rdb_last_bgsave_status": "err"}, None, "writing", "its disk has room"),
        ({"role": "slave"}, None, "role", "name the primary"),
    ],
)
def test_warnings_of_facts(changed: dict[str, str], before: int | None, cause: str | None, text: str) -> None:
    """Each risk has one warning that names what happens to limits, and the remedy."""
    found = warnings_about(GOOD | changed, evicted_before=before)
    assert list(found) == ([] if cause is None else [cause])
    assert text in "".join(found.values())


def test_nothing_is_known() -> None:
    """A server that tells nothing about itself gives no warnings."""
    assert warnings_about({}) == {}


async def test_warnings_of_a_server(tmp_path: Path) -> None:
    """The warnings of a server without persistence that evicts keys are returned for the summary at start."""
    with redis_server(tmp_path, "--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru") as server:
        async with script_link(server.url) as link:
            policy, persistence = await link.warnings()
            assert "limits begin again at 0" in policy
            assert "limits begin again at 0" in persistence
            await command(server.port, "CONFIG", "SET", "maxmemory-policy", "noeviction")
            await command(server.port, "CONFIG", "SET", "appendonly", "yes")
            assert await link.warnings() == []


async def test_warnings_of_a_server_that_is_down() -> None:
    """Where there is no server, the warnings cannot be known."""
    async with script_link(f"redis://127.0.0.1:{free_port()}") as link:
        with pytest.raises(StoreDown, match="see that it runs"):
            await link.warnings()


async def test_user_that_may_not_look(tmp_path: Path) -> None:
    """Without rights for INFO and CONFIG there are no warnings, and calls are served."""
    with redis_server(tmp_path) as server:
        await command(server.port, "ACL", "SETUSER", "me", "reset", "on", ">p", "~*", "+@all", "-info", "-config")
        async with script_link(server.url.replace("://", "://me:p@")) as link:
            assert await link.submit(b"1") == b"1"
            assert await link.warnings() == []


async def test_each_warning_is_logged_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A warning is logged after the connection, not again every minute, and again only when it has gone and come back."""
    now = [0.0]

    def lines() -> int:
        return sum("writes nothing to disk" in each.getMessage() for each in caplog.records)

    with redis_server(tmp_path) as server, caplog.at_level(logging.WARNING, "sidecar.store"):
        async with script_link(server.url, monotonic=lambda: now[0]) as link:

            async def minute() -> None:
                now[0] += CHECK_SECONDS + 1
                await link.submit(b"%f" % now[0])
                while link._nodes._checks:
                    await link.submit(b"wait")

            for _ in range(3):
                await minute()
            assert lines() == 1
            await command(server.port, "CONFIG", "SET", "appendonly", "yes")
            await minute()
            await command(server.port, "CONFIG", "SET", "appendonly", "no")
            await minute()
            assert lines() == 2
