"""Who may call, for whom a call counts, and what it may use."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from process import ran
from serving import CHAT, settings_of, sidecar
from wire import Connection, upstream

from sidecar.config.tables import ConfigError
from sidecar.downstream.client_address import TrustedProxies

pytestmark = pytest.mark.anyio

HI = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 10, "stream": True}
V1 = "/v1/chat/completions"


def key(token: str, tenant: str, more: str = "") -> str:
    return f'[[key]]\ntenant = "{tenant}"\nsha256 = "{sha256(token.encode()).hexdigest()}"\n{more}\n'


def bearer(token: str) -> str:
    return f"authorization: Bearer {token}"


async def hello(connection: Connection) -> None:
    await connection.stream("Hel", "lo")


BUDGET = '[[policy]]\nuse = "budget"\ntokens = 1000\n'


@pytest.mark.parametrize(
    "header",
    ["x: y", "authorization: Bearer", "authorization: Bearer ", "authorization: Bearer nope", "authorization: Basic secret-a", "authorization: secret-a", f"authorization: Bearer {sha256(b'secret-a').hexdigest()}"],
)  # fmt: skip
async def test_unknown_key(tmp_path: Path, header: str) -> None:
    """Once there are keys, nothing reaches upstream without one of them: 401, in the form of the path."""
    async with upstream(hello) as up, sidecar(settings_of(tmp_path, up.url, key("secret-a", "a"))) as served:
        status, headers, body = await served.post(V1, HI, header)
        chat_status, _, chat = await served.post("/api/chat", CHAT, header)
        models_status, _, _ = await served.get("/v1/models", header)
        health, _, _ = await served.get("/healthz", header)
        assert not up.requests

    assert (status, chat_status, models_status, health) == (401, 401, 401, 200)
    assert json.loads(body)["error"]["code"] == json.loads(chat)["code"] == "unauthorized"
    assert (headers["www-authenticate"], headers["x-should-retry"]) == ("Bearer", "false")


async def test_tenants(tmp_path: Path) -> None:
    """A key's calls count for its tenant, several keys may be of one, and no header says otherwise."""
    text = key("secret-a", "a") + key("second-a", "a") + key("secret-b", "b") + BUDGET
    async with upstream(hello) as up, sidecar(settings_of(tmp_path, up.url, text)) as served:
        for token in ("secret-a", "second-a", "secret-b"):
            spoof = ("x-tenant: b", "tenant: b", "x-forwarded-user: b", "openai-organization: b")
            assert (await served.post(V1, HI | {"tenant": "b", "user": "b"}, bearer(token), *spoof))[0] == 200
        accounts = {each.identity: each.spent for each in await served.gateway.policy_services.store.accounts()}
        sent = [request.header("authorization") for request in up.requests]

    assert accounts.keys() == {"a", "b"}
    assert accounts["a"] == 2 * accounts["b"]
    assert sent == [None, None, None], "a key of ours never goes upstream"


async def test_profiles_of_a_key(tmp_path: Path) -> None:
    """A key may use the profiles that it lists, however a call writes them; one that names none gets the first."""
    text = key("k", "a", 'profiles = ["Constrained", "balanced"]')
    async with upstream(hello) as up, sidecar(settings_of(tmp_path, up.url, text)) as served:
        statuses = [
            (await served.post(V1, HI, bearer("k"), f"x-profile: {name}"))[0]
            for name in ("constrained", " BALANCED ", "", "expanded", "EXPANDED", "free", "nope", "base")
        ]
        chats = [
            (await served.post("/api/chat", CHAT | {"profile": name}, bearer("k")))[0]
            for name in ("constrained", "budget", "moderate", " Expanded", "free", "nope")
        ]
        await served.post("/api/chat", CHAT, bearer("k"))
        assert up.requests[-1].body["max_tokens"] == 150, "the first: constrained"
        status, _, body = await served.post("/api/chat", CHAT | {"profile": "expanded"}, bearer("k"))

    assert statuses == [200, 200, 200, 403, 403, 403, 403, 403]
    assert chats == [200, 200, 200, 403, 403, 200]
    assert (status, json.loads(body)["code"]) == (403, "forbidden")


async def test_models_of_a_key(tmp_path: Path) -> None:
    """A key may use the models that it lists, those that a router is told to fall back to among them."""
    text = key("k", "a", 'models = ["gpt-4o-mini", "llama-*"]')
    async with upstream(hello) as up, sidecar(settings_of(tmp_path, up.url, text, model=None)) as served:
        bodies: list[dict[str, Any]] = [
            {"model": "gpt-4o-mini"}, {"model": "llama-3"}, {"model": "gpt-4o"}, {"model": "GPT-4o-mini"}, {"model": ""}, {"model": None},
            {"model": "llama-3", "models": ["llama-2", "gpt-4o"]}, {"model": "llama-3", "models": ["llama-2"]},
        ]  # fmt: skip
        statuses = [(await served.post(V1, HI | body, bearer("k")))[0] for body in bodies]
        _, _, refused = await served.post(V1, HI | {"model": "gpt-4o"}, bearer("k"))
        assert len(up.requests) == statuses.count(200)

    assert statuses == [200, 200, 403, 403, 403, 403, 403, 200]
    assert json.loads(refused)["error"] == {
        "message": "This key may not use the model 'gpt-4o'.",
        "type": "permission_error",
        "param": "model",
        "code": "forbidden",
    }


async def test_limits_of_a_key(tmp_path: Path) -> None:
    """A key's own limits take the place of the chain's, higher or lower; a profile still only tightens them."""
    text = (
        key("rich", "rich", "limits = { budget = { tokens = 5000 }, rate = { requests = 9 } }")
        + key("poor", "poor", "limits = { budget = { tokens = 300 } }")
        + '[[policy]]\nuse = "rate"\nrequests = 5\n'
        + BUDGET
        + "[profile.small]\nbudget = { tokens = 400 }\nrate = { requests = 4 }\n"
    )
    async with upstream(hello) as up, sidecar(settings_of(tmp_path, up.url, text)) as served:
        limits = {}
        for name in ("rich", "poor"):
            for profile in ("", "small"):
                _, headers, _ = await served.post(V1, HI, bearer(name), f"x-profile: {profile}")
                limits[name, profile] = headers["ratelimit-policy"]

    assert limits == {
        ("rich", ""): '"rate";q=9;w=60, "budget";q=5000;w=86400',
        ("rich", "small"): '"rate";q=4;w=60, "budget";q=400;w=86400',
        ("poor", ""): '"rate";q=5;w=60, "budget";q=300;w=86400',
        ("poor", "small"): '"rate";q=4;w=60, "budget";q=300;w=86400',
    }


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("key = 3\n[store]", "key: expected a list of tables; write each key below [[key]]"),
        ("[[key]]\ntenant = 'a'", "key[0].sha256: required key is missing; set it to a string"),
        ("[[key]]\ntenant = 'a'\nsha256 = 'sk-secret'", "key[0].sha256: not a SHA-256 (64 hexadecimal digits); create key and hash with `sidecar key new`"),
        (key("k", " "), "key[0].tenant: invalid name; use 1 to 128 printable characters"),
        (key("k", "a", "profile = []"), "key[0].profile: unknown key; did you mean 'profiles'?"),
        (key("k", "a", "profiles = ['x']"), "key[0].profiles[0]: unknown profile 'x'; use one of balanced, constrained, expanded"),
        (key("k", "a", "models = []"), "key[0].models: invalid value []: expected a non-empty list; see `sidecar config` for an example"),
        (key("k", "a") + key("k", "b"), "key[1].sha256: same key as key[0]; create a separate key for each with `sidecar key new`"),
        (key("k", "a", "limits = { budgt = { tokens = 1 } }"), "key[0].limits.budgt: unknown key; did you mean 'budget'?"),
        (key("k", "a", "limits = { budget = { tokens = 0 } }"), "key[0].limits.budget.tokens: invalid value 0: expected a whole number >= 1; see `sidecar config` for an example"),
        (key("k", "a", "limits = { budget = { window = 'hour' } }"), "key[0].limits.budget.window: cannot differ between keys; they share one counter: set it in [[policy]] instead"),
        (key("k", "a", "limits = { budget = 3 }"), "key[0].limits.budget: expected a table; write budget = { field = value }"),
        ("[server]\ntrusted_proxies = ['10.0.0.0/99']", "server.trusted_proxies[0]: '10.0.0.0/99' is not an IP network; write an address like '10.0.0.7' or a network like '10.0.0.0/8'"),
        ("[server]\nproxy_header = 'x-real-ip'", "server.proxy_header: invalid value 'x-real-ip': expected one of x-forwarded-for, forwarded; omit proxy_header for the default 'x-forwarded-for'"),
    ],
)  # fmt: skip
def test_faults(tmp_path: Path, text: str, line: str) -> None:
    """Every fault of a key is named at its place, with the cure, and no key is shown."""
    with pytest.raises(ConfigError) as found:
        settings_of(tmp_path, "http://h/v1", text)
    assert [fault.line("F").removeprefix("F: ") for fault in found.value.faults] == [line]
    assert "sk-secret" not in str(found.value)


def test_new_key(tmp_path: Path) -> None:
    """`sidecar key new` prints the key on its first line, then the table that lets it in; each is another."""
    outputs = [ran("key", "new", "--tenant", 'my "team"', folder=tmp_path) for _ in range(2)]

    token, _, table = outputs[0][1].partition("\n")
    settings = settings_of(tmp_path, "http://h/v1", table)
    assert (outputs[0][0], token[:11], len(token)) == (0, "sk-sidecar-", 54)
    assert settings.keys[0].tenant == 'my "team"'
    assert settings.keys[0].digest == sha256(token.encode()).digest()
    assert outputs[0][1] != outputs[1][1]


XFF = "x-forwarded-for"


@pytest.mark.parametrize(
    ("networks", "kind", "peer", "headers", "client"),
    [
        ([], XFF, "10.0.0.1", [(XFF, "1.1.1.1")], "10.0.0.1"),
        (["10.0.0.0/8"], XFF, "9.9.9.9", [(XFF, "1.1.1.1")], "9.9.9.9"),
        (["10.0.0.0/8"], XFF, "10.0.0.1", [], "10.0.0.1"),
        (["10.0.0.0/8"], XFF, "10.0.0.1", [(XFF, "1.1.1.1")], "1.1.1.1"),
        (["10.0.0.0/8"], XFF, "10.0.0.1", [(XFF, "6.6.6.6, 1.1.1.1")], "1.1.1.1"),
        (["10.0.0.0/8"], XFF, "10.0.0.1", [(XFF, "6.6.6.6, 1.1.1.1, 10.0.0.2")], "1.1.1.1"),
        (["10.0.0.0/8"], XFF, "10.0.0.1", [(XFF, "6.6.6.6"), (XFF, "1.1.1.1")], "1.1.1.1"),
        (["10.0.0.0/8"], XFF, "10.0.0.1", [(XFF, "1.1.1.1, nonsense")], "10.0.0.1"),
        (["10.0.0.0/8"], XFF, "10.0.0.1", [(XFF, "10.0.0.3, 10.0.0.2")], "10.0.0.3"),
        (["10.0.0.0/8"], XFF, "10.0.0.1", [("forwarded", "for=6.6.6.6")], "10.0.0.1"),
        (["10.0.0.0/8"], XFF, "10.0.0.1", [(XFF, "1.1.1.1:4711")], "1.1.1.1"),
        (["::1"], XFF, "::1", [(XFF, "2001:db8::5")], "2001:db8::5"),
        (["::1"], XFF, "::1", [(XFF, "[2001:db8::5]:443")], "2001:db8::5"),
        (["127.0.0.1"], XFF, "::ffff:127.0.0.1", [(XFF, "1.1.1.1")], "1.1.1.1"),
        (["10.0.0.1"], "forwarded", "10.0.0.1", [("forwarded", 'for=1.1.1.1;proto=http, for="[2001:db8::5]:1";by=x')], "2001:db8::5"),
        (["10.0.0.1"], "forwarded", "10.0.0.1", [("forwarded", "proto=http;For=1.1.1.1")], "1.1.1.1"),
        (["10.0.0.1"], "forwarded", "10.0.0.1", [("forwarded", "for=unknown")], "10.0.0.1"),
        (["10.0.0.1"], "forwarded", "10.0.0.1", [(XFF, "6.6.6.6")], "10.0.0.1"),
    ],
)  # fmt: skip
def test_proxies(networks: list[str], kind: str, peer: str, headers: list[tuple[str, str]], client: str) -> None:
    """The client is the last address that no trusted proxy has, by the one header that those write."""
    scope = {"client": (peer, 1), "headers": [(name.encode(), value.encode()) for name, value in headers]}

    assert TrustedProxies(networks, kind).client(scope) == client


async def test_spoofed_address(tmp_path: Path) -> None:
    """A client cannot buy room by making addresses up, before and behind a trusted proxy."""
    rate = '[[policy]]\nuse = "rate"\nrequests = 2\nby = "ip"\n'
    for trusted, passed in (("", 2), ('[server]\ntrusted_proxies = ["127.0.0.1"]\n', 2)):
        async with upstream(hello) as up, sidecar(settings_of(tmp_path, up.url, trusted + rate)) as served:
            statuses = [
                (await served.post(V1, HI, f"x-forwarded-for: 6.6.6.{at}, 1.1.1.1", f"forwarded: for=7.7.7.{at}"))[0]
                for at in range(6)
            ]
            assert (statuses.count(200), len(up.requests)) == (passed, passed)
