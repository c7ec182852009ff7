"""Errors of single operations of the script, and of a store that another version of the program uses."""

from __future__ import annotations

from policies.api.store import StoreDown

OPERATION_REMEDIES = {
    "OOM": "give it more memory, with maxmemory-policy noeviction",
    "WRONGTYPE": "its keys belong to another program: give this one a prefix of its own, as redis://HOST:PORT/DB?prefix=NAME",
    "NOPERM": "allow EVAL, EVALSHA and the commands of hashes, sorted sets and keys to its user",
    "unknown command": "it must be Redis 5 or newer, or Valkey",
}
"""What to do about an operation whose error contains the key."""
DEFAULT_REMEDY = "see the log of the server"
REFUSED_BEFORE_WRITING = "OOM"
"""Code of an error that the first write of an operation raises: it was not executed."""


class IncompatibleStore(StoreDown, ValueError):
    """The store has another format, or processes of another version use it. It is not changed.

    As a ValueError it ends a sidecar that starts: waiting does not help.
    """


def operation_failed(address: str, text: str) -> StoreDown:
    """Return the error of an operation that the script answered with *text*. *address* is without credentials."""
    remedies = (remedy for phrase, remedy in OPERATION_REMEDIES.items() if phrase in text)
    message = f"{address}: {text}; {next(remedies, DEFAULT_REMEDY)}"
    return StoreDown(message, taken=REFUSED_BEFORE_WRITING not in text)
