"""Web pages cannot use the sidecar without permission: not from another origin, and not by DNS rebinding.

Requests as browsers send them, on real sockets: nothing reaches upstream or a limit, and each refusal leaves one record.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from api_keys import key
from recording import HI, SERVERS, V1, Recorded, recorded, says_ab
from serving import CHAT, settings_of, sidecar
from wire import Client, Upstream, eventually, upstream

from sidecar.config.settings import Settings
from sidecar.server.gateway import Gateway

pytestmark = pytest.mark.anyio

PAGE, EVIL = "http://localhost:5173", "http://evil.example"
LISTED = f'[server]\ncors_origins = ["{PAGE}"]\n'
ONE_A_DAY = '[[policy]]\nuse = "rate"\nrequests = 1\nwindow = 86400\n'
TARGETS = (
    ("POST", V1, HI, V1),
    ("POST", "/api/chat", CHAT, "/api/chat"),
    ("GET", "/v1/models", None, "/v1/models"),
    ("GET", "/v1/models/m", None, "/v1/models/{id}"),
    ("GET", V1, None, V1),
    ("POST", f"{V1}/", HI, "unknown"),
    ("GET", "/", None, "unknown"),
    ("POST", "/v1/embeddings", {"input": "a"}, "/v1/embeddings"),
    ("POST", "/v1/moderations", {"input": "a"}, "unknown"),
)
"""Method, path and body of a request, and the route in its record."""
CROSS_SITE = {
    "origin": (f"origin: {EVIL}",),
    "null": ("origin: null", "sec-fetch-site: cross-site"),
    "another port": ("origin: http://localhost:3000", "sec-fetch-site: same-site"),
    "no-cors": ("sec-fetch-site: cross-site", "sec-fetch-mode: no-cors"),
    "navigation": ("sec-fetch-site: cross-site", "sec-fetch-mode: navigate", "sec-fetch-user: ?1"),
    "form": (f"origin: {EVIL}", "sec-fetch-site: cross-site", "content-type: text/plain"),
    "extension": ("origin: chrome-extension://abc", "sec-fetch-site: none"),
}
"""Headers of requests that a page of another origin can cause."""


async def request(
    client: Client, method: str, path: str, body: Any, *headers: str
) -> tuple[int, dict[str, str], bytes]:
    """Send one request on the connection of *client*, and return the answer."""
    raw = b"" if body is None else json.dumps(body).encode()
    named = [each.partition(":")[0].lower() for each in headers]
    lines = [f"{method} {path} HTTP/1.1", *headers, f"content-length: {len(raw)}"]
    lines += ["host: localhost"] if "host" not in named else []
    lines += ["content-type: application/json"] if "content-type" not in named else []
    client.writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + raw)
    return await client.answer()


def error_of(body: bytes, path: str) -> dict[str, Any]:
    """Return code and message of an error body of *path*."""
    decoded = json.loads(body)
    if path == "/api/chat":
        return {"code": decoded["code"], "message": decoded["error"]}
    error: dict[str, Any] = decoded["error"]
    return error


async def record_of(it: Recorded) -> tuple[object, ...]:
    """Return what the only record says of a refusal, and forget it."""
    record = await it.one()
    it.records.clear()
    return record.status, record.code, record.ending, record.route, record.ip, record.tenant, record.attempts


async def refusal(it: Recorded, up: Upstream, code: str, setting: str, *headers: str) -> None:
    """Send every target with *headers* on one connection; each is refused with *code* and leaves one record."""
    client = await it.served.client()
    for method, path, body, route in TARGETS:
        status, answer, text = await request(client, method, path, body, *headers)
        error = error_of(text, path)
        assert (status, error["code"]) == (403, code), (path, headers)
        assert f"'{setting}' in [server]" in error["message"]
        assert answer["x-should-retry"] == "false"
        assert "access-control-allow-origin" not in answer
        assert answer["x-request-id"]
        assert "connection" not in answer
        assert await record_of(it) == (403, code, "rejected", route, "127.0.0.1", "", 0)
    assert up.requests == []


@SERVERS
@pytest.mark.parametrize("text", ["", LISTED], ids=["no origins", "another origin"])
@pytest.mark.parametrize("kind", CROSS_SITE)
async def test_cross_site_requests_do_not_reach_the_chain(
    tmp_path: Path, kind: str, text: str, protocol: type[asyncio.Protocol]
) -> None:
    """Requests of other pages are refused on every path, leave one record each, and use up no limit."""
    async with upstream(says_ab) as up, recorded(tmp_path, up, text + ONE_A_DAY, protocol=protocol) as it:
        await refusal(it, up, "cross_site", "cors_origins", *CROSS_SITE[kind])
        status, _, _ = await it.served.post(V1, HI)

    assert (status, len(up.requests)) == (200, 1)


@SERVERS
async def test_foreign_hosts_do_not_reach_the_chain(tmp_path: Path, protocol: type[asyncio.Protocol]) -> None:
    """A page that lets its own host name resolve to 127.0.0.1 is refused, although its requests are of the same origin."""
    rebound = ("host: evil.example:8787", "origin: http://evil.example:8787", "sec-fetch-site: same-origin")
    async with upstream(says_ab) as up, recorded(tmp_path, up, ONE_A_DAY, protocol=protocol) as it:
        await refusal(it, up, "host_not_allowed", "allowed_hosts", *rebound)
        await refusal(it, up, "host_not_allowed", "allowed_hosts", "host: evil.example", "x-forwarded-host: localhost")
        status, _, _ = await it.served.post(V1, HI)

    assert (status, len(up.requests)) == (200, 1)


@SERVERS
async def test_permitted_pages_call_as_before(tmp_path: Path, protocol: type[asyncio.Protocol]) -> None:
    """A page of a listed origin, one of the same origin, and clients that are no browser reach the upstream."""
    async with upstream(says_ab) as up, sidecar(settings_of(tmp_path, up.url, LISTED), protocol=protocol) as served:
        own = f"http://localhost:{served.port}"
        for headers in (
            (f"origin: {PAGE}", "sec-fetch-site: same-site"),
            (f"origin: {PAGE}", "sec-fetch-site: cross-site"),
            (f"origin: {PAGE}",),
            (f"host: localhost:{served.port}", f"origin: {own}"),
            ("origin: https://chat.example", "sec-fetch-site: same-origin"),  # a proxy in front has changed Host
            ("sec-fetch-site: none",),
            (),
        ):
            assert (await served.post(V1, HI, *headers))[0] == 200, headers

    assert len(up.requests) == 7


async def test_refusal_of_a_host_is_readable_for_a_permitted_page(tmp_path: Path) -> None:
    """A permitted page that uses a wrong host name can read the reason: its preflight passes, the refusal has CORS headers."""
    async with upstream() as up, sidecar(settings_of(tmp_path, up.url, LISTED)) as served:
        asks = ("host: box.lan:8787", f"origin: {PAGE}", "access-control-request-method: POST")
        preflight, _, _ = await served.get(V1, *asks, method="OPTIONS")
        status, headers, body = await served.post(V1, HI, "host: box.lan:8787", f"origin: {PAGE}")

    assert (preflight, status, error_of(body, V1)["code"]) == (204, 403, "host_not_allowed")
    assert headers["access-control-allow-origin"] == PAGE


@SERVERS
@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
async def test_health_routes_answer_under_every_host(
    tmp_path: Path, path: str, protocol: type[asyncio.Protocol]
) -> None:
    """Probes use various host names, and a status page may show whether the process is alive."""
    text = '[server]\nallowed_hosts = ["sidecar.example"]\n'
    async with upstream() as up, sidecar(settings_of(tmp_path, up.url, text), protocol=protocol) as served:
        for headers in (("host: pod-1.cluster.local:8787",), (f"origin: {EVIL}", "sec-fetch-site: cross-site")):
            for method in ("GET", "HEAD"):
                client = await served.client()
                client.writer.write(f"{method} {path} HTTP/1.1\r\n".encode())
                lines = headers if headers[0].startswith("host") else ("host: localhost", *headers)
                client.writer.write("\r\n".join(lines).encode() + b"\r\n\r\n")
                assert (await client.head())[0] == 200, headers


@SERVERS
async def test_options_of_a_health_route_has_a_request_id(tmp_path: Path, protocol: type[asyncio.Protocol]) -> None:
    """Every answer has a request id, also that to OPTIONS where CORS is off; the record has the same one."""
    async with upstream() as up, recorded(tmp_path, up, protocol=protocol) as it:
        for mine in ((), ("x-request-id: mine-1",)):
            status, headers, _ = await it.served.get("/healthz", *mine, method="OPTIONS")
            record = await it.one()
            it.records.clear()
            assert (status, record.status) == (204, 204)
            assert record.request_id == headers["x-request-id"] != ""
            assert not mine or record.request_id == "mine-1"


ALLOWED = 'allowed_hosts = ["api.example", "*.team.example"]'
SOMEWHERE: tuple[str, ...] = (
    "localhost",
    "10.0.0.7:8787",
    "api.example",
    "a.team.example",
    "team.example",
    "evil.example",
)


@pytest.mark.parametrize(
    ("listed", "keyed", "on_loopback", "refused"),
    [
        (False, False, True, {"api.example", "a.team.example", "team.example", "evil.example"}),
        (False, False, False, set()),
        (False, True, True, set()),
        (True, False, True, {"team.example", "evil.example"}),
        (True, True, True, {"team.example", "evil.example"}),
        (True, False, False, {"team.example", "evil.example"}),
        (True, True, False, {"team.example", "evil.example"}),
    ],
)
async def test_hosts_are_checked_where_no_key_protects(
    tmp_path: Path, *, listed: bool, keyed: bool, on_loopback: bool, refused: set[str]
) -> None:
    """Hosts are checked without keys on loopback addresses, and everywhere if `allowed_hosts` is set."""
    text = (f"[server]\n{ALLOWED}\n" if listed else "") + (key("sk-1", "a") if keyed else "")

    def make(settings: Settings) -> Gateway:
        return Gateway(settings, on_loopback=on_loopback)

    async with upstream(says_ab) as up, sidecar(settings_of(tmp_path, up.url, text), make_gateway=make) as served:
        mine = ("authorization: Bearer sk-1",)
        statuses = {host: (await served.post(V1, HI, *mine, f"host: {host}"))[0] for host in SOMEWHERE}

    assert {host for host, status in statuses.items() if status == 403} == refused
    assert set(statuses.values()) <= {200, 403}


MALFORMED = {
    "no host": b"GET /v1/models HTTP/1.1\r\n\r\n",
    "no host on a health route": b"GET /healthz HTTP/1.1\r\n\r\n",
    "two hosts": b"GET /v1/models HTTP/1.1\r\nhost: localhost\r\nhost: localhost\r\n\r\n",
    "two different hosts": b"GET /v1/models HTTP/1.1\r\nhost: localhost\r\nHost: evil.example\r\n\r\n",
    "two hosts on a health route": b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nHost: evil.example\r\n\r\n",
    "an absolute target without a host": b"GET http://localhost/v1/models HTTP/1.1\r\n\r\n",
    "an absolute target with two hosts": b"GET http://localhost/v1/models HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n",
}


@pytest.mark.parametrize("kind", MALFORMED)
@pytest.mark.parametrize("keys", ["", key("sk-1", "a")], ids=["open", "keyed"])
async def test_request_without_exactly_one_host_is_malformed(tmp_path: Path, kind: str, keys: str) -> None:
    """A request of HTTP/1.1 without `Host`, or with several, is answered by 400 everywhere (RFC 9112, 3.2)."""
    async with upstream(says_ab) as up, recorded(tmp_path, up, keys) as it:
        client = await it.served.client()
        client.writer.write(MALFORMED[kind])
        status, _, body = await client.answer()
        record = await it.one()

    assert (status, record.status, record.code) == (400, 400, "invalid_request")
    assert "'Host' header" in json.loads(body)["error"]["message"]
    assert up.requests == []


@pytest.mark.parametrize(
    ("target", "host", "status"),
    [
        ("http://localhost:8787/v1/models", "evil.example", 200),
        ("http://evil.example/v1/models", "localhost", 403),
        ("http://evil.example:8787/v1/models", "localhost:8787", 403),
        ("HTTP://LOCALHOST/v1/models", "evil.example", 200),
        ("http://[::1]:8787/v1/models", "evil.example", 200),
        ("http://localhost@evil.example/v1/models", "localhost", 400),
        ("http://evil.example@localhost/v1/models", "evil.example", 400),
        ("http://evil.example/healthz", "localhost", 200),
        ("//evil.example/v1/models", "localhost", 404),
    ],
)
async def test_authority_of_the_target_counts(tmp_path: Path, target: str, host: str, status: int) -> None:
    """The host of an absolute-form target replaces the header `Host` (RFC 9112, 3.2.2)."""
    async with upstream(says_ab) as up, sidecar(settings_of(tmp_path, up.url)) as served:
        client = await served.client()
        client.writer.write(f"GET {target} HTTP/1.1\r\nhost: {host}\r\n\r\n".encode())
        answered, _, _ = await client.answer()

    assert answered == status


async def test_http_1_0_without_a_host_is_served(tmp_path: Path) -> None:
    """Old probes and tools send HTTP/1.0 without `Host`; no browser does."""
    async with upstream(says_ab) as up, sidecar(settings_of(tmp_path, up.url)) as served:
        for lines, status in (((), 200), (("host: evil.example",), 403)):
            client = await served.client()
            client.writer.write("\r\n".join(["GET /v1/models HTTP/1.0", *lines]).encode() + b"\r\n\r\n")
            assert (await client.head())[0] == status


async def test_refused_upload_leaves_the_connection_usable(tmp_path: Path) -> None:
    """A refusal before the body was read does not confuse the next request of the connection."""
    async with upstream(says_ab) as up, sidecar(settings_of(tmp_path, up.url)) as served:
        client = await served.client()
        for _ in range(3):
            long = HI | {"messages": [{"role": "user", "content": "x" * 20_000}]}
            assert (await request(client, "POST", V1, long, f"origin: {EVIL}"))[0] == 403
            assert (await request(client, "POST", V1, HI))[0] == 200

    assert len(up.requests) == 3


@SERVERS
async def test_refusals_of_all_kinds_have_an_address(tmp_path: Path, protocol: type[asyncio.Protocol]) -> None:
    """The record of a 401, 404 or 405 has the client's address, behind a trusted proxy too."""
    text = '[server]\ntrusted_proxies = ["127.0.0.1"]\n' + key("sk-1", "a")
    async with upstream() as up, recorded(tmp_path, up, text, protocol=protocol) as it:
        for path, method, status in (
            (V1, "POST", 401),
            ("/nope", "GET", 404),
            (V1, "GET", 405),
            ("/healthz", "POST", 405),
        ):
            client = await it.served.client()
            await request(client, method, path, HI, "x-forwarded-for: 1.2.3.4")
            await eventually(lambda: bool(it.records))
            (record,) = it.records
            it.records.clear()
            assert (record.status, record.ip) == (status, "1.2.3.4"), path


async def test_event_form_of_chat_refusals_holds(tmp_path: Path) -> None:
    """With `chat_refusals = "event"` the chat client shows the reason, and the record has the code."""
    text = '[server]\nchat_refusals = "event"\n'
    async with upstream() as up, recorded(tmp_path, up, text) as it:
        status, _, body = await it.served.post("/api/chat", CHAT, "host: box.lan")
        record = await it.one()

    assert (status, record.code) == (200, "host_not_allowed")
    assert b"event: error\n" in body
    assert b"allowed_hosts" in body
