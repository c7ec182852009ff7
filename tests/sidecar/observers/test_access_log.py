"""The line per request."""

from __future__ import annotations

import json
import re
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from records import make_record

from policies.api.lease import Ending
from policies.records.record import FailedAttempt, Record
from sidecar.config.log import LogLevel, LogSettings
from sidecar.observers.access_log import AccessLineFormat, AccessLog
from sidecar.observers.entry_format import MAX_LINE_BYTES
from sidecar.observers.escaping import quoted
from sidecar.observers.levels import level_of

TEXTS = (
    "request_id", "method", "route", "code", "rejected_by", "call_id", "tenant", "key_id", "profile", "ip", "operation",
    "model_asked", "model_served", "upstream", "error_kind", "upstream_error", "trace_parent",
)  # fmt: skip
FORGERIES = (
    "\n2026-11-28T16:20:31.123Z INFO request id=forged status=200",
    '" total=0.001s\r\n', "\x1b[2K\x1b[1A", "\u2028\u2029\x85\x0b\x0c\x1c", "\u202egnp", "\x9b31m", "\udc80", "\\", "\\n",
    "a b=c", "a->b", "", "\U000e0001" * 300,
)  # fmt: skip
ANY_TEXT = st.one_of(st.sampled_from(FORGERIES), st.text(st.characters(exclude_categories=()), max_size=400))
ANY_RECORD = st.builds(
    lambda texts, notes, failed: make_record(
        **texts, notes=tuple(notes), failed_attempts=tuple(FailedAttempt(upstream=a, error_kind=b) for a, b in failed)
    ),
    st.fixed_dictionaries(dict.fromkeys(TEXTS, ANY_TEXT)),
    st.lists(ANY_TEXT, max_size=20),
    st.lists(st.tuples(ANY_TEXT, ANY_TEXT), max_size=20),
)


def line_of(record: Record, **settings: Any) -> str:
    lines: list[bytes] = []
    AccessLog(LogSettings(**settings), lines.append).observe(record)
    return b"".join(lines).decode()


def test_text_line_has_all_fields() -> None:
    """A text line names time, level, request, route, status, models, upstream, tokens, cost, times, attempts and notes."""
    assert line_of(make_record()) == (
        "2025-11-28T16:20:33.434Z INFO request id=req-1 tenant=acme ip=10.0.0.7 POST /v1/chat/completions 200 "
        "model=a->b upstream=openai tokens=12/345 cost=$0.0012 first=0.210s total=1.934s attempts=1 "
        'notes="kept 6 of 14 messages"\n'
    )


def test_line_has_the_id_of_the_key() -> None:
    """Lines of both formats have the id of the client's key, and nothing for a key without one."""
    record = make_record(key_id="acme-web")
    assert " tenant=acme key_id=acme-web ip=" in line_of(record)
    assert json.loads(line_of(record, format="json"))["key_id"] == "acme-web"
    assert "key_id" not in line_of(make_record()) + line_of(make_record(), format="json")


@pytest.mark.parametrize(
    ("cost", "shown"), [(0.2e-6, "$0.0000002"), (1e-12, "$0.000000000001"), (0.0, "$0"), (2.5, "$2.5")]
)
def test_small_cost_is_shown(cost: float, shown: str) -> None:
    """A cost below a micro-dollar is not shown as 0."""
    assert f" cost={shown} " in line_of(make_record(cost_usd=cost))


def test_refusal_line_omits_what_does_not_apply() -> None:
    """A request refused before the chain has no tenant, model, upstream or tokens in its line."""
    record = Record(
        request_id="r", started_at=0.25, total_seconds=0.001, method="POST", route="/api/chat", status=401,
        ending=Ending.REJECTED, code="unauthorized",
    )  # fmt: skip
    assert line_of(record) == (
        "1970-01-01T00:00:00.251Z INFO request id=r POST /api/chat 401 ending=rejected code=unauthorized total=0.001s\n"
    )
    assert json.loads(line_of(record, format="json")) == {
        "time": "1970-01-01T00:00:00.251Z", "level": "info", "event": "request", "request_id": "r", "started_at": 0.25,
        "total_seconds": 0.001, "method": "POST", "route": "/api/chat", "status": 401, "ending": "rejected",
        "code": "unauthorized",
    }  # fmt: skip


def test_failure_line_has_the_upstreams_words() -> None:
    """A failed call shows what failed before, the failure class and the upstream's own error text."""
    record = make_record(
        status=502, ending="failed", code="upstream_error", error_kind="server", attempts=2, tokens_exact=False,
        cached_tokens=4, upstream_error='the "model" is loading', rejected_by="budget",
        failed_attempts=(FailedAttempt(upstream="first", error_kind="timeout"),),
    )  # fmt: skip
    line = line_of(record)
    assert " WARNING request " in line
    assert " 502 ending=failed code=upstream_error policy=budget kind=server " in line
    assert " tokens=~12/345 cached=4 " in line
    assert ' failed="first: timeout" upstream_error="the \\"model\\" is loading" ' in line


@pytest.mark.parametrize(
    ("fields", "level"),
    [
        ({}, "info"),
        ({"status": 429, "ending": "rejected"}, "info"),
        ({"status": 401, "ending": "rejected"}, "info"),
        ({"status": 499, "ending": "cancelled"}, "info"),
        ({"status": 503, "ending": "rejected", "code": "draining"}, "warning"),
        ({"status": 429, "ending": "failed"}, "warning"),
        ({"status": 200, "ending": "failed", "code": "stream_interrupted"}, "warning"),
        ({"status": 500, "ending": "failed", "code": "internal_error"}, "error"),
        ({"route": "/healthz"}, "debug"),
        ({"route": "/readyz", "status": 503}, "debug"),
    ],
)
def test_level_depends_on_the_ending(fields: dict[str, Any], level: LogLevel) -> None:
    """Refusals are information, failures warnings, faults of the sidecar errors, probes debugging; `level` is the least."""
    record = make_record(**fields)
    assert level_of(record) == level
    assert f" {level.upper()} " in line_of(record, level=level)
    above: dict[LogLevel, LogLevel] = {"debug": "info", "info": "warning", "warning": "error"}
    if level in above:
        assert line_of(record, level=above[level]) == ""


@given(ANY_RECORD)
def test_text_line_cannot_be_forged(record: Record) -> None:
    """Whatever the values are, a record is one printable line of bounded length."""
    line = AccessLineFormat("text").encode(record, "info")
    assert len(line) <= MAX_LINE_BYTES
    text = line.decode()
    assert text.endswith("\n")
    assert text[:-1].isprintable()
    names = re.findall(r" ([a-z_]+)=", re.sub(r'"(?:[^"\\]|\\.)*"', "", text))
    assert names[0] == "id"
    assert len(names) == len(set(names))


@given(ANY_RECORD)
def test_json_line_cannot_be_forged(record: Record) -> None:
    """Whatever the values are, a record is one printable line that holds one JSON object."""
    line = AccessLineFormat("json").encode(record, "info")
    assert len(line) <= MAX_LINE_BYTES
    text = line.decode()
    assert text.endswith("\n")
    assert text[:-1].isprintable()
    assert json.loads(text)["event"] == "request"


@given(st.text(max_size=100), st.lists(st.text(max_size=50), max_size=3))
def test_json_line_is_the_record(text: str, notes: list[str]) -> None:
    """A JSON line decodes to the record that it was made of."""
    record = make_record(model_asked=text, upstream_error=text, notes=tuple(notes))
    line = AccessLineFormat("json").encode(record, "warning")
    assert msgspec.json.decode(line, type=Record) == record
    assert json.loads(line)["level"] == "warning"


@given(st.text(st.characters(codec="utf-8"), min_size=1))
def test_quoted_value_is_readable(text: str) -> None:
    """A value is itself, without spaces, quotes and `=`, or a JSON string."""
    value = quoted(text)
    if value.startswith('"'):
        assert json.loads(value) == text
    else:
        assert value == text
        assert not set(value) & set(' "=\\')
