"""The script that executes a batch of operations on the server, and its keys: storage format 2.

It is one script, in several files. A server runs all of it in each call, so creating its functions costs as much as what they do.
Therefore those of `SCRIPT_PARTS` are compiled into a function each, which creates the functions of its files when an operation needs
them; and the tables of functions are created with the size that they will have.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from importlib import resources

STORAGE_FORMAT = "2"
KEY_NAMES = ("c", "h", "w", "e", "n", "k", "ke", "m", "x", "y")
"""The keys of format 2, in the order of `KEYS` in the script; `keys.lua` documents them."""
MAX_OPERATIONS_PER_CALL = 64
"""Most operations that one call of the script executes, so that it never blocks the server for long."""
KEYS_FILE, FIRST_FILES, LAST_FILE = "keys", ("counters", "holds"), "dispatch"
SCRIPT_PARTS = {
    "ring": ("ring",),
    "reserving": ("fitting", "reserve"),
    "settling": ("settle",),
    "errors": ("errors",),
    "rare": ("expiry", "entries", "corrections", "owners", "reports", "format", "conversion"),
}
"""Files by the name of their part. A part is loaded once; loading it again does nothing."""
_TABLE_MEMBER = re.compile(r"^(?:function )?(\w+)\.(\w+)(?:\(.*\)|, .* =| =)", re.MULTILINE)
"""A function or a constant that a file puts into a table."""


def keys_of(prefix: str) -> list[str]:
    """Return the keys of the store with *prefix*. They have one hash tag, so one node of a cluster has all of them."""
    return [f"{{{prefix}}}:{name}" for name in KEY_NAMES]


@functools.cache
def script_source() -> str:
    """Return the source of the script."""
    lines = [_source(KEYS_FILE), f"local parts = {_table(['none', *SCRIPT_PARTS])}", *_module(FIRST_FILES)]
    lines.append("function parts.none() end")
    for part, names in SCRIPT_PARTS.items():
        lines += [f"function parts.{part}()", f"parts.{part} = parts.none", *_module(names), "end"]
    return "\n".join([*lines, _source(LAST_FILE)])


def _module(names: Sequence[str]) -> list[str]:
    """Return the sources of files, each after the creation of the table that is named like it, if there is one."""
    lines = []
    for name in names:
        source = _source(name)
        members = [member for table, member in _TABLE_MEMBER.findall(source) if table == name]
        lines += [f"{name} = {_table(members)}"] * bool(members) + [source]
    return lines


def _table(names: Sequence[str]) -> str:
    """Return a table with room for members of these names."""
    return "{" + ", ".join(f"{name} = false" for name in dict.fromkeys(names)) + "}"


def _source(name: str) -> str:
    return resources.files(__package__).joinpath("lua", f"{name}.lua").read_text("utf-8")
