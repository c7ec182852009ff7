"""The structure of the code: layers, import cycles, sizes and names, read from the source."""

from __future__ import annotations

import ast
import json
import re
import shutil
import subprocess
import tomllib
from collections import Counter
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
from places import ROOT

MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for root in ("policies", "sidecar")
    for path in sorted((ROOT / root).rglob("*.py"))
}
LAYERS = {
    "policies": [{"api"}, {"builtin", "stores", "records"}, {"engine"}, {"testing"}],
    "sidecar": [{"wire"}, {"config"}, {"upstream", "downstream", "observers"}, {"server"}, {"cli"}],
}
"""Packages from the lowest to the highest. A package imports itself and lower layers; packages of one layer are strangers."""
FORBIDDEN = {
    "policies": {"sidecar", "litestar", "httpx", "uvicorn", "openai"},
    "sidecar.wire": {
        "asyncio",
        "anyio",
        "socket",
        "httpx",
        "uvicorn",
        "litestar",
        "os",
        "sqlite3",
        "subprocess",
        "openai",
    },
    "sidecar.config": {"asyncio", "anyio", "uvicorn", "litestar", "openai"},
    "sidecar.downstream": {"httpx", "uvicorn", "litestar", "openai"},
    "sidecar.upstream": {"uvicorn", "litestar"},
}
"""Libraries that a package does not import, not even for types."""
MAX_LINES = 300
MAX_MODULES = 18
MAX_DEPTH = 5


def imported(module: str) -> set[str]:
    """Return the full names of all that *module* imports, type-only imports included."""
    path = MODULES[module]
    package = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join([*start, *([node.module] if node.module else [])])
            found |= {source, *(f"{source}.{alias.name}" for alias in node.names)}
    return found


@cache
def dependencies(module: str) -> frozenset[str]:
    """Return the modules of ours that *module* imports, type-only imports included; packages only where it names them."""
    found = {name for name in imported(module) if name in MODULES and name != module}
    return frozenset(name for name in found if MODULES[name].name != "__init__.py")


def package_of(module: str) -> str:
    """Return the package of *module* that has a place in `LAYERS`; empty for the root itself."""
    return module.partition(".")[2].partition(".")[0]


@pytest.mark.parametrize("module", MODULES)
def test_dependencies_point_down(module: str) -> None:
    """A module imports its own package and lower layers only; `policies` imports nothing of `sidecar`."""
    root, own = module.partition(".")[0], package_of(module)
    levels = LAYERS[root]
    allowed = {"", own}
    if own in ("", "__main__"):  # the root exports what the packages define
        allowed = {"", *set.union(*levels)}
    else:
        (level,) = [at for at, names in enumerate(levels) if own in names]
        allowed |= set().union(*levels[:level])
    for name in dependencies(module):
        other = name.split(".")[0]
        if other == root:
            assert package_of(name) in allowed, f"{module} imports {name}"
        else:
            assert (root, other) == ("sidecar", "policies"), f"{module} imports {name}"


@pytest.mark.parametrize("package", FORBIDDEN)
def test_package_imports_only_its_libraries(package: str) -> None:
    """`policies` knows no HTTP, `wire` does no I/O, and the OpenAI SDK is imported by one module alone."""
    for module in MODULES:
        if f"{module}.".startswith(f"{package}."):
            libraries = {name.partition(".")[0] for name in imported(module)}
            assert not libraries & FORBIDDEN[package], module


def test_one_module_imports_the_openai_sdk() -> None:
    """Exception classes of the OpenAI SDK are named in one module: it takes 0.4 s to import."""
    naming = [module for module in MODULES if "openai" in {name.partition(".")[0] for name in imported(module)}]
    assert naming == ["sidecar.upstream.errors.sdk"]


def test_no_import_cycles() -> None:
    """No modules import each other, directly or through others, type-only imports included; and no packages do."""
    try:
        TopologicalSorter({module: dependencies(module) for module in MODULES}).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))
    folders: dict[str, set[str]] = {}
    for module, path in MODULES.items():
        if module in ("policies", "sidecar"):
            continue
        folder = module.rpartition(".")[0] if path.name != "__init__.py" else module
        others = {name.rpartition(".")[0] for name in dependencies(module)}
        folders.setdefault(folder, set()).update(others - {folder, "policies", "sidecar"})
    try:
        TopologicalSorter(folders).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


@pytest.mark.parametrize("folder", sorted({path.parent for path in MODULES.values()}), ids=lambda path: path.name)
def test_depth_inside_a_folder(folder: Path) -> None:
    """Inside a folder, chains of imports have at most five modules: a reader can hold them in mind."""
    modules = {module for module, path in MODULES.items() if path.parent == folder}
    graph = {module: dependencies(module) & modules for module in modules}
    depth: dict[str, int] = {}
    for module in TopologicalSorter(graph).static_order():
        depth[module] = 1 + max((depth[other] for other in graph[module]), default=0)
    assert max(depth.values()) <= MAX_DEPTH, sorted(depth.items(), key=lambda each: -each[1])[:4]


@pytest.mark.parametrize("module", MODULES)
def test_file_is_under_300_lines(module: str) -> None:
    """A file has one subject: it is split before 300 lines."""
    assert len(MODULES[module].read_text().splitlines()) < MAX_LINES


def test_folder_has_at_most_18_modules() -> None:
    """A folder has at most 18 modules."""
    counts = Counter(path.parent for path in MODULES.values())
    assert not {folder: count for folder, count in counts.items() if count > MAX_MODULES}


def test_constraints() -> None:
    """Everything that the project names is pinned."""
    lines = (ROOT / "constraints.txt").read_text().split()
    pinned = {re.sub(r"[-_.]+", "-", line.partition("==")[0]).lower() for line in lines}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    assert {re.split(r"[<>=!~ ]", each)[0].lower() for each in wanted} <= pinned
    assert (project["name"], project["requires-python"], project["scripts"]) == (
        "chatnest-sidecar",
        ">=3.11",
        {"sidecar": "sidecar.cli.main:main"},
    )


@pytest.mark.parametrize("path", sorted(ROOT.glob("constraints*.txt")), ids=lambda path: path.name)
def test_python_packages_are_pinned(path: Path) -> None:
    """A file of constraints has names and versions alone: no hashes, addresses or ranges."""
    assert all(re.fullmatch(r"[A-Za-z0-9_.\-]+==[A-Za-z0-9_.+\-]+", line) for line in path.read_text().splitlines())


def test_npm_packages_are_pinned() -> None:
    """Each npm package has an exact version, and no lock file is kept: it would name addresses of downloads."""
    for path in ROOT.glob("tests/*/node/package.json"):
        versions = json.loads(path.read_text())["dependencies"].values()
        assert all(re.fullmatch(r"\d+\.\d+\.\d+", version) for version in versions)
        assert not path.with_name("package-lock.json").exists()


def test_nothing_of_a_machine() -> None:
    """No file names a package registry's host or a path of a developer's machine."""
    git = shutil.which("git")
    if git is None or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    hosts = ["pypi.", "pythonhosted", "registry.npm", "npmjs", "debian.org"]
    listed = subprocess.run([git, "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    for each in listed:
        text = (ROOT / each).read_text(errors="replace")
        if each != "tests/structure/test_layers.py":
            assert not [host for host in hosts if host in text], each
        assert not re.search(r"(?<![\w.])/(?:home|root|work|Users)/[a-z]", text), each
