"""The script that executes a batch of operations on the server, and its keys: storage format 2.

It is one script, in several files. Those of `RARE_FILES` are compiled into one function, which creates their functions when an
operation needs them: creating all of them in each call would cost more than a reservation.
"""

from __future__ import annotations

import functools
from importlib import resources

FORMAT = "2"
KEY_NAMES = ("m", "c", "h", "w", "e", "n", "k", "ke", "x", "y")
"""The keys of format 2, in the order of `KEYS` in the script; `keys.lua` documents them."""
MAX_OPERATIONS_PER_CALL = 64
"""Most operations that one call of the script executes, so that it never blocks the server for long."""
FREQUENT_FILES = ("keys", "ring", "counters", "fitting", "reserve", "settle")
RARE_FILES = ("expiry", "entries", "corrections", "owners", "reports", "format", "conversion")
LAST_FILE = "dispatch"


def keys_of(prefix: str) -> list[str]:
    """Return the keys of the store with *prefix*. They have one hash tag, so one node of a cluster has all of them."""
    return [f"{{{prefix}}}:{name}" for name in KEY_NAMES]


@functools.cache
def script_source() -> str:
    """Return the source of the script."""
    files = resources.files(__package__).joinpath("script")
    frequent = [files.joinpath(f"{name}.lua").read_text("utf-8") for name in FREQUENT_FILES]
    rare = [files.joinpath(f"{name}.lua").read_text("utf-8") for name in RARE_FILES]
    return "\n".join([
        *frequent,
        "local loaded_operations",
        "function rare()",
        "if loaded_operations then return loaded_operations end",
        "local operations = {}",
        "loaded_operations = operations",
        *rare,
        "return operations",
        "end",
        files.joinpath(f"{LAST_FILE}.lua").read_text("utf-8"),
    ])
