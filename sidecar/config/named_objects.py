"""Import objects that the configuration names as "module:name", and find modules that hide this program's packages."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path

OWN_PACKAGES = ("policies", "sidecar")


class ObjectFault(Exception):
    """Raised when a named object cannot be used: *problem* and *cure*."""

    def __init__(self, problem: str, cure: str) -> None:
        super().__init__(f"{problem}; {cure}")
        self.problem, self.cure = problem, cure


def load_object(load: Callable[[], object], folder: Path) -> object:
    """Return the result of *load*, which runs code of the deployment; raise `ObjectFault` for any exception in it."""
    try:
        return load()
    except ObjectFault:
        raise
    except ModuleNotFoundError as error:
        raise ObjectFault(str(error), f"install the module, or put it into {folder}") from None
    except Exception as error:
        raise ObjectFault(f"{type(error).__name__}: {error}", "fix the module") from error


def object_of(module: str, name: str, folder: Path, *, kind: str) -> object:
    """Import *module* and return its *name*; *folder* is appended to the import path, so installed modules take precedence.

    *kind* ("class" or "factory") is used in messages.  Raises `ObjectFault`, and any exception of the import.
    """
    form = f"'module:{kind}'" if kind != "class" else "'module:Class'"
    if not all(part.isidentifier() for part in [*module.split("."), name]):
        raise ObjectFault(f"not the name of a module and a {kind}", f"write {form}")
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
    found: object = getattr(importlib.import_module(module), name, None)
    if found is None:
        raise ObjectFault(f"module {module!r} has no {name!r}", f"name a {kind} of that module, as {form}")
    return found


def hiding_modules(folder: Path) -> list[str]:
    """Return the files in *folder* that hide one of our packages: Python imports only one of the same name."""
    return [name for package in OWN_PACKAGES if (folder / (name := f"{package}.py")).is_file()]
