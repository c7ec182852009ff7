"""An installed package with store schemes of its own: `etcd`, `private` (not shared between processes) and `broken`."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from policies.stores.opening import STORE_GROUP

PLUGIN = """
from policies.stores.memory import MemoryStore

opened = []

def make(url, *, folder, clock):
    if url.endswith("wrong"):
        raise ValueError("invalid host in the URL; name another host")
    if url.endswith("none"):
        raise ValueError(f"no host {url.rpartition('u:')[2]!r}; name one")
    if url.endswith("fails"):
        raise RuntimeError(f"no answer from {url}")
    opened.append((url, folder, clock))
    return MemoryStore(clock=clock)

def make_private(url, *, folder, clock):
    return MemoryStore(clock=clock)

make_private.shared_between_processes = False
"""


def installed_plugin(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Install the package in *folder*, yield the name of its module, and remove the imported module at the end."""
    name = f"store_plugin_{folder.name.replace('-', '_')}"
    (folder / f"{name}.py").write_text(PLUGIN)
    dist = folder / "store_plugin-1.dist-info"
    dist.mkdir()
    (dist / "METADATA").write_text("Metadata-Version: 2.1\nName: store-plugin\nVersion: 1\n")
    entries = {"etcd": f"{name}:make", "private": f"{name}:make_private", "broken": f"{name}:missing"}
    lines = [f"[{STORE_GROUP}]", *(f"{scheme} = {place}" for scheme, place in entries.items())]
    (dist / "entry_points.txt").write_text("\n".join(lines))
    monkeypatch.syspath_prepend(str(folder))
    importlib.invalidate_caches()
    yield name
    sys.modules.pop(name, None)
