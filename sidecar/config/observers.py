"""`[[observer]]`: objects of the deployment that receive the record of each finished request."""

from __future__ import annotations

import inspect
from importlib.metadata import entry_points
from pathlib import Path
from typing import get_type_hints

from policies.records.observer import Observer

from .named_objects import ObjectFault, load_object, object_of
from .tables import ConfigFault, to_struct

OBSERVER_GROUP = "chatnest_sidecar.observers"
OBSERVER_SOURCES = "an installed observer, or 'module:Class'"


def read_observers(entries: object, folder: Path, faults: list[ConfigFault]) -> tuple[Observer, ...]:
    """Return the observers of `[[observer]]` in file order; faults are added to *faults*.

    *folder* is appended to the import path.
    """
    if not isinstance(entries, list):
        faults.append(ConfigFault("observer", "expected a list of tables", "write each observer below [[observer]]"))
        return ()
    found = (_observer(entry, f"observer[{at}]", folder, faults) for at, entry in enumerate(entries))
    return tuple(observer for observer in found if observer is not None)


def _observer(entry: object, path: str, folder: Path, faults: list[ConfigFault]) -> Observer | None:
    if not isinstance(entry, dict):
        faults.append(ConfigFault(path, "expected a table", "write each observer below [[observer]]"))
        return None
    if not isinstance(use := entry.get("use"), str) or not use:
        problem = "expected a non-empty string" if "use" in entry else "required key is missing"
        faults.append(ConfigFault(f"{path}.use", problem, f"use {OBSERVER_SOURCES}"))
        return None
    try:
        kind = _observer_class(use, folder)
    except ObjectFault as error:
        faults.append(ConfigFault(f"{path}.use", f"cannot use {use!r}: {error.problem}", error.cure))
        return None
    return to_struct(kind, {key: value for key, value in entry.items() if key != "use"}, path, faults)


def _observer_class(use: str, folder: Path) -> type[Observer]:
    found = load_object(lambda: _imported(use, folder), folder)
    cure = "derive the class from policies.Observer and override observe, or start"
    if not (isinstance(found, type) and issubclass(found, Observer)):
        raise ObjectFault("not a subclass of policies.Observer", cure)
    if found.observe is Observer.observe and found.start is Observer.start:
        raise ObjectFault("the class overrides neither observe nor start", cure)
    if inspect.iscoroutinefunction(found.observe):
        raise ObjectFault("observe is a coroutine and is never awaited", "write `def observe`, without async")
    try:
        get_type_hints(found, include_extras=True)
    except NameError as error:
        raise ObjectFault(f"a field has an unknown type: {error}", "import it outside of TYPE_CHECKING") from None
    return found


def _imported(use: str, folder: Path) -> object:
    module, colon, name = use.partition(":")
    if colon:
        return object_of(module, name, folder, kind="class")
    installed = entry_points(group=OBSERVER_GROUP, name=use)
    if not installed:
        raise ObjectFault("unknown observer", f"use {OBSERVER_SOURCES}")
    return next(iter(installed)).load()
