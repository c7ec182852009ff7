"""Commands on the store of an earlier version, whose sidecars may still run: they refuse it, and convert nothing."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest
from old_files import DAY, old_file
from redis import Redis
from redis_server import with_own_prefix

from sidecar.cli import main as cli

Content = Callable[[], object]
CONFIG_TEXT = f"""
[[key]]
tenant = "acme"
sha256 = "{sha256(b"acme").hexdigest()}"
[[policy]]
use = "budget"
name = "daily"
tokens = 500
"""
REFUSAL = (
    "the format of an earlier version; start this version of the sidecar, which converts it and keeps its counters\n"
)


def earlier_file(folder: Path) -> tuple[str, Content]:
    """Write a SQLite file of an earlier version; return its URL, and a function that returns its bytes."""
    path = folder / "s.db"
    old_file(path, 3)
    return "sqlite:///s.db", path.read_bytes


def earlier_keys(server_url: str) -> tuple[str, Content]:
    """Write a calendar counter of format 1 to Redis; return the URL of the store, and a function that returns its keys."""
    url = with_own_prefix(server_url)
    prefix = "{" + url.rpartition("=")[2] + "}:"

    def content() -> object:
        with Redis.from_url(server_url) as client:
            keys = [key for key in client.scan_iter() if key.decode().startswith(prefix)]
            return {key: client.dump(key) for key in keys}

    with Redis.from_url(server_url) as client:
        client.hset(f"{prefix}c:0:{DAY.key}", mapping={"s": 600, "h": 50, "e": 2**52})
        client.zadd(f"{prefix}a", {f"0:{DAY.key}": 2**52})
    return url, content


@pytest.mark.parametrize("kind", ["sqlite", "redis"])
@pytest.mark.parametrize(
    "command",
    [
        "usage",
        "budget reset --tenant acme --policy daily",
        "budget grant --tenant acme --policy daily --tokens 5",
    ],
)
def test_command_leaves_an_earlier_store_as_it_is(
    request: pytest.FixtureRequest, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str, command: str
) -> None:
    """Each command ends with exit code 1 and one line that names the remedy; the store is not changed."""
    url, content = earlier_file(tmp_path) if kind == "sqlite" else earlier_keys(request.getfixturevalue("redis").url)
    (tmp_path / "s.toml").write_text(f'[store]\nurl = "{url}"\n' + CONFIG_TEXT)
    before = content()
    assert cli.main([*command.split(), "--config", str(tmp_path / "s.toml")]) == 1
    out, err = capsys.readouterr()
    (line,) = err.splitlines(keepends=True)
    assert (out, line.startswith("sidecar: store.url: ")) == ("", True)
    assert line.endswith(REFUSAL)
    assert content() == before
