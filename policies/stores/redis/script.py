"""The script that executes a batch of operations on the server, and its keys: storage format 2.

It is one script, in several files. A server runs all of it in each call, so creating its functions costs as much as what they do.
Therefore files whose functions a batch does not need are skipped, and the tables of functions are created with the size that they will
have.
"""

from __future__ import annotations

import functools
import re
from importlib import resources

STORAGE_FORMAT = "2"
KEY_NAMES = ("c", "h", "w", "e", "n", "k", "ke", "m", "x", "y")
"""The keys of format 2, in the order of `KEYS` in the script; `keys.lua` documents them."""
MAX_OPERATIONS_PER_CALL = 64
"""Most operations that one call of the script executes, so that it never blocks the server for long."""
SCRIPT_PARTS = (
    ("do", "keys begin counters holds"),
    ("if reserves or has_others then", "ring fitting reserve"),
    ("if settles or has_others then", "settle"),
    ("function script.load_rare()\nif counters.create then return end", "expiry groups ring_rare fitting_rare"),
    ("if has_others then\nscript.load_rare()", "entries corrections owners reports format conversion"),
    ("do", "dispatch"),
)
"""The files of the script in their order, and under which condition the functions of each part are created."""
_TABLE_MEMBER = re.compile(r"^(?:function )?(\w+)\.(\w+)(?:\(.*\)|, .* =| =)", re.MULTILINE)
"""A function or a constant that a file puts into a table."""


def keys_of(prefix: str) -> list[str]:
    """Return the keys of the store with *prefix*. They have one hash tag, so one node of a cluster has all of them."""
    return [f"{{{prefix}}}:{name}" for name in KEY_NAMES]


@functools.cache
def script_source() -> str:
    """Return the source of the script."""
    lines: list[str] = []
    for condition, names in SCRIPT_PARTS:
        sources = [_with_table(name) for name in names.split()]
        lines += sources if condition == "do" else [condition, *sources, "end"]
    return "\n".join(lines)


def _with_table(name: str) -> str:
    """Return the source of a file, after the creation of the table that is named like it, with room for all of its members."""
    source = resources.files(__package__).joinpath("lua", f"{name}.lua").read_text("utf-8")
    members = dict.fromkeys(member for table, member in _TABLE_MEMBER.findall(source) if table == name)
    table = ", ".join(f"{member} = false" for member in members)
    return f"{name} = {{{table}}}\n{source}" if members else source
