"""`[log]`: the form of log lines and which of them are written."""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

LogFormat: TypeAlias = Literal["text", "json"]
LogLevel: TypeAlias = Literal["debug", "info", "warning", "error"]


class LogSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[log]`: all lines go to stderr.

    `format` is one text line or one JSON object per entry.  Entries below `level` are not written.  `access = false`
    turns off the line per request; state changes and diagnostics are still written.
    """

    format: LogFormat = "text"
    level: LogLevel = "info"
    access: bool = True
