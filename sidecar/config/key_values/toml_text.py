"""Write one TOML table. The standard library only reads TOML."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import date, datetime, time
from typing import Any

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")


def table_text(header: str, table: Mapping[str, Any]) -> str:
    """Return *table* below *header*, such as `[[key]]`, one key a line; inner tables are written inline."""
    lines = [header, *(f"{_key(name)} = {value_text(value)}" for name, value in table.items())]
    return "\n".join(lines) + "\n"


def value_text(value: Any) -> str:
    """Return *value*, as `tomllib` reads it, in TOML. Raises `TypeError` for a type that TOML does not have."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, datetime | date | time):
        return value.isoformat().replace("+00:00", "Z")
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(value_text, value))}]"
    if isinstance(value, Mapping):
        pairs = ", ".join(f"{_key(name)} = {value_text(each)}" for name, each in value.items())
        return f"{{ {pairs} }}" if pairs else "{}"
    msg = f"TOML has no {type(value).__name__}"
    raise TypeError(msg)


def _key(name: str) -> str:
    return name if _BARE_KEY.fullmatch(name) else value_text(name)
