"""List the policies that a configuration can use, for `--help`."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Iterator
from importlib.metadata import EntryPoint, entry_points

from sidecar.config.policies import BUILT_IN, DEFAULTS_USE, ENTRY_POINT_GROUP

NAME_WIDTH = 14
LINE_WIDTH = 100


def policy_lines() -> str:
    """Return a line with name and summary for each built-in and installed policy; long summaries are wrapped.

    The summary is the first line of the class's docstring.  Installed policies are imported for it.
    """
    indent = " " * (NAME_WIDTH + 2)
    return "\n".join(
        textwrap.fill(summary, LINE_WIDTH, initial_indent=f"  {name:<{NAME_WIDTH}}", subsequent_indent=indent)
        for name, summary in _summaries()
    )


def _summaries() -> Iterator[tuple[str, str]]:
    yield DEFAULTS_USE, "The shipped chain at this place; it keeps the shipped profiles too."
    for name, policy in BUILT_IN.items():
        yield name, _first_line(policy)
    for entry in sorted(entry_points(group=ENTRY_POINT_GROUP), key=lambda entry: entry.name):
        if entry.name not in BUILT_IN:
            yield entry.name, _installed_summary(entry)


def _installed_summary(entry: EntryPoint) -> str:
    try:
        summary = _first_line(entry.load())
    except Exception as error:  # noqa: BLE001  # the import runs code of the deployment
        summary = f"cannot be imported: {type(error).__name__}: {error}"
    return f"{summary} (installed: {entry.value})"


def _first_line(policy: object) -> str:
    return (inspect.getdoc(policy) or "no description").partition("\n")[0]
