"""A user of Redis with no more rights than docs/stores.md and the message of the failure name can do everything."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from claims import budget, chosen_by_client, rate
from places import ROOT
from redis.asyncio import Redis
from redis_server import MISSING, SERVER, RedisServer

from policies.api.store import StoreDown
from policies.stores.redis.store import RedisStore

pytestmark = [pytest.mark.anyio, pytest.mark.skipif(SERVER is None, reason=MISSING)]

DOCUMENT = ROOT / "docs" / "stores.md"
USER, SECRET = "sidecar", "secret"
RULE = re.compile(r"\+@?[a-z]+")
(ACL_COMMAND,) = re.findall("^ACL SETUSER .*$", DOCUMENT.read_text(), re.MULTILINE)


@pytest.fixture
async def admin(redis: RedisServer) -> AsyncIterator[Any]:
    """Give a client that may do everything; the user of the test is removed afterwards."""
    client: Any = Redis.from_url(redis.url)
    yield client
    await client.execute_command("ACL", "DELUSER", USER)
    await client.aclose()


def store_of_user(redis: RedisServer, prefix: str) -> RedisStore:
    return RedisStore(redis.url.replace("//", f"//{USER}:{SECRET}@").removesuffix("/0") + "/1", prefix=prefix)


async def use(store: RedisStore) -> None:
    """Execute each operation of the store."""
    await store.ping()
    claims: Sequence[Any] = [budget(1_000), rate(10), chosen_by_client("u1")]
    await store.reserve("1", claims)
    await store.reserve("1", [budget(1_000)], 0, 1)
    await store.settle("1", {budget(1_000).key: 5})
    await store.reserve("2", claims)
    await store.release("2")
    await store.heartbeat()
    assert await store.accounts()
    await store.standings(claims)
    await store.correct([budget(1_000)], 5, "note")
    await store.register_limits({"budget": "day"})
    await store.remember({"key": b"value"}, 60)
    assert await store.recall(["key"]) == [b"value"]
    await store.forget(["key"])
    await store.warnings()


async def test_documented_rights_suffice(redis: RedisServer, admin: Any, prefix: str) -> None:
    """The command of the document permits all operations, and their warnings name nothing that the user may not read."""
    await admin.execute_command(
        *ACL_COMMAND.replace(">PASSWORD", f">{SECRET}").replace("{sidecar}", f"{{{prefix}}}").split()
    )
    store = store_of_user(redis, prefix)
    await use(store)
    assert not [each for each in await store.warnings() if "INFO" in each]
    await store.aclose()


async def test_message_names_the_documented_rights(redis: RedisServer, admin: Any, prefix: str) -> None:
    """The message for a user who lacks a right names the same ones."""
    await admin.execute_command("ACL", "SETUSER", USER, "reset", "on", f">{SECRET}", "~*", "+eval", "+evalsha")
    store = store_of_user(redis, prefix)
    with pytest.raises(StoreDown, match="its ACL does not permit") as down:
        await store.ping()
    await store.aclose()
    assert set(RULE.findall(str(down.value))) == set(RULE.findall(ACL_COMMAND))
