"""Load an object that the configuration names, as "module:name"."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path


class ObjectFault(Exception):
    """A named object that cannot be used: what is wrong, and the cure."""

    def __init__(self, wrong: str, right: str) -> None:
        super().__init__(f"{wrong}, {right}")
        self.wrong, self.right = wrong, right


def load_object(load: Callable[[], object], folder: Path) -> object:
    """Return what *load* returns.  Raise `ObjectFault` for any exception: it runs code of the deployment's."""
    try:
        return load()
    except ObjectFault:
        raise
    except ModuleNotFoundError as error:
        raise ObjectFault(str(error), f"install it, or put it into {folder}") from None
    except Exception as error:
        raise ObjectFault(f"{type(error).__name__}: {error}", "mend the module") from error


def object_of(module: str, name: str, folder: Path, *, kind: str) -> object:
    """Return *name* of *module*, which is imported; *folder* is searched last.

    *kind* is what it should be ("class", "factory"), for messages.  Raise `ObjectFault`, or what the import raises.
    """
    form = f"'module:{kind}'" if kind != "class" else "'module:Class'"
    if not all(part.isidentifier() for part in [*module.split("."), name]):
        raise ObjectFault(f"it is no place of a {kind}", f"write it as {form}")
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
    found: object = getattr(importlib.import_module(module), name, None)
    if found is None:
        raise ObjectFault(f"{module!r} has no {name!r}", f"name a {kind} of the module, as {form}")
    return found
