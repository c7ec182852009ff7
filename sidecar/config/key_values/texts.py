"""Check the texts of `[[key]]` tables: tenants, ids, comments and hashes."""

from __future__ import annotations

import re

from policies.api.claim import MAX_IDENTITY_LENGTH

MAX_HASHES = 8
"""Hashes of one key: a rotation needs two."""
MAX_COMMENT_LENGTH = 200
_KEY_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_SHA256_DIGITS = re.compile(r"[0-9a-fA-F]{64}")
HASH_FAULT = "not a SHA-256 (64 hexadecimal digits); create key and hash with `sidecar key new`"


def is_hash(text: str) -> bool:
    """Return whether *text* is a SHA-256 in hexadecimal."""
    return _SHA256_DIGITS.fullmatch(text) is not None


def id_fault(text: str) -> str:
    """Return the fault of the id *text*, as `problem; cure`; empty without one."""
    if _KEY_ID.fullmatch(text):
        return ""
    return "invalid id; use 1 to 64 letters, digits, '.', '_' and '-', with a letter or digit first"


def tenant_fault(text: str) -> str:
    """Return the fault of the name of a tenant *text*, as `problem; cure`; empty without one."""
    if text.strip() and text.isprintable() and len(text) <= MAX_IDENTITY_LENGTH:
        return ""
    return f"invalid name; use 1 to {MAX_IDENTITY_LENGTH} printable characters"


def comment_fault(text: str) -> str:
    """Return the fault of the comment *text*, as `problem; cure`; empty without one."""
    if len(text) <= MAX_COMMENT_LENGTH and text.isprintable():
        return ""
    return f"invalid comment; use at most {MAX_COMMENT_LENGTH} printable characters"
