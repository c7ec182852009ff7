"""Who may import what: the layers, read from the source."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MODULES = sorted([*(ROOT / "policies").rglob("*.py"), *(ROOT / "sidecar").rglob("*.py")])
NAMES_OPENAI = {"sidecar/sdk.py"}
NO_IO = {
    "sidecar/sse.py",
    "sidecar/schema.py",
    "sidecar/chunk.py",
    "sidecar/reading.py",
    "sidecar/report.py",
    "sidecar/pieces.py",
    "sidecar/said.py",
    "sidecar/body.py",
    "sidecar/limits.py",
}
IO = {"asyncio", "anyio", "socket", "httpx", "uvicorn", "litestar", "os", "sqlite3", "subprocess", "openai"}


def imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            found.add(node.module.partition(".")[0])
    return found


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_layers(path: Path) -> None:
    """`policies` knows no HTTP and nothing of `sidecar`; `openai` is named where errors are; readers do no I/O."""
    found = imports(path)
    if name(path).startswith("policies/"):
        assert not found & {"sidecar", "litestar", "httpx", "openai", "uvicorn"}
    if name(path) not in NAMES_OPENAI:
        assert "openai" not in found
    if name(path) in NO_IO:
        assert not found & IO


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_size(path: Path) -> None:
    """A file has one subject: it is split before 300 lines."""
    assert len(path.read_text().splitlines()) < 300


def test_constraints() -> None:
    """What is installed is pinned by name and version alone, and everything that we name is among it."""
    lines = (ROOT / "constraints.txt").read_text().split()
    assert all(re.fullmatch(r"[A-Za-z0-9_.\-]+==[A-Za-z0-9_.+\-]+", line) for line in lines)
    pinned = {re.sub(r"[-_.]+", "-", line.partition("==")[0]).lower() for line in lines}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    assert {re.split(r"[<>=!~ ]", each)[0].lower() for each in wanted} <= pinned
    assert (project["name"], project["requires-python"], project["scripts"]) == (
        "chatnest-sidecar",
        ">=3.11",
        {"sidecar": "sidecar.cli:main"},
    )


def test_nothing_of_a_machine() -> None:
    """No file names a package registry's host or a path of somebody's machine."""
    git = shutil.which("git")
    if git is None or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    hosts = ["pypi.", "pythonhosted", "registry.npm", "npmjs", "debian.org"]
    listed = subprocess.run([git, "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    for each in listed:
        text = (ROOT / each).read_text(errors="replace")
        if each != "tests/test_layers.py":
            assert not [host for host in hosts if host in text], each
        assert not re.search(r"(?<![\w.])/(?:home|root|work|Users)/[a-z]", text), each
