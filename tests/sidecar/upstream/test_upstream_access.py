"""What an upstream receives over real sockets: keys, headers and parameters; and which certificates are accepted."""

from __future__ import annotations

import json
import logging
import ssl
from pathlib import Path

import pytest
import trustme
from serving import settings_of, sidecar
from upstream_tables import FALLBACK, HI, busy, good, lists, table
from wire import Connection, upstream

pytestmark = pytest.mark.anyio


async def test_azure_options_are_sent(tmp_path: Path) -> None:
    """Key header, version parameter, extra headers and limit field are sent as configured."""
    lines = (
        "api_key_env = 'AZURE_KEY'",
        "api_key_header = 'api-key'",
        "query = { api-version = '2024-10-21 preview' }",
        "headers = { x-team = 'search' }",
        "headers_env = { x-gateway = 'GATEWAY' }",
        "limit_field = 'max_completion_tokens'",
        "models = { 'gpt-4o' = 'our deployment' }",
    )
    environ = {"AZURE_KEY": "az-key-1", "GATEWAY": "gw-secret-2"}
    async with upstream(lists) as up:
        text = table(up.url, *lines) + "[[policy]]\nuse = 'max_tokens'\noutput = 50\n"
        async with sidecar(settings_of(tmp_path, None, text, environ=environ)) as served:
            body = {"model": "gpt-4o", "messages": HI["messages"]}
            answer = await served.post("/v1/chat/completions", body, "authorization: Bearer client", "x-gateway: mine")
            own = {**body, "max_tokens": 7}
            await served.post("/v1/chat/completions", own)
            await served.get("/v1/models")

    first, second, third = up.requests
    assert answer[0] == 200
    assert first.head.startswith(b"POST /v1/chat/completions?api-version=2024-10-21+preview HTTP/1.1")
    assert third.head.startswith(b"GET /v1/models?api-version=2024-10-21+preview HTTP/1.1")
    for request in up.requests:
        assert (request.header("api-key"), request.header("authorization")) == ("az-key-1", None)
        assert (request.header("x-team"), request.header("x-gateway")) == ("search", "gw-secret-2")
    assert (first.body["model"], first.body["max_completion_tokens"]) == ("our deployment", 50)
    assert "max_tokens" not in first.body
    assert (second.body["max_tokens"], "max_completion_tokens" in second.body) == (7, False)


async def test_secret_header_is_redacted(tmp_path: Path) -> None:
    """A secret header's value is redacted from the upstream's error text."""

    async def tells(connection: Connection) -> None:
        await connection.answer(400, b'{"error": {"message": "bad gateway word gw2 for you"}}')

    async with upstream(tells) as up:
        text = table(up.url, "headers_env = { x-gateway = 'GATEWAY' }")
        async with sidecar(settings_of(tmp_path, None, text, environ={"GATEWAY": "gw2"})) as served:
            status, _, body = await served.post("/v1/chat/completions", {"model": "m", **HI})

    assert (status, json.loads(body)["error"]["message"]) == (400, "bad gateway word [redacted] for you")


async def test_client_key_reaches_the_first_upstream_only(tmp_path: Path) -> None:
    """The client's key is forwarded to the first upstream only, and to others with `pass_authorization`."""
    async with upstream(busy) as first, upstream(busy) as second, upstream(good) as third:
        text = table(first.url) + table(second.url) + table(third.url, "pass_authorization = true") + FALLBACK
        async with sidecar(settings_of(tmp_path, None, text)) as served:
            sent = await served.post("/v1/chat/completions", {"model": "m", **HI}, "authorization: Bearer sk-client")

    assert sent[0] == 200
    keys = [up.requests[0].header("authorization") for up in (first, second, third)]
    assert keys == ["Bearer sk-client", None, "Bearer sk-client"]


async def test_own_authorization_replaces_the_clients(tmp_path: Path) -> None:
    """With an `Authorization` of the sidecar's own, the client's is not forwarded."""
    async with upstream(good) as up:
        text = table(up.url, "headers_env = { Authorization = 'BASIC' }")
        async with sidecar(settings_of(tmp_path, None, text, environ={"BASIC": "Basic dTpw"})) as served:
            await served.post("/v1/chat/completions", {"model": "m", **HI}, "authorization: Bearer sk-client")

    assert up.requests[0].head.lower().count(b"authorization:") == 1
    assert up.requests[0].header("authorization") == "Basic dTpw"


@pytest.mark.parametrize(
    ("more", "crosses"), [((), False), (("pass_authorization = true",), True)], ids=["by default", "as asked"]
)
async def test_own_key_holds_back_account_headers(tmp_path: Path, more: tuple[str, ...], crosses: bool) -> None:  # noqa: FBT001  # a column
    """With a key of the sidecar's own in any header, the client's account headers need `pass_authorization`."""
    async with upstream(good) as up:
        text = table(up.url, "headers_env = { api-key = 'AZURE' }", *more)
        async with sidecar(settings_of(tmp_path, None, text, environ={"AZURE": "az-1"})) as served:
            account = ("authorization: Bearer sk-client", "openai-organization: org", "openai-project: proj")
            await served.post("/v1/chat/completions", {"model": "m", **HI}, *account)

    (asked,) = up.requests
    sent = [asked.header(name) for name in ("authorization", "openai-organization", "openai-project")]
    assert asked.header("api-key") == "az-1"
    assert sent == (["Bearer sk-client", "org", "proj"] if crosses else [None, None, None])


@pytest.mark.parametrize(
    ("lines", "agent"), [((), "chatnest-sidecar"), (("headers = { User-Agent = 'mine/1' }",), "mine/1")]
)
async def test_upstream_gets_one_user_agent(tmp_path: Path, lines: tuple[str, ...], agent: str) -> None:
    """An upstream gets one `User-Agent`: the configured one, else the sidecar's."""
    async with upstream(lists) as up, sidecar(settings_of(tmp_path, None, table(up.url, *lines))) as served:
        await served.post("/v1/chat/completions", {"model": "m", **HI})
        await served.get("/v1/models")

    assert [request.head.lower().count(b"user-agent:") for request in up.requests] == [1, 1]
    assert [request.header("user-agent") for request in up.requests] == [agent, agent]


@pytest.mark.parametrize("given", [True, False], ids=["its authority", "the system's"])
async def test_certificate_needs_the_configured_authority(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, *, given: bool
) -> None:
    """An upstream's certificate must come from the configured authority, by default one of the system's."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    async with upstream(good, tls=context) as up:
        text = table(up.url, *(["ca = 'ca.pem'"] if given else []))
        with caplog.at_level(logging.WARNING, logger="sidecar"):
            async with sidecar(settings_of(tmp_path, None, text)) as served:
                status, _, body = await served.post("/v1/chat/completions", {"model": "m", **HI})

    if given:
        assert (status, len(up.requests)) == (200, 1)
    else:
        assert (status, json.loads(body)["error"]["code"], up.requests) == (502, "upstream_unavailable", [])
        assert "SSLCertVerificationError" in caplog.text


async def test_certificate_of_another_host_is_refused(tmp_path: Path) -> None:
    """A certificate of the right authority for another host is refused before any request."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("other.example").configure_cert(context)
    async with upstream(good, tls=context) as up:
        text = table(up.url, "ca = 'ca.pem'")
        async with sidecar(settings_of(tmp_path, None, text)) as served:
            status, _, _ = await served.post("/v1/chat/completions", {"model": "m", **HI})

    assert (status, up.requests) == (502, [])
