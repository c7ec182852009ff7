"""The policy `params` on the whole path: what upstream gets, what is reserved and recorded, and what clients cannot do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from api_keys import key
from recording import recorded
from scripts import hello
from serving import CHAT, settings_of, sidecar
from wire import upstream

pytestmark = pytest.mark.anyio

V1 = "/v1/chat/completions"
HI: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": True}
KEYED = key("k", "a", "models = ['m']")
BEARER = "authorization: Bearer k"
PARAMS = '[[policy]]\nuse = "params"\n'
LIMITS = '[[policy]]\nuse = "max_tokens"\noutput = 300\n[[policy]]\nuse = "budget"\ntokens = 1000\n'


@pytest.mark.parametrize("text", [PARAMS + "set = { max_tokens = 500 }\n" + LIMITS, LIMITS + PARAMS + "set = { max_tokens = 500 }\n"], ids=["before", "behind"])  # fmt: skip
@pytest.mark.parametrize(("path", "body"), [(V1, HI), (V1, HI | {"stream": False}), ("/api/chat", CHAT)])
async def test_ceiling_never_exceeds_a_limit(tmp_path: Path, text: str, path: str, body: dict[str, Any]) -> None:
    """A ceiling that is set does not exceed `max_tokens`, in any order of the chain, on each route."""
    async with upstream(hello) as up, sidecar(settings_of(tmp_path, up.url, text)) as served:
        await served.post(path, body)
        await served.post(path, body | {"max_tokens": 40} if path == V1 else body)
        ceilings = [request.body["max_tokens"] for request in up.requests]
    assert ceilings == ([300, 40] if path == V1 else [300, 300])


async def test_changes_are_recorded_without_values(tmp_path: Path) -> None:
    """The record names the changed fields, and has no value of the client or of the file."""
    text = (
        PARAMS
        + 'set = { user = "secret-a" }\ndrop = ["seed"]\nrename = { x_stop = "stop" }\ndefault = { top_p = 0.5 }\n'
    )
    async with upstream(hello) as up, recorded(tmp_path, up, text) as it:
        await it.served.post(V1, HI | {"seed": 81_818, "x_stop": "secret-b", "user": "secret-c"})
        record = await it.one()
        sent = up.requests[0].body
    assert record.notes == ("params: renamed x_stop to stop, dropped seed, default top_p, set user",)
    assert (sent["stop"], sent["user"], sent["top_p"], "seed" in sent) == ("secret-b", "secret-a", 0.5, False)


async def test_policy_applies_where_only_says(tmp_path: Path) -> None:
    """`only` selects the calls by path, tenant and model."""
    text = "".join(
        f'[[policy]]\nuse = "params"\nname = "p{at}"\nonly = {{ {only} }}\nset = {{ f{at} = 1 }}\n'
        for at, only in enumerate(['path = "/api/*"', 'tenant = "a"', 'model = "m*"', 'model = "x"'])
    )
    keys = key("ka", "a") + key("kb", "b")
    async with upstream(hello) as up, sidecar(settings_of(tmp_path, up.url, keys + text)) as served:
        await served.post(V1, HI, "authorization: Bearer ka")
        await served.post(V1, HI | {"model": "x"}, "authorization: Bearer kb")
        await served.post("/api/chat", CHAT, "authorization: Bearer kb")
        added = [[name for name in ("f0", "f1", "f2", "f3") if name in request.body] for request in up.requests]
    assert added == [["f1", "f2"], ["f3"], ["f0"]]


async def test_operators_value_passes_the_rules_for_models(tmp_path: Path) -> None:
    """A field that a client with `models` may not send can be set by the operator, and a client's own is still refused."""
    text = KEYED + PARAMS + 'set = { provider = { order = ["local"] } }\n'
    async with upstream(hello) as up, sidecar(settings_of(tmp_path, up.url, text)) as served:
        status, _, _ = await served.post(V1, HI, BEARER)
        refused, _, body = await served.post(V1, HI | {"provider": {"order": ["dear"]}}, BEARER)
        sent = [request.body["provider"] for request in up.requests]
    assert (status, refused) == (200, 403)
    assert sent == [{"order": ["local"]}]
    assert json.loads(body)["error"]["param"] == "provider"


@pytest.mark.parametrize("fields", ["any", "known"])
async def test_renamed_value_is_a_plain_setting(tmp_path: Path, fields: str) -> None:
    """What a client sends under a renamed field is refused unless it is a number, a word, a switch or a list of them."""
    text = key("k", "a", f'fields = "{fields}"') + PARAMS + 'rename = { response_format = "stop" }\n'
    async with upstream(hello) as up, sidecar(settings_of(tmp_path, up.url, text)) as served:
        statuses = [
            (await served.post(V1, HI | {"response_format": value}, BEARER))[0]
            for value in ("word", ["a", 1], None, {"model": "dear"}, [{"model": "dear"}], [["a"]])
        ]
        sent = [request.body.get("stop") for request in up.requests]
    assert statuses == [200, 200, 200, 400, 400, 400]
    assert sent == ["word", ["a", 1], None]


@pytest.mark.parametrize("strict", ["key", "upstream", "second"])
async def test_operators_value_is_forwarded_with_known_fields(tmp_path: Path, strict: str) -> None:
    """With `fields = "known"`, fields that the policy sets are forwarded, also if the client sent an equal value."""
    async with upstream(hello) as up:
        known = {"upstream": ["known"], "second": ["any", "known"]}.get(strict, ["any"])
        text = "".join(
            f'[[upstream]]\nname = "u{at}"\nmodel = "m"\nbase_url = "{up.url}"\nfields = "{fields}"\n'
            for at, fields in enumerate(known)
        )
        if strict == "second":
            text += '[[policy]]\nuse = "to_last:ToLast"\n'
            (tmp_path / "to_last.py").write_text(
                "from policies import Call, Policy\n\n\nclass ToLast(Policy, frozen=True):\n"
                "    async def admit(self, call: Call) -> None:\n        call.upstream = 'u1'\n"
            )
        text += key("k", "a", 'fields = "known"' if strict == "key" else "")
        text += PARAMS + 'set = { own = 1, other = "word" }\ndefault = { third = true }\n'
        async with sidecar(settings_of(tmp_path, None, text, model=None)) as served:
            body = HI | {"own": 1, "other": "word", "third": None, "fourth": 1}
            assert (await served.post(V1, body, BEARER))[0] == 200
        sent = up.requests[0].body
    assert (sent.get("own"), sent.get("other"), sent.get("third"), "fourth" in sent) == (1, "word", True, False)
