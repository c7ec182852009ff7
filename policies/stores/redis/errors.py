"""Errors of single operations of the script, and of a store that another version of the program uses."""

from __future__ import annotations

from policies.api.store import StoreDown

from .servers.failures import describe_failure

REFUSED_BEFORE_WRITING = "OOM"
"""Code of an error that the first write of an operation raises: it was not executed."""


class IncompatibleStore(StoreDown, ValueError):
    """The store has another format, or processes of another version use it. It is not changed.

    As a ValueError it ends a sidecar that starts: waiting does not help.
    """


def operation_failed(address: str, text: str) -> StoreDown:
    """Return the error of an operation that the script answered with *text*. *address* is without credentials."""
    return StoreDown(describe_failure(text, address), taken=REFUSED_BEFORE_WRITING not in text)
