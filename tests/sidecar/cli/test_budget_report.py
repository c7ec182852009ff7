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
    lines = table.split("\n\n")[1].splitlines()
    assert lines[0].split() == ["budget", "for", "window", "limit", "spent", "reserved", "left", "resets", "at"]
    assert lines[3].startswith("money   all callers")
    assert "$0.249930" in lines[3]


async def test_missing_store_is_refused(tmp_path: Path) -> None:
    """A SQLite file that does not exist, or is empty, is refused with its whole path; nothing is created or written."""
    cure = (
        "name the store with --store, or the configuration of the sidecar with --config, and start the sidecar before"
    )
    code, out, err = ran("usage", "--json", folder=tmp_path)
    assert (code, out) == (2, "")
    assert err == f"sidecar: store.url: sqlite:///{tmp_path}/sidecar.db does not exist; {cure}\n"
    code, _, err = ran("usage", "--store", "sqlite:///none/x.db", folder=tmp_path)
    assert (code, err) == (2, f"sidecar: store.url: sqlite:///{tmp_path}/none/x.db does not exist; {cure}\n")
    assert list(tmp_path.iterdir()) == []

    (tmp_path / "sidecar.db").touch()
    code, _, err = ran("usage", folder=tmp_path)
    assert (code, err) == (2, f"sidecar: store.url: sqlite:///{tmp_path}/sidecar.db is an empty file; {cure}\n")
    assert (tmp_path / "sidecar.db").stat().st_size == 0


async def test_store_is_named_first(tmp_path: Path) -> None:
    """The first line names the store: on stdout above the table, on stderr beside JSON. The flag overrides variable and file."""
    text = '[store]\nurl = "sqlite:///file.db"\n[[policy]]\nuse = "budget"\ntokens = 100\n'
    (tmp_path / "s.toml").write_text(text)
    environ = {"SIDECAR_STORE": "sqlite:///variable.db"}
    for name in ("file", "variable", "flag"):
        await store_of(f"sqlite:///{name}.db", tmp_path)
    arguments = ("usage", "--config", "s.toml")

    def first(*more: str, environ: dict[str, str] | None = None) -> str:
        return ran(*arguments, *more, folder=tmp_path, environ=environ)[1].partition("\n")[0]

    assert first() == f"store: sqlite:///{tmp_path}/file.db"
    assert first(environ=environ) == f"store: sqlite:///{tmp_path}/variable.db"
    assert first("--store", "sqlite:///flag.db", environ=environ) == f"store: sqlite:///{tmp_path}/flag.db"
    code, out, err = ran(*arguments, "--json", folder=tmp_path)
    assert (code, len(json.loads(out)), err) == (0, 1, f"store: sqlite:///{tmp_path}/file.db\n")


async def store_of(url: str, folder: Path) -> None:
    """Make the store at *url*, without a counter."""
    store = open_store(url, folder=folder)
    await store.ping()
    await store.aclose()


async def test_limits_of_profiles_and_rates(tmp_path: Path) -> None:
    """The limits of each profile are shown, those of rates too; keys with other limits have a line of their own."""
    keys = KEY_TABLES.replace("daily", "budget").replace("tokens = 900", "tokens = 900_000")
    (tmp_path / "s.toml").write_text(keys + '[[policy]]\nuse = "defaults"\n[[policy]]\nuse = "budget"\nname = "users"\ntokens = 7\nby = ["user", "model"]\n')  # fmt: skip
    store = open_store("sqlite:///sidecar.db", folder=tmp_path)
    claim = Claim(policy="budget", identity="zeta", unit="tokens", limit=10**6, window=Calendar("day"), base=40_000)
    await store.reserve("1", [claim])
    await store.settle("1", {claim.key: 40_000})
    await store.aclose()
    code, table, _ = ran("usage", "--config", "s.toml", folder=tmp_path)
    _, out, _ = ran("usage", "--config", "s.toml", "--json", "--tenant", "zeta", folder=tmp_path)

    assert code == 0
    assert [line.split() for line in table.split("\n\n")[2].splitlines()] == [
        ["limit", "for", "counted", "by", "window", "chain", "balanced", "constrained", "expanded"],
        ["rate", "all", "tenants", "tenant", "60", "s", "60", "30", "15", "60"],
        ["budget", "acme", "tenant", "day", "900,000", "70,000", "30,000", "200,000"],
        ["budget", "zeta", "tenant", "day", "500,000", "70,000", "30,000", "200,000"],
        ["users", "all", "tenants", "user,", "model", "day", "7", "7", "7", "7"],
    ]
    (row,) = json.loads(out)
    assert row["profiles"] == {
        "balanced": {"limit": 70_000, "left": 30_000},
        "constrained": {"limit": 30_000, "left": 0},
        "expanded": {"limit": 200_000, "left": 160_000},
    }
    profiles = {"balanced": 30, "constrained": 15, "expanded": 60}
    rate = {"policy": "rate", "requests": 60, "window": 60, "by": "tenant", "profiles": profiles}
    assert row["rates"] == [rate]


async def test_unknown_tenant_is_said(tmp_path: Path) -> None:
    """A tenant that no key has and that no budget has counted is exit code 2; one that was counted once is known."""
    (tmp_path / "s.toml").write_text('[store]\nurl = "sqlite:///s.db"\n' + CONFIG_TEXT)
    await spend("sqlite:///s.db", tmp_path)
    code, out, err = ran("usage", "--config", "s.toml", "--tenant", "acmee", "--json", folder=tmp_path)
    assert (code, out) == (2, "")
    assert err == (
        "sidecar: --tenant: unknown tenant 'acmee': no [[key]] has it and no budget has counted it; "
        "known tenants: acme, zeta\n"
    )

    (tmp_path / "s.toml").write_text(CONFIG_TEXT.removeprefix(KEY_TABLES))
    known = ran("usage", "--config", "s.toml", "--store", "sqlite:///s.db", "--tenant", "acme", folder=tmp_path)
    assert (known[0], known[2]) == (0, "")


async def test_usage_needs_no_upstream_and_no_secret(tmp_path: Path) -> None:
    """Neither the key of an upstream nor an upstream is needed."""
    upstream = '[[upstream]]\nbase_url = "https://h/v1"\nheaders_env = { x-a = "A" }\n'
    (tmp_path / "s.toml").write_text(
        f'{upstream}api_key_env = "NOT_SET"\n{upstream}client_cert = "c.pem"\napi_key_file = "none"\n'
    )
    await store_of("sqlite:///sidecar.db", tmp_path)
    code, out, _ = ran("usage", "--config", "s.toml", folder=tmp_path)
    assert (code, out.partition("\n")[0]) == (0, f"store: sqlite:///{tmp_path}/sidecar.db")
    assert ran("usage", folder=tmp_path)[0] == 0


async def test_unreadable_store_is_one_line(tmp_path: Path) -> None:
    """A store that is private to its process, or is down, gives one line without its password."""
    code, _, err = ran("usage", folder=tmp_path, environ={"SIDECAR_STORE": "memory://"})
    assert (code, err.strip()) == (2, "sidecar: store.url: memory:// cannot be read from outside: its counters are in the process of `sidecar serve` and end with it; use a sqlite:/// or redis:// store")  # fmt: skip
    code, _, err = ran("usage", "--store", "redis://:secret@127.0.0.1:1/0", folder=tmp_path)
    assert (code, "secret" in err) == (1, False)
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
