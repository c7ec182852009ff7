"""`sidecar usage`: the state of each budget, read by another process."""

from __future__ import annotations

import json
import time
from hashlib import sha256
from pathlib import Path

import pytest
from process import ran
from redis_server import RedisServer, with_own_prefix

from policies.api.claim import IDENTITY_SEPARATOR, OVERFLOW_SUFFIX, Claim, Unit
from policies.api.window import Calendar
from policies.stores.opening import open_store

pytestmark = pytest.mark.anyio

KEY_TABLES = "".join(
    f'[[key]]\ntenant = "{name}"\nsha256 = "{sha256(name.encode()).hexdigest()}"\n{more}\n'
    for name, more in (("acme", "limits = { daily = { tokens = 900 } }"), ("zeta", ""))
)
CONFIG_TEXT = (
    KEY_TABLES
    + """
[prices."*"]
input = 1
output = 2
[[policy]]
use = "budget"
name = "daily"
tokens = 500
[[policy]]
use = "budget"
name = "money"
usd = 0.25
window = "month"
timezone = "Europe/Berlin"
by = "global"
[[policy]]
use = "budget"
name = "users"
tokens = 50
by = "user"
"""
)


async def spend(url: str, folder: Path) -> None:
    day, month = Calendar("day"), Calendar("month", "Europe/Berlin")
    rows: list[tuple[str, str, Unit, Calendar]] = [
        ("daily", "acme", "tokens", day),
        ("money", "", "usd", month),
        ("users", f"acme{IDENTITY_SEPARATOR}ann", "tokens", day),
        ("users", f"zeta{OVERFLOW_SUFFIX}", "tokens", day),
    ]
    claims = [
        Claim(policy=policy, identity=identity, unit=unit, limit=10**6, window=window, base=40)
        for policy, identity, unit, window in rows
    ]
    store = open_store(url, folder=folder)
    await store.reserve("1", claims)
    await store.settle("1", {claim.key: 30 for claim in claims})
    await store.reserve("2", claims)
    await store.aclose()


@pytest.mark.parametrize("kind", ["sqlite", "redis"])
async def test_every_counter_is_listed(request: pytest.FixtureRequest, tmp_path: Path, kind: str) -> None:
    """Each counter shows limit, spent, reserved, left and reset time; limits of keys apply, and `usd` budgets are in dollars."""
    url = with_own_prefix(request.getfixturevalue("redis").url) if kind == "redis" else "sqlite:///s.db"
    (tmp_path / "s.toml").write_text(f'[store]\nurl = "{url}"\n' + CONFIG_TEXT)
    await spend(url, tmp_path)

    code, out, _ = ran("usage", "--config", "s.toml", "--json", folder=tmp_path)
    rows = json.loads(out)
    shown = [
        (row["policy"], row["tenant"], row["counts"], row["unit"], row["limit"], row["spent"], row["reserved"], row["left"])
        for row in rows
    ]  # fmt: skip
    assert code == 0
    assert shown == [
        ("daily", "acme", {"tenant": "acme"}, "tokens", 900, 30, 40, 830),
        ("daily", "zeta", {"tenant": "zeta"}, "tokens", 500, 0, 0, 500),
        ("money", None, {}, "usd", 0.25, 0.00003, 0.00004, 0.24993),
        ("users", "acme", {"tenant": "acme", "user": "ann"}, "tokens", 50, 30, 40, 0),
        ("users", "zeta", {"tenant": "zeta", "user": "(others)"}, "tokens", 50, 30, 40, 0),
    ]
    assert {row["window"] for row in rows} == {"day", "month"}
    assert all(row["resets_at"] > time.time() for row in rows)

    _, one, _ = ran("usage", "--config", "s.toml", "--tenant", "zeta", "--json", folder=tmp_path)
    assert [row["policy"] for row in json.loads(one)] == ["daily", "users"]
    _, table, _ = ran("usage", "--config", "s.toml", folder=tmp_path)
    lines = table.splitlines()
    assert lines[0].split() == ["budget", "for", "window", "limit", "spent", "reserved", "left", "resets", "at"]
    assert lines[3].startswith("money   all callers")
    assert "$0.249930" in lines[3]


async def test_missing_store_is_not_created(tmp_path: Path) -> None:
    """A SQLite file that does not exist is not created, and every budget is unused."""
    code, out, _ = ran("usage", "--json", folder=tmp_path)

    assert code == 0
    assert [(row["policy"], row["tenant"], row["spent"], row["left"]) for row in json.loads(out)] == [
        ("budget", "default", 0, 500_000)
    ]
    assert list(tmp_path.iterdir()) == []


async def test_unreadable_store_is_one_line(tmp_path: Path) -> None:
    """A store that is private to its process, or is down, gives one line without its password."""
    code, _, err = ran("usage", folder=tmp_path, environ={"SIDECAR_STORE": "memory://"})
    assert (code, err.strip()) == (2, "sidecar: store.url: memory:// is private to the process that uses it; use a sqlite:/// or redis:// store")  # fmt: skip
    code, _, err = ran("usage", folder=tmp_path, environ={"SIDECAR_STORE": "redis://:secret@127.0.0.1:1/0"})
    assert (code, "secret" in err) == (1, False)
    assert "127.0.0.1:1/0: " in err
    assert "see that it runs and can be reached" in err


async def test_running_reservations_are_shown(redis: RedisServer, tmp_path: Path) -> None:
    """A reservation of a running call is shown as reserved."""
    url = with_own_prefix(redis.url)
    (tmp_path / "s.toml").write_text(f'[store]\nurl = "{url}"\n[[policy]]\nuse = "budget"\ntokens = 100\n')
    store = open_store(url, folder=tmp_path)
    claim = Claim(policy="budget", identity="default", unit="tokens", limit=100, window=Calendar("day"), base=7)
    await store.reserve("1", [claim])
    rows = json.loads(ran("usage", "--config", "s.toml", "--json", folder=tmp_path)[1])
    assert [(row["spent"], row["reserved"], row["left"]) for row in rows] == [(0, 7, 93)]
    await store.aclose()
