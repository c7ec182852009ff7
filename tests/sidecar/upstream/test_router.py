"""Several upstreams over real sockets: which one gets the request, for which model, with which key, and the charge."""

from __future__ import annotations

import json
import logging
import re
import ssl
from pathlib import Path
from typing import Any

import pytest
import trustme
from places import ROOT
from serving import CHAT, events, settings_of, sidecar
from wire import Connection, Script, upstream

from policies import Fallback
from policies.api.failure_kinds import FAILURE_CLASSES
from sidecar.upstream.circuit_breaker import UNHEALTHY_KINDS

pytestmark = pytest.mark.anyio

CONFIGURATION = (ROOT / "docs" / "configuration.md").read_text()
HI = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 40}
FALLBACK = '[[policy]]\nuse = "fallback"\n'
REPORT = {"prompt_tokens": 1_000_000, "completion_tokens": 0}


def whole(**more: Any) -> bytes:
    choice = {"index": 0, "message": {"role": "assistant", "content": "fine"}, "finish_reason": "stop"}
    return json.dumps({"id": "1", "choices": [choice], **more}).encode()


async def good(connection: Connection) -> None:
    if connection.body.get("stream"):
        await connection.stream("fine")
    else:
        await connection.answer(200, whole(usage=REPORT))


async def busy(connection: Connection) -> None:
    await connection.answer(503, b'{"error": {"message": "busy"}}')


async def lists(connection: Connection) -> None:
    if b"/models" in connection.head.split(b"\r\n")[0]:
        await connection.answer(200, b'{"data": [{"id": "listed"}, {"id": "other"}]}')
    else:
        await good(connection)


def table(url: str, *lines: str) -> str:
    return "\n".join(["[[upstream]]", f"base_url = '{url}'", *lines, ""])


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


async def test_model_names_are_translated(tmp_path: Path) -> None:
    """Each upstream gets its own name of the model; the `models` list of a request is translated too."""
    async with upstream(busy) as first, upstream(good) as second:
        text = table(first.url, "models = { 'gpt-4o' = 'llama3', 'gpt-*' = 'small' }")
        text += table(second.url, "models = { '*' = 'any' }") + FALLBACK
        async with sidecar(settings_of(tmp_path, None, text)) as served:
            for name in ("gpt-4o", "gpt-x", "else"):
                await served.post("/v1/chat/completions", {"model": name, "models": ["gpt-4o", "b"], **HI})

    assert [request.body["model"] for request in first.requests] == ["llama3", "small", "else"]
    assert [request.body["model"] for request in second.requests] == ["any", "any", "any"]
    assert first.requests[0].body["models"] == ["llama3", "b"]


async def test_call_without_a_model_gets_the_configured_one(tmp_path: Path) -> None:
    """A call that names no model gets each upstream's configured model, else the first upstream's."""
    async with upstream(busy) as first, upstream(busy) as second, upstream(good) as third:
        text = table(first.url, "model = 'one'") + table(second.url, "model = 'two'") + table(third.url) + FALLBACK
        async with sidecar(settings_of(tmp_path, None, text)) as served:
            await served.post("/v1/chat/completions", HI)
            await served.post("/api/chat", CHAT)
            await served.post("/v1/chat/completions", {"model": "one", **HI})

    assert [request.body["model"] for request in first.requests] == ["one", "one", "one"]
    assert [request.body["model"] for request in second.requests] == ["two", "two", "one"]
    assert [request.body["model"] for request in third.requests] == ["one", "one", "one"]


async def test_first_listed_model_is_used(tmp_path: Path) -> None:
    """Without a configured model, the first listed one is used, also after a fallback; the list is read once."""

    async def gone(connection: Connection) -> None:
        connection.reset()

    async with upstream(gone) as first, upstream(lists) as second:
        text = table(first.url) + table(second.url) + FALLBACK
        async with sidecar(settings_of(tmp_path, None, text)) as served:
            for _ in range(2):
                status, _, body = await served.post("/api/chat", CHAT)
                assert (status, events(body)[-1][0]) == (200, "done")

    assert [request.head.split()[1] for request in second.requests] == [
        b"/v1/models",
        b"/v1/chat/completions",
        b"/v1/chat/completions",
    ]
    assert second.requests[1].body["model"] == "listed"


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


async def test_retry_after_of_a_loading_server_is_forwarded(tmp_path: Path) -> None:
    """A loading server's `Retry-After` is forwarded, none is added, and SDKs are told not to retry."""

    def loads(*headers: str) -> Script:
        async def script(connection: Connection) -> None:
            body = b'{"error": {"message": "Loading model", "type": "unavailable_error", "code": 503}}'
            await connection.answer(503, body, *headers)

        return script

    seen = []
    for script in (loads("retry-after: 7"), loads()):
        async with upstream(script) as up:
            text = table(up.url) + "[[policy]]\nuse = 'retry'\nattempts = 1\n"
            async with sidecar(settings_of(tmp_path, None, text)) as served:
                status, answer_headers, _ = await served.post("/v1/chat/completions", {"model": "m", **HI})
        names = ("retry-after", "retry-after-ms", "x-should-retry")
        seen.append((status, *(answer_headers.get(name) for name in names)))

    assert seen == [(503, "7", None, "false"), (503, None, None, "false")]


def test_documented_upstreams_are_valid(tmp_path: Path) -> None:
    """The upstreams of docs/configuration.md are valid, and fallback covers every failure kind that the circuit breaker counts."""
    (text,) = (x for x in re.findall(r"^```toml\n(.*?)^```$", CONFIGURATION, re.MULTILINE | re.DOTALL) if "azure" in x)
    settings = settings_of(tmp_path, None, text, environ={"AZURE_API_KEY": "az-1"})
    (fallback,) = (policy for policy in settings.base.policies if isinstance(policy, Fallback))

    assert [each.name for each in settings.upstreams] == ["azure", "local"]
    assert {FAILURE_CLASSES[kind].family or kind for kind in UNHEALTHY_KINDS if not FAILURE_CLASSES[kind].late} | {
        "unavailable"
    } <= set(fallback.on)


async def test_dearest_name_is_reserved(tmp_path: Path) -> None:
    """The dearest model that may serve a call is reserved; the one that served it is charged."""
    prices = "[prices.dear]\ninput = 10\noutput = 1000\n[prices.cheap]\ninput = 1\noutput = 2\n"
    budget = "[[policy]]\nuse = 'budget'\nusd = 100\n"
    held: list[int] = []

    async def looks(connection: Connection) -> None:
        accounts = await served.gateway.policy_services.store.accounts()
        held.extend(account.reserved for account in accounts)
        await good(connection)

    async with upstream(busy) as first, upstream(looks) as second:
        text = table(first.url, "models = { chat = 'dear' }") + table(second.url, "models = { chat = 'cheap' }")
        text += FALLBACK + budget + prices
        async with sidecar(settings_of(tmp_path, None, text)) as served:
            status, _, _ = await served.post("/v1/chat/completions", {"model": "chat", **HI})
            account = await served.account()

    assert status == 200
    assert held[0] >= 40 * 1000  # 40 tokens of the dear one, in micro-dollars
    assert (account.spent, account.reserved) == (1_000_000, 0)  # a million tokens of the cheap one


async def test_each_attempt_has_the_price_of_its_model(tmp_path: Path) -> None:
    """Each attempt is charged at the price of its own model."""

    async def cuts(connection: Connection) -> None:
        await connection.send(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n{")
        connection.close()

    prices = "[prices.dear]\ninput = 1_000_000\noutput = 0\n[prices.cheap]\ninput = 1\noutput = 0\n"
    async with upstream(cuts) as first, upstream(good) as second:
        text = table(first.url, "models = { chat = 'dear' }") + table(second.url, "models = { chat = 'cheap' }")
        text += FALLBACK + "[[policy]]\nuse = 'budget'\nusd = 1_000_000\n" + prices
        async with sidecar(settings_of(tmp_path, None, text)) as served:
            status, _, _ = await served.post("/v1/chat/completions", {"model": "chat", **HI})
            account = await served.account()

    assert status == 200
    prompt = account.spent - 1_000_000
    assert 1_000_000 <= prompt < 20_000_000  # a few estimated tokens of the dear one, at a dollar each


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
