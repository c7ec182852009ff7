"""Figures of the source code's structure, and the files that a request passes through.

`python bench/structure.py [CHECKOUT]` counts lines, modules, folders, import levels, import cycles and dependencies, from the
source alone.  `--trace` also serves requests with that checkout and needs its dependencies installed: a three-token stream
on `/v1` and a 64-token stream on `/api/chat`, over sockets, through the program as `sidecar serve` runs it, with the shipped
configuration.  The script names no module of the project, so it measures any commit.
"""

from __future__ import annotations

import argparse
import ast
import os
import statistics
import subprocess
import sys
import tempfile
import tomllib
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path

PACKAGES = ("policies", "sidecar")
TRACER = Path(__file__).with_name("structure_trace.py")
TRACE_TIMEOUT = 120
"""Limit in seconds for all traced requests."""

Graph = Mapping[str, frozenset[str]]


def main() -> int:
    """Print the figures; return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "checkout", nargs="?", type=Path, default=Path(__file__).parent.parent, help="default: this one"
    )
    parser.add_argument("--trace", action="store_true", help="also serve requests and count files and moves")
    parser.add_argument(
        "--files",
        action="store_true",
        help="with --trace: print the calls of each file, and the pairs of files with the most moves",
    )
    options = parser.parse_args()
    root = options.checkout.resolve()
    if not all((root / package).is_dir() for package in PACKAGES):
        parser.error(f"{root} has no folders {' and '.join(PACKAGES)}; name a checkout of this project")
    print_structure(root)
    return trace(root, files=options.files) if options.trace else 0


def print_structure(root: Path) -> None:
    """Print the structure figures of the source under *root*."""
    files = {
        ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): path
        for package in PACKAGES
        for path in sorted((root / package).rglob("*.py"))
    }
    lengths = {module: len(path.read_text("utf-8").splitlines()) for module, path in files.items()}
    print(f"checkout                        {described(root)}")
    for package in PACKAGES:
        own = {module: lines for module, lines in lengths.items() if module.partition(".")[0] == package}
        print(f"{package + '/':<32}{sum(own.values())} lines in {len(own)} modules")
    longest = max(lengths, key=lambda module: lengths[module])
    # Package markers are left out: they hold a docstring or re-exports.
    code = {module for module, path in files.items() if path.name not in ("__init__.py", "__main__.py")}
    modules = [lengths[module] for module in code]
    print(
        f"lines of a file                 median {statistics.median(modules):g}, maximum {lengths[longest]} ({longest})"
    )
    folders = Counter(path.parent.relative_to(root).as_posix() for path in files.values())
    print(f"modules of a folder             maximum {max(folders.values())}")
    for folder, count in sorted(folders.items()):
        print(f"  {folder:<30}{count}")
    graph = {module: imports_of(module, files) for module in files}
    cycles = cycles_of(graph)
    levels = {module: others for module, others in graph.items() if module in code}
    print(f"import levels                   {levels_of(levels)}")
    for package in inner_packages(files):
        inside = {module for module in levels if f"{module}.".startswith(f"{package}.")}
        print(f"  inside {package:<23}{levels_of({module: levels[module] for module in inside})}")
    print(f"import cycles (types included)  {len(cycles)}")
    for cycle in cycles:
        print(f"  {' <-> '.join(cycle)}")
    between = cycles_of(folder_graph(graph, files))
    print(f"cycles between folders          {len(between)}")
    for cycle in between:
        print(f"  {' <-> '.join(cycle)}")
    project = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["project"]
    print(f"runtime dependencies            {len(project['dependencies'])}", flush=True)


def described(root: Path) -> str:
    """Return the commit that is checked out at *root*, if it is a git checkout."""
    command = ["git", "-C", str(root), "log", "-1", "--format=%h %s"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return root.name
    return done.stdout.strip() or root.name


def imports_of(module: str, files: Mapping[str, Path]) -> frozenset[str]:
    """Return the project's modules that *module* imports, also those for types only or inside a function.

    A package counts only if the import names one of its own definitions, as in `from policies import Policy`.
    """
    path = files[module]
    package = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join([*start, *([node.module] if node.module else [])])
            members = {f"{source}.{alias.name}" for alias in node.names}
            found |= members & files.keys() or {source}
            found |= members
    return frozenset(name for name in found if name in files and name != module)


def inner_packages(files: Mapping[str, Path]) -> list[str]:
    """Return the two packages and the packages one level below them."""
    found = {".".join(module.split(".")[:2]) for module, path in files.items() if path.name == "__init__.py"}
    return sorted(found | set(PACKAGES))


def folder_graph(graph: Graph, files: Mapping[str, Path]) -> dict[str, frozenset[str]]:
    """Return the folders that each folder imports. The two root folders re-export, and are left out."""

    def folder(module: str) -> str:
        return module if files[module].name == "__init__.py" else module.rpartition(".")[0]

    found: dict[str, set[str]] = {}
    for module, others in graph.items():
        found.setdefault(folder(module), set()).update(folder(other) for other in others)
    return {name: frozenset(others - {name, *PACKAGES}) for name, others in found.items() if name not in PACKAGES}


def levels_of(graph: Graph) -> int:
    """Return the number of modules in the longest chain of imports; the modules of a cycle count as one."""
    member = {module: cycle[0] for cycle in cycles_of(graph) for module in cycle}

    @cache
    def level(module: str) -> int:
        group = [each for each in graph if member.get(each, each) == module]
        below = {member.get(other, other) for each in group for other in graph[each] if other in graph} - {module}
        return 1 + max(map(level, below), default=0)

    return max((level(member.get(module, module)) for module in graph), default=0)


def cycles_of(graph: Graph) -> list[list[str]]:
    """Return the groups of modules that import each other, directly or through others."""

    @cache
    def reached(module: str) -> frozenset[str]:
        seen: set[str] = set()
        todo = list(graph[module])
        while todo:
            if (other := todo.pop()) not in seen and other in graph:
                seen.add(other)
                todo += graph[other]
        return frozenset(seen)

    groups = {tuple(sorted(other for other in reached(module) if module in reached(other))) for module in graph}
    return sorted(list(group) for group in groups if group)


def trace(root: Path, *, files: bool) -> int:
    """Run the traced requests with the code under *root* in a process of its own; return its exit code."""
    kept: Iterable[str] = (name for name in os.environ if not name.startswith(("SIDECAR_", "OPENAI_")))
    environ = {name: os.environ[name] for name in kept} | {"PYTHONPATH": str(root)}
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(TRACER), str(root), *(["--files"] if files else [])]
        return subprocess.run(command, cwd=folder, env=environ, timeout=TRACE_TIMEOUT, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
