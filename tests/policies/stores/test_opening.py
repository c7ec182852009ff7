"""Store URLs: which are valid, what they state about a store, and how an installed package adds a scheme."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from claims import budget
from store_plugin import installed_plugin

from policies.stores.memory import MemoryStore
from policies.stores.opening import StoreUrl, open_store
from policies.stores.redis.store import RedisStore
from policies.stores.sqlite.store import SQLiteStore
from policies.testing import FakeClock

INVALID = [
    "http://x",
    "redis://",
    "redis://h:0",
    "redis://[x",
    "sqlite://x.db",
    "sqlite:///",
    "memory",
    "",
    "postgres://x",
]


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Install the package of `store_plugin`; give the name of its module."""
    yield from installed_plugin(tmp_path, monkeypatch)


@pytest.mark.parametrize("url", INVALID)
def test_invalid_urls_are_refused_with_the_remedy(url: str, tmp_path: Path) -> None:
    """A URL of no known kind is a ValueError that names it and the kinds that there are."""
    with pytest.raises(ValueError, match="invalid store URL .*; write 'sqlite:///FILE'"):
        open_store(url, folder=tmp_path)


def test_errors_do_not_show_credentials() -> None:
    """The error about a wrong URL has neither its user nor its password."""
    with pytest.raises(ValueError, match="the database must be a number") as caught:
        StoreUrl.parse("redis://me:secret@host/x")
    assert "secret" not in str(caught.value)
    assert "'redis://host/x'" in str(caught.value)


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("memory://", MemoryStore),
        ("sqlite:///s.db", SQLiteStore),
        ("sqlite:////tmp/s.db", SQLiteStore),
        ("redis://h", RedisStore),
        ("rediss://u:p@h:1/0?prefix=a", RedisStore),
        ("valkey://h/1", RedisStore),
        ("valkeys://h/", RedisStore),
    ],
)
def test_each_scheme_opens_its_store(url: str, kind: type, tmp_path: Path) -> None:
    """A valid URL opens the store of its scheme, and opening touches nothing."""
    assert type(open_store(url, folder=tmp_path)) is kind
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("url", "shared", "password", "file"),
    [
        ("memory://", False, False, None),
        ("sqlite:///a/s.db", True, False, "a/s.db"),
        ("redis://h", True, False, None),
        ("rediss://:p@h", True, True, None),
    ],
)
def test_properties_of_a_url(url: str, shared: bool, password: bool, file: str | None, tmp_path: Path) -> None:  # noqa: FBT001  # columns of a table
    """A URL states whether workers share the store, whether it holds a password, and which file it is."""
    location = StoreUrl.parse(url)
    assert (location.is_shared_between_processes, location.has_password) == (shared, password)
    assert location.file(tmp_path) == (None if file is None else tmp_path / file)


@pytest.mark.parametrize(
    ("url", "described"),
    [
        ("memory://", "memory:// (counters end with the process)"),
        ("sqlite:///s.db", "sqlite:////srv/s.db"),
        ("rediss://me:secret@h:1/2?prefix=p", "rediss://h:1/2"),
    ],
)
def test_description_has_no_credentials(url: str, described: str) -> None:
    """The description of a URL has the whole path of a file, and neither credentials nor options."""
    assert StoreUrl.parse(url).describe(Path("/srv")) == described


def test_absolute_file(tmp_path: Path) -> None:
    """The URL of an absolute path names that file, whatever the folder."""
    assert StoreUrl.parse(StoreUrl.for_file(tmp_path / "s.db")).file(Path("elsewhere")) == tmp_path / "s.db"


@pytest.mark.anyio
async def test_installed_store(plugin: str, tmp_path: Path) -> None:
    """A scheme of an installed package opens the store that its factory makes of URL, folder and clock."""
    clock = FakeClock()
    store = open_store("etcd://host/x", folder=tmp_path, clock=clock)
    assert (await store.reserve("1", [budget(100)])).refused is None
    assert sys.modules[plugin].opened == [("etcd://host/x", tmp_path, clock)]
    assert StoreUrl.parse("etcd://host/x").is_shared_between_processes


def test_installed_store_refuses_its_urls(plugin: str, tmp_path: Path) -> None:
    """The error of a factory about a URL is raised by `open_store`; an unknown scheme names the installed ones."""
    with pytest.raises(ValueError, match="invalid host in the URL; name another host"):
        open_store("etcd://wrong", folder=tmp_path)
    with pytest.raises(ValueError, match=r"or 'etcd://\.\.\.', or 'private://\.\.\.'"):
        open_store("consul://h", folder=tmp_path)


def test_broken_package_of_a_store(plugin: str, tmp_path: Path) -> None:
    """A package whose factory cannot be loaded is a ValueError with the cause."""
    with pytest.raises(ValueError, match="store 'broken' cannot be loaded: AttributeError: .*; repair or reinstall"):
        open_store("broken://h", folder=tmp_path)
