"""API keys of clients: who may call, for which tenant a call counts, and which profiles and models it may use."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from api_keys import key
from msgspec.structs import replace
from scripts import hello
from serving import CHAT, settings_of, sidecar
from upstream_tables import lists
from wire import upstream

from policies import Call, Policy

pytestmark = pytest.mark.anyio

HI = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 10, "stream": True}
V1 = "/v1/chat/completions"


def bearer(token: str) -> str:
    return f"authorization: Bearer {token}"


BUDGET = '[[policy]]\nuse = "budget"\ntokens = 1000\n'


@pytest.mark.parametrize(
    "header",
    ["x: y", "api-key: nope", "x-api-key: ", "api-key: Bearer secret-a", "x-goog-api-key: secret-a", "authorization: Bearer", "authorization: Bearer ", "authorization: Bearer nope", "authorization: Basic secret-a", "authorization: secret-a", f"authorization: Bearer {sha256(b'secret-a').hexdigest()}"],
)  # fmt: skip
async def test_unknown_key_is_401(tmp_path: Path, header: str) -> None:
    """With configured keys, a call without one of them is 401 in the format of its path, and reaches no upstream."""
    async with upstream(hello) as up, sidecar(settings_of(tmp_path, up.url, key("secret-a", "a"))) as served:
        status, headers, body = await served.post(V1, HI, header)
        chat_status, _, chat = await served.post("/api/chat", CHAT, header)
        models_status, _, _ = await served.get("/v1/models", header)
        health, _, _ = await served.get("/healthz", header)
        assert not up.requests

    assert (status, chat_status, models_status, health) == (401, 401, 401, 200)
    assert json.loads(body)["error"]["code"] == json.loads(chat)["code"] == "unauthorized"
    assert (headers["www-authenticate"], headers["x-should-retry"]) == ("Bearer", "false")


async def test_call_counts_for_the_tenant_of_its_key(tmp_path: Path) -> None:
    """A call counts for the tenant of its key, which several keys can share; no header changes that."""
    text = key("secret-a", "a") + key("second-a", "a") + key("secret-b", "b") + BUDGET
    async with upstream(hello) as up, sidecar(settings_of(tmp_path, up.url, text)) as served:
        for token in ("secret-a", "second-a", "secret-b"):
            spoof = ("x-tenant: b", "tenant: b", "x-forwarded-user: b", "openai-organization: b")
            assert (await served.post(V1, HI | {"tenant": "b", "user": "b"}, bearer(token), *spoof))[0] == 200
        accounts = {each.identity: each.spent for each in await served.gateway.policy_services.store.accounts()}
        sent = [request.header("authorization") for request in up.requests]

    assert accounts.keys() == {"a", "b"}
    assert accounts["a"] == 2 * accounts["b"]
    assert sent == [None, None, None], "a key of the sidecar is never sent to upstream"


@pytest.mark.parametrize("path", [V1, "/api/chat", "/v1/models"])
@pytest.mark.parametrize("name", ["api-key", "X-API-Key", "authorization"])
async def test_key_is_accepted_in_the_headers_of_azure_and_anthropic(tmp_path: Path, name: str, path: str) -> None:
    """A key is accepted in `api-key` and `x-api-key` too; like every key it reaches neither upstream nor policies."""
    seen: list[Any] = []

    class Sees(Policy, frozen=True):
        async def admit(self, call: Call) -> None:
            seen.append([*call.headers.items(), *call.forwarded_headers.items(), call.tenant])

    header = bearer("secret-b") if name == "authorization" else f"{name}: secret-b"
    text = key("secret-a", "a") + key("secret-b", "b")
    async with upstream(lists) as up:
        settings = settings_of(tmp_path, up.url, text)
        base = replace(settings.base, policies=(Sees(),))
        accesses = tuple(replace(each, base=base, profiles={}) for each in settings.keys)
        async with sidecar(replace(settings, keys=accesses)) as served:
            status, _, _ = (
                await served.get(path, header) if path == "/v1/models" else await served.post(path, HI, header)
            )

    assert status == 200
    assert "secret-b" not in str(seen)
    assert seen[0][-1] == "b"
    assert b"secret-b" not in up.requests[0].head


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        (("authorization: Bearer secret-a", "x-api-key: secret-a", "api-key: secret-a"), 200),
        (("authorization: Bearer for-a-proxy", "x-api-key: secret-a"), 200),
        (("authorization: Basic dTpw", "api-key: secret-a"), 200),
        (("authorization: Bearer secret-a", "api-key: placeholder"), 200),
        (("authorization: Bearer secret-a", "x-api-key: secret-b"), 401),
        (("api-key: secret-b", "x-api-key: secret-a"), 401),
        (("authorization: Bearer nope", "x-api-key: neither"), 401),
    ],
)  # fmt: skip
async def test_two_different_keys_are_refused(tmp_path: Path, headers: tuple[str, ...], expected: int) -> None:
    """A value that is no configured key is ignored beside one that is; two different configured keys are refused."""
    text = key("secret-a", "a") + key("secret-b", "b")
    async with upstream(hello) as up, sidecar(settings_of(tmp_path, up.url, text)) as served:
        status, _, body = await served.post(V1, HI, *headers)
        sent = b"".join(request.head for request in up.requests)

    assert status == expected
    assert b"secret-" not in sent
    if expected != 200:
        ambiguous = "secret-a" in str(headers)
        assert ("different API keys" in json.loads(body)["error"]["message"]) == ambiguous


async def test_key_is_limited_to_its_profiles(tmp_path: Path) -> None:
    """A key may use the profiles that it lists, in any case; a call that names none gets the first one."""
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


async def test_key_is_limited_to_its_models(tmp_path: Path) -> None:
    """A key may use the models that it lists; each fallback model of the call must be listed too."""
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


async def test_limits_of_a_key_replace_those_of_the_chain(tmp_path: Path) -> None:
    """A key's own limits replace those of the chain, higher or lower; a profile only tightens them."""
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
                limits[name, profile] = [headers[f"x-ratelimit-limit-{unit}"] for unit in ("requests", "tokens")]

    assert limits == {
        ("rich", ""): ["9", "5000"],
        ("rich", "small"): ["4", "400"],
        ("poor", ""): ["5", "300"],
        ("poor", "small"): ["4", "300"],
    }
