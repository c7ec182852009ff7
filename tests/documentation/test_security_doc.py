"""docs/security.md has the limits of the code, with their settings and answers."""

from __future__ import annotations

import pytest
from documents import rows
from places import ROOT

from sidecar.config.relay import passthrough
from sidecar.config.settings import ServerSettings
from sidecar.downstream import client_errors, endpoints
from sidecar.downstream.relay import upload
from sidecar.downstream.usage import read_pace
from sidecar.server import process
from sidecar.server.http1 import http_limits
from sidecar.upstream import circuit_breaker
from sidecar.upstream.circuits import circuit_group
from sidecar.upstream.routing import listed_names
from sidecar.wire.responses.events import outline

SECURITY = (ROOT / "docs" / "security.md").read_text()
DEFAULTS = ServerSettings()
TABLES = ("| what | limit | setting | answer |", "| of a request | limit | setting | answer |")
LIMITS = {row[0]: row[1:] for table in TABLES for row in rows(SECURITY, table)}


@pytest.mark.parametrize("setting", [row[1].strip("`") for row in LIMITS.values() if row[1]])
def test_settings_have_their_defaults(setting: str) -> None:
    """The limit of each row with a setting is the shipped default of that setting, and the setting exists."""
    (limit,) = [row[0] for row in LIMITS.values() if row[1] == f"`{setting}`"]
    value = getattr(DEFAULTS, setting)
    if isinstance(value, int | float):
        assert f"{value:,.0f}" in limit
    else:
        assert value == ()


def test_fixed_limits_are_those_of_the_code() -> None:
    """Rows without a setting have the constants of the code, and the status of its answer."""
    expected: dict[str, tuple[int | str, client_errors.ClientError | None]] = {
        "fields of a head; trailers": (http_limits.MAX_HEAD_FIELDS, http_limits.many_fields("")),
        "bytes of a head; of trailers and chunk extensions": (http_limits.MAX_HEAD_BYTES, http_limits.much_overhead()),
        "URL": (http_limits.MAX_URL_BYTES, http_limits.long_url()),
        "time for a head, from its first byte": (int(http_limits.HEAD_SECONDS), http_limits.slow_head(1)),
        "idle connection": (process.KEEPALIVE_SECONDS, None),
        "version": ("1.1", http_limits.other_version()),
        "transfer coding": ("chunked", http_limits.coding_fault((b"x",), "1.1")),
        "bytes read behind a refusal": (f"a pause of {http_limits.LINGER_SECONDS:g} s", None),
    }
    assert {name for name, row in LIMITS.items() if not row[1]} == set(expected)
    for name, (limit, error) in expected.items():
        shown, _, answer = LIMITS[name]
        assert (f"{limit:,}" if isinstance(limit, int) else limit) in shown
        assert answer.startswith("closed" if error is None else str(error.status))
    assert http_limits.MAX_SURPLUS_BYTES == 64 * 1024 * 1024


def test_answers_of_settings_are_those_of_the_code() -> None:
    """Rows with a setting name the status and code of their answer."""
    limits = http_limits.HttpLimits()
    for setting, error in [
        ("max_connections", limits.too_many_connections()),
        ("body_timeout", limits.slow_body()),
        ("max_buffered", client_errors.unread_requests_full()),
        ("allowed_hosts", client_errors.host_not_allowed("x")),
        ("cors_origins", client_errors.cross_site("x")),
    ]:
        (answer,) = [row[2] for row in LIMITS.values() if row[1] == f"`{setting}`"]
        assert answer == f"{error.status} `{error.code}`"


def test_kept_tables_are_those_of_the_code() -> None:
    """The numbers of what one process keeps or runs at the same time are those of the code."""
    kept = {row[0]: row[1] for row in rows(SECURITY, "| what | limit | beyond |")}
    names = (f"{circuit_breaker.MAX_MODELS} models", f"{circuit_group.MAX_TENANTS} tenants")
    assert all(name in kept["circuits of one upstream"] for name in names)
    assert kept["listed models of one upstream"] == f"{listed_names.MAX_LISTED_MODELS:,} names"
    counts = f"{endpoints.MAX_TENANT_COUNTS} of one tenant, {endpoints.MAX_COUNTS} of the process"
    assert kept["counts of tokens that run at the same time"] == counts
    (stream,) = [limit for what, limit in kept.items() if "Responses stream" in what]
    assert stream == f"{outline.MAX_KEPT_CHARACTERS:,} characters, {outline.MAX_KEPT_PARTS:,} items and parts"
    assert f"{passthrough.MAX_PASSTHROUGH_ROUTES} entries" in kept["relayed routes"]
    assert f"{upload.UPLOAD_WINDOW_BYTES // 1024} kB of each body" in kept["relayed routes"]
    reads = f"{read_pace.READ_BURST} of a tenant at once and {read_pace.READS_PER_SECOND} a second"
    waits = f"{read_pace.MAX_CONCURRENT_READS} that wait for the store, {read_pace.MAX_QUEUED_READS} behind them"
    assert kept["requests for `/v1/usage`"] == f"{reads}; {waits}"
