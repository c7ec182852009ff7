"""The figures of `bench/structure.py`."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from places import BENCH, ROOT
from process import environment

pytestmark = pytest.mark.skipif(not BENCH.exists(), reason="the bench is not part of an installed package")


@pytest.fixture
def structure(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Import the script."""
    monkeypatch.syspath_prepend(BENCH)
    return importlib.import_module("structure")


def test_cycle_is_one_import_level(structure: Any) -> None:
    """Modules that import each other are one cycle and stand on one import level."""
    graph = {"a": {"b"}, "b": {"c", "d"}, "c": {"b"}, "d": set(), "e": {"d"}}
    frozen = {module: frozenset(others) for module, others in graph.items()}

    assert structure.cycles_of(frozen) == [["b", "c"]]
    assert structure.levels_of(frozen) == 3


def test_type_only_imports_are_counted(structure: Any, tmp_path: Path) -> None:
    """An import under TYPE_CHECKING and one inside a function count as imports."""
    files = {
        name: tmp_path / f"{name.rpartition('.')[2]}.py" for name in ("sidecar.one", "sidecar.two", "sidecar.three")
    }
    text = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from .two import X\ndef f():\n    import sidecar.three\n"
    for name, path in files.items():
        path.write_text(text if name == "sidecar.one" else "")

    assert structure.imports_of("sidecar.one", files) == {"sidecar.two", "sidecar.three"}


def test_figures_are_printed() -> None:
    """The script prints its figures for the checkout that it stands in."""
    command = [sys.executable, str(BENCH / "structure.py")]
    printed = subprocess.run(command, capture_output=True, text=True, check=True, env=environment(), cwd=ROOT).stdout

    for figure in (
        "policies/",
        "sidecar/",
        "lines of a file",
        "import levels",
        "import cycles",
        "runtime dependencies",
    ):
        assert figure in printed
