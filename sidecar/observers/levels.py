"""Levels of log lines, and the level of each record."""

from __future__ import annotations

from policies.records.record import Record
from sidecar.config.log import LogLevel

LEVEL_NUMBERS: dict[LogLevel, int] = {"debug": 10, "info": 20, "warning": 30, "error": 40}
"""Severity by level, as in stdlib `logging`."""
PROBE_ROUTES = frozenset({"/healthz", "/readyz", "/metrics"})
"""Routes that monitoring calls every few seconds."""
INTERNAL_ERROR = "internal_error"
_FIRST_SERVER_ERROR = 500


def level_of(record: Record) -> LogLevel:
    """Return the level of *record*'s access line.

    - `error`: a fault of the sidecar itself (`internal_error`).
    - `warning`: the request failed (upstream failures, also after a status of 200 was sent), or the status is 5xx
      (store unavailable, draining, queue full).
    - `info`: everything else. A 4xx, 429 included, is a limit or a check that works as configured. A client that
      disconnects is no fault either.
    - `debug`: probes of any status, because a state change already logs why a probe fails.
    """
    if record.route in PROBE_ROUTES:
        return "debug"
    if record.code == INTERNAL_ERROR:
        return "error"
    if record.ending == "failed" or record.status >= _FIRST_SERVER_ERROR:
        return "warning"
    return "info"
