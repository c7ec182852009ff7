"""The script that executes a batch of operations on the server, and its keys: storage format 2.

It is one script, in several files. Those of `SCRIPT_PARTS` are compiled into a function each, which creates the functions of its files when
an operation needs them: creating all of them in each call would cost more than a reservation.
"""

from __future__ import annotations

import functools
from importlib import resources

STORAGE_FORMAT = "2"
KEY_NAMES = ("c", "h", "w", "e", "n", "k", "ke", "m", "x", "y")
"""The keys of format 2, in the order of `KEYS` in the script; `keys.lua` documents them."""
MAX_OPERATIONS_PER_CALL = 64
"""Most operations that one call of the script executes, so that it never blocks the server for long."""
FIRST_FILES, LAST_FILE = ("keys", "counters", "holds"), "dispatch"
SCRIPT_PARTS = {
    "ring": ("ring",),
    "reserving": ("fitting", "reserve"),
    "settling": ("settle",),
    "rare": ("expiry", "entries", "corrections", "owners", "reports", "format", "conversion"),
}
"""Files by the name of their part. A part is loaded once; loading it again does nothing."""


def keys_of(prefix: str) -> list[str]:
    """Return the keys of the store with *prefix*. They have one hash tag, so one node of a cluster has all of them."""
    return [f"{{{prefix}}}:{name}" for name in KEY_NAMES]


@functools.cache
def script_source() -> str:
    """Return the source of the script."""
    lines = [_source(name) for name in FIRST_FILES]
    lines.append("function parts.none() end")
    for part, names in SCRIPT_PARTS.items():
        lines += [f"function parts.{part}()", f"parts.{part} = parts.none", *map(_source, names), "end"]
    return "\n".join([*lines, _source(LAST_FILE)])


def _source(name: str) -> str:
    return resources.files(__package__).joinpath("lua", f"{name}.lua").read_text("utf-8")
