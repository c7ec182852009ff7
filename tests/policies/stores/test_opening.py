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
    "redis://h:65536",
    "redis://h1,,h2",
    "redis://h1, h2",
    "redis+sentinel:///name",
    "redis+x://h",
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
        ("REDIS://h", RedisStore),
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
        ("redis://me@h1,h2:7000/0", True, False, None),
        ("redis://:p@h1,h2:7000/0", True, True, None),
        ("valkeys+sentinel://me:p@h1,h2/name", True, True, None),
        ("redis+unix://:p@/run/redis.sock", True, True, None),
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
        ("redis://me:secret@h1:1,[::1]:2/0?wait=0", "redis://h1:1,[::1]:2/0"),
        ("redis+sentinel://:secret@h1,h2/name/1?prefix=p", "redis+sentinel://h1,h2/name/1"),
        ("redis+unix://:secret@/run/redis.sock?db=1", "redis+unix:///run/redis.sock"),
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


@pytest.mark.parametrize(
    "url",
    [
        "redis://:p/secret@h/0",
        "redis://u:1/secret@h/0",
        "redis://:secr?et/secret@h/x",
        "redis://h/0?password=secret",
        "redis://u:1?x=1&secret@h",
        "redis+sentinel://u:1/secret@h/name",
        "redis+unix://:p/secret@/run/redis.sock",
        "redis+sentinel://u:secret@h1,h2",
        "postgres://u:secret@h",
        "etcd+x://u:a/secret@h",
    ],
)
def test_error_does_not_show_a_malformed_password(url: str) -> None:
    """A password that is not quoted, or is an option, is not in the error either."""
    with pytest.raises(ValueError, match="invalid store URL") as caught:
        StoreUrl.parse(url)
    assert "secr" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "remedy"),
    [
        ("redis://h/0?prefix=", "give 'prefix' a name of printable ASCII without '{', '}' and ':', such as 'sidecar'"),
        ("redis://h/0?prefix=a:b", "give 'prefix' a name of printable ASCII"),
        ("redis://h/0?timeout=1", "remove the option 'timeout': there are only 'prefix' and 'wait'"),
        ("redis://h/0?db=1", "remove the option 'db': there are only 'prefix' and 'wait'"),
        ("redis://h/0?wait=1001", "'wait' is the time for a replica's answer, 0 to 1000 milliseconds"),
        ("redis://h/0?wait=-1", "'wait' is the time for a replica's answer"),
    ],
)
def test_wrong_option_of_redis(url: str, remedy: str) -> None:
    """The error about an option states what is wrong with it."""
    with pytest.raises(ValueError, match="^invalid store URL 'redis://h/0'; ") as caught:
        StoreUrl.parse(url)
    assert remedy in str(caught.value)


@pytest.mark.parametrize(
    ("url", "remedy"),
    [
        ("redis://h1,h2/1", "several servers are a cluster, which has only the database 0: end the URL with '/0'"),
        ("redis://h/-1", "the database must be a number: 'redis://HOST:PORT/0'"),
        (f"redis://h/{'9' * 5000}", "the database must be a number"),
        (f"redis://{','.join(f'h{at}' for at in range(65))}", "name at most 64 nodes"),
        ("redis+sentinel://h1,h2", "add the name that the sentinels give to the primary"),
        ("redis+sentinel://h/two words/0", "add the name that the sentinels give to the primary"),
        ("redis+sentinel://h/name/x", "the database must be a number: 'redis+sentinel://HOST:26379/NAME/0'"),
        ("redis+unix://run/redis.sock", "write the path of the socket after three slashes"),
        ("redis+unix:///run/redis.sock?db=x", "the database must be a number: 'redis+unix:///PATH?db=0'"),
    ],
)
def test_wrong_servers_of_redis(url: str, remedy: str) -> None:
    """The error about a list of nodes, sentinels or a socket states what is wrong with it."""
    with pytest.raises(ValueError, match="^invalid store URL ") as caught:
        StoreUrl.parse(url)
    assert remedy in str(caught.value)


def test_failing_factory_of_an_installed_store(plugin: str, tmp_path: Path) -> None:
    """An exception of a factory is a ValueError with its class and a remedy, without its message and the password."""
    with pytest.raises(ValueError, match="^store 'etcd' cannot be opened: its package raised RuntimeError; ") as caught:
        open_store("etcd://u:secret@fails", folder=tmp_path)
    assert "secret" not in str(caught.value)
    with pytest.raises(ValueError, match="^no host '\\*\\*\\*@h:none'; name one$"):
        open_store("etcd://u:secret@h:none", folder=tmp_path)


def test_credentials_of_an_installed_scheme(plugin: str) -> None:
    """The URL of an installed scheme is described without credentials, and its password is noticed."""
    location = StoreUrl.parse("etcd://u:se/cret@h/x?token=secret")
    assert (location.describe(Path()), location.has_password) == ("etcd://h/x", True)
    assert not StoreUrl.parse("etcd://h/x").has_password
