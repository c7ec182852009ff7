"""Records for tests of observers."""

from __future__ import annotations

from typing import Any

from policies.records.record import Record


def make_record(**fields: Any) -> Record:
    """Return the record of a successful stream, with *fields* changed."""
    usual: dict[str, Any] = {
        "request_id": "req-1",
        "started_at": 1_764_346_831.5,
        "total_seconds": 1.934,
        "method": "POST",
        "route": "/v1/chat/completions",
        "status": 200,
        "ending": "done",
        "call_id": "call-1",
        "tenant": "acme",
        "ip": "10.0.0.7",
        "operation": "chat",
        "stream": True,
        "model_asked": "a",
        "model_served": "b",
        "upstream": "openai",
        "attempts": 1,
        "input_tokens": 12,
        "output_tokens": 345,
        "cost_usd": 0.0012,
        "first_output_seconds": 0.21,
        "notes": ("kept 6 of 14 messages",),
    }
    return Record(**{**usual, **fields})
