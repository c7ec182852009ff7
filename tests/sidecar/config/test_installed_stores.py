"""Store schemes of installed packages in the configuration."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from store_plugin import installed_plugin

from sidecar.config.loader import load
from sidecar.config.settings import Flags
from sidecar.config.tables import ConfigError


@pytest.fixture(autouse=True)
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Install the package of `store_plugin`."""
    yield from installed_plugin(tmp_path, monkeypatch)


def loaded_scheme(folder: Path, scheme: str, workers: int) -> str:
    (folder / "s.toml").write_text(f"[store]\nurl = '{scheme}://h'")
    flags = Flags(upstream="http://h/v1", workers=workers)
    return load(folder / "s.toml", environ={}, flags=flags).store.location.scheme


@pytest.mark.parametrize(("scheme", "workers"), [("private", 1), ("etcd", 1), ("etcd", 2)])
def test_installed_scheme_is_valid(tmp_path: Path, scheme: str, workers: int) -> None:
    """A scheme of an installed package is a valid store; with several workers where processes share it."""
    assert loaded_scheme(tmp_path, scheme, workers) == scheme


def test_several_workers_need_a_shared_store(tmp_path: Path) -> None:
    """A store that is not shared between processes cannot serve several workers."""
    with pytest.raises(ConfigError, match="'private://h' cannot serve 2 workers"):
        loaded_scheme(tmp_path, "private", 2)
    with pytest.raises(ConfigError, match="'private://h' cannot serve 2 workers"):
        load(None, environ={"SIDECAR_STORE": "private://u:secret@h"}, flags=Flags(upstream="http://h/v1", workers=2))


def test_broken_package_of_a_store(tmp_path: Path) -> None:
    """A package that cannot be loaded is a fault of the configuration, with its cause."""
    with pytest.raises(ConfigError, match="store.url: store 'broken' cannot be loaded: AttributeError"):
        loaded_scheme(tmp_path, "broken", 1)
