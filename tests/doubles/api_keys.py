"""`[[key]]` tables for tests of API keys."""

from __future__ import annotations

from hashlib import sha256


def key(token: str, tenant: str, more: str = "") -> str:
    """Return the table of the key *token*, with the further lines *more*."""
    return f'[[key]]\ntenant = "{tenant}"\nsha256 = "{sha256(token.encode()).hexdigest()}"\n{more}\n'
