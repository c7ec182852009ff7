"""Names of module-level definitions, read from the source: unique in a package, and constants that say of what."""

from __future__ import annotations

import ast
import re
from collections import defaultdict

import pytest
from places import ROOT

UNIQUE_NAMES = sorted(
    f"{path.parts[-3]}.{path.parts[-2]}"
    for top in ("policies", "sidecar")
    for path in ROOT.joinpath(top).glob("*/__init__.py")
)
"""Every package of `policies` and `sidecar`, each with the packages inside it."""
TELLING_CONSTANTS = ["policies", "sidecar"]
ONE_WORD = re.compile(r"_?[A-Z][A-Z0-9]+")  # a single letter is a type variable


def definitions(package: str) -> dict[str, list[str]]:
    """Return the modules of *package*, a folder or one module, that define each module-level name."""
    path = ROOT.joinpath(*package.split("."))
    paths = sorted(path.rglob("*.py")) if path.is_dir() else [path.with_suffix(".py")]
    found: dict[str, list[str]] = defaultdict(list)
    for each in paths:
        for name in {name for statement in ast.parse(each.read_text()).body for name in defined(statement)}:
            found[name].append(str(each.relative_to(ROOT)))
    assert paths
    return found


def defined(statement: ast.stmt) -> list[str]:
    """Return the names that *statement* defines; imports define none."""
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return [statement.name]
    targets = statement.targets if isinstance(statement, ast.Assign) else []
    if isinstance(statement, ast.AnnAssign):
        targets = [statement.target]
    return [node.id for target in targets for node in ast.walk(target) if isinstance(node, ast.Name)]


@pytest.mark.parametrize("package", UNIQUE_NAMES)
def test_public_names_are_unique(package: str) -> None:
    """No module-level public name is defined twice in one package."""
    names = definitions(package)
    public = {name: modules for name, modules in names.items() if not name.startswith("_")}
    assert not {name: modules for name, modules in public.items() if len(modules) > 1}


@pytest.mark.parametrize("package", TELLING_CONSTANTS)
def test_constants_say_of_what(package: str) -> None:
    """No constant has a name of one word."""
    found = {
        f"{module.removesuffix('.py').replace('/', '.')}.{name}"
        for name, modules in definitions(package).items()
        if ONE_WORD.fullmatch(name)
        for module in modules
    }
    assert not found
