"""docs/stores.md is true: its store is installed by its entry points and counts, and its table has the whole contract."""

from __future__ import annotations

import importlib
import re
import sys
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from documents import blocks, modules, rows
from places import ROOT

from policies import Budget, Rate
from policies.api.store import AdvisedStore, CorrectableStore, EntryStore, LimitRegistry, Store
from policies.stores.opening import STORE_GROUP, open_store
from policies.stores.redis.servers.failures import REDIS_FAILURES
from policies.stores.redis.servers.server_advice import SERVER_WARNINGS
from policies.stores.sqlite.failures import SQLITE_FAILURES
from policies.stores.sqlite.file_system import NETWORK_WARNING
from policies.testing import FakeClock, make_call, make_services, serve
from sidecar.server.store_state import consequence

DOCUMENT = ROOT / "docs" / "stores.md"
MODULE = "timed_store"


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The package of the document, installed with the entry points that it shows."""
    (tmp_path / f"{MODULE}.py").write_text(modules(DOCUMENT)[f"{MODULE}.py"])
    (block,) = (block for block in blocks(DOCUMENT, "toml") if STORE_GROUP in block)
    entries = tomllib.loads(block)["project"]["entry-points"][STORE_GROUP]
    dist = tmp_path / "timed_store-1.dist-info"
    dist.mkdir()
    (dist / "METADATA").write_text("Metadata-Version: 2.1\nName: timed-store\nVersion: 1\n")
    lines = [f"[{STORE_GROUP}]", *(f"{scheme} = {place}" for scheme, place in entries.items())]
    (dist / "entry_points.txt").write_text("\n".join(lines))
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    yield
    sys.modules.pop(MODULE, None)


@pytest.mark.anyio
@pytest.mark.usefixtures("installed")
async def test_example_counts(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The example reserves, settles and releases in the file of its URL, and logs how long a reservation took."""
    caplog.set_level("INFO")
    clock = FakeClock()
    store = open_store("timed+sqlite:///counters.db", folder=tmp_path, clock=clock)
    assert not list(tmp_path.glob("counters.db*"))
    services = make_services(clock=clock, store=store)
    limits = [Rate(name="rate", requests=2), Budget(name="budget", tokens=100_000)]
    try:
        served = [await serve(limits, make_call("hi", services=services)) for _ in range(3)]
        (account,) = await store.accounts()
        await store.heartbeat()
        await store.ping()
    finally:
        await store.aclose()

    assert [each.rejection is None for each in served] == [True, True, False]
    assert (account.policy, account.reserved, account.spent > 0) == ("budget", 0, True)
    assert (tmp_path / "counters.db").is_file()
    assert sum(each.name == "sidecar.timed_store" for each in caplog.records) == 3


def test_table_has_the_contract() -> None:
    """The table of the members of `Store` has each of them, and no other."""
    named = [row[0].strip("`") for row in rows(DOCUMENT.read_text(), "| member of `Store` | meaning |")]
    assert named == [name for name in vars(Store) if not name.startswith("_")]


def test_tables_have_the_optional_protocols() -> None:
    """The tables of the protocols that may be missing have each of their members, and no other."""
    text = DOCUMENT.read_text()
    protocol, named = "", list[tuple[str, str]]()
    for first, member, *_ in rows(text, "| protocol | member | meaning |"):
        protocol = first.strip("`") or protocol
        named.append((protocol, member.strip("`")))
    named += [("EntryStore", row[0].strip("`")) for row in rows(text, "| member of `EntryStore` | meaning |")]
    protocols = (CorrectableStore, LimitRegistry, AdvisedStore, EntryStore)
    members = [(each.__name__, name) for each in protocols for name in vars(each) if not name.startswith("_")]
    assert sorted(named) == sorted(members)


def shown(template: str) -> str:
    """Return *template* as the document shows it: names of values in capitals."""
    named = re.sub(r"(?<!{){(\w+)}(?!})", lambda name: name[1].upper(), template)
    return named.replace("{{", "{").replace("}}", "}")


def section(title: str) -> list[list[str]]:
    """Return the rows of the table under the heading *title*."""
    return rows(DOCUMENT.read_text().split(f"\n### {title}\n")[1], "| ")


@pytest.mark.parametrize(
    ("title", "failures"), [("Causes: SQLite", SQLITE_FAILURES), ("Causes: Redis", REDIS_FAILURES)]
)
def test_every_failure_is_listed(title: str, failures: Mapping[str, tuple[str, str]]) -> None:
    """The tables have each cause and its remedy in the words of the log."""
    assert section(title) == [[shown(cause), shown(remedy)] for cause, remedy in failures.values()]


def test_every_warning_is_listed() -> None:
    """The table has each warning and its remedy in the words of the log."""
    texts = [shown(text).rpartition("; ") for text in (*SERVER_WARNINGS.values(), NETWORK_WARNING)]
    assert section("Warnings") == [[warning, remedy] for warning, _, remedy in texts]


def test_consequence_is_quoted() -> None:
    """The line of the document tells what the shipped policies do, in the words of the log."""
    assert f'meanwhile="{consequence({"rate": "admit", "budget": "refuse"})}"' in DOCUMENT.read_text()
