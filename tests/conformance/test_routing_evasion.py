"""Fields by which clients could evade rules for models or ceilings, at an upstream that obeys every field."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from api_keys import key
from obedient_router import CHEAP, obedient, reading_of
from places import ROOT
from routing_bodies import CEILINGS, EVASIONS, LEGITIMATE, MODELS, ROUTES, Fate
from scripts import answers
from serving import Sidecar, settings_of, sidecar
from wire import Upstream, eventually, upstream

pytestmark = pytest.mark.anyio

V1 = "/v1/chat/completions"
CEILING = 5
HELLO = {"model": CHEAP, "messages": [{"role": "user", "content": "hi"}], "max_tokens": CEILING}
MOST_TOKENS_OF_A_CALL = 60
"""Tokens of the prompt and of an answer with the ceiling of the table."""
MODES = ("any", "known")
PRICES = {"cheap": 1.0, "dear": 1_000.0, "elsewhere": 1_000.0}
RULES = (
    "".join(
        key(f"{kind}-{mode}", f"{kind}-{mode}", f'fields = "{mode}"\n{more}')
        for mode in MODES
        for kind, more in (("keyed", 'models = ["cheap", "cheap-*"]'), ("priced", ""), ("plain", ""))
    )
    + f"""
[prices."cheap*"]
input = 1.0
output = {PRICES["cheap"]}
[prices.dear]
input = 1.0
output = {PRICES["dear"]}
[[policy]]
use = "budget"
name = "dollars"
usd = 1_000_000
only = {{ tenant = "priced-*" }}
[[policy]]
use = "budget"
tokens = 1_000_000_000
floor = 1
reserve = "bound"
only = {{ tenant = "plain-*" }}
"""
)


async def called(served: Sidecar, up: Upstream, tenant: str, fields: dict[str, Any]) -> tuple[int, Any, dict[str, Any]]:
    """Return the status, the answer, and the body that reached upstream; an empty one if none did."""
    before = len(up.requests)
    status, _, answer = await served.post(V1, HELLO | fields, f"authorization: Bearer {tenant}")
    await eventually(lambda: len(served.gateway.active_calls) == 0)
    sent = up.requests[before:]
    assert len(sent) <= 1
    return status, json.loads(answer) if answer.startswith(b"{") else {}, sent[0].body if sent else {}


async def spent(served: Sidecar, tenant: str) -> int:
    """Return what the budgets of *tenant* have counted."""
    accounts = await served.gateway.policy_services.store.accounts()
    return sum(account.spent for account in accounts if account.identity == tenant)


def groups(table: Mapping[str, object]) -> list[list[str]]:
    """Return the names of *table* in groups that share a sidecar, which saves half a minute."""
    names = list(table)
    return [names[at : at + 20] for at in range(0, len(names), 20)]


def first(names: list[str]) -> str:
    """Return the id of a group."""
    return f"{names[0]} ..."


def test_table_is_large_enough() -> None:
    """The table of evasions has at least 120 bodies, that of legitimate fields at least 40."""
    assert len(EVASIONS) >= 120
    assert len(LEGITIMATE) >= 40
    assert len(EVASIONS) == len(ROUTES) + len(MODELS) + len(CEILINGS)


@pytest.mark.parametrize("name", [*ROUTES, *MODELS])
def test_router_obeys_each_evasion(name: str) -> None:
    """Without the sidecar, each body of the table is served by another model or at another price."""
    read = reading_of(HELLO | EVASIONS[name])
    assert read.model != CHEAP or read.factor > 1


@pytest.mark.parametrize("name", CEILINGS)
def test_server_obeys_each_ceiling(name: str) -> None:
    """Without the sidecar, each further ceiling or count of the table makes a longer answer."""
    assert reading_of(HELLO | CEILINGS[name]).tokens > CEILING


@pytest.mark.parametrize("names", groups(EVASIONS), ids=first)
async def test_rules_for_models_are_not_evaded(tmp_path: Path, names: list[str]) -> None:
    """No field makes a router serve a model that the key may not use, or one for less than its price.

    A body without a rule for models is forwarded. With `fields = "known"` no answer is longer than its ceiling.
    """
    async with upstream(obedient) as up, sidecar(settings_of(tmp_path, up.url, RULES, model=CHEAP)) as served:
        for name, mode in product(names, MODES):
            status, answer, sent = await called(served, up, f"keyed-{mode}", EVASIONS[name])
            assert status in ((200,) if sent else (403, 400)), (name, answer)
            assert not sent or reading_of(sent).model == CHEAP, name

            before = await spent(served, f"priced-{mode}")
            status, answer, sent = await called(served, up, f"priced-{mode}", EVASIONS[name])
            charged = await spent(served, f"priced-{mode}") - before
            assert status == (200 if sent else 400), (name, answer)
            cost = charged
            if sent:
                read = reading_of(sent)
                cost = math.floor(PRICES[read.model] * read.tokens * read.factor)
            assert charged >= cost, (name, sent)
            assert sent or not charged, name

            status, _, sent = await called(served, up, f"plain-{mode}", EVASIONS[name])
            exceeds = bool(sent) and reading_of(sent).tokens > CEILING
            assert exceeds == (mode == "any" and name in CEILINGS), (name, "the list of the documents")
        assert await spent(served, "plain-known") < len(names) * MOST_TOKENS_OF_A_CALL


@pytest.mark.parametrize("names", groups(ROUTES), ids=first)
async def test_refusal_names_field_and_setting(tmp_path: Path, names: list[str]) -> None:
    """A refused field is named, with the setting that forbids it: 403 for `models` of a key, 400 for a policy's."""
    async with upstream(obedient) as up, sidecar(settings_of(tmp_path, up.url, RULES, model=CHEAP)) as served:
        for name in names:
            (field,) = ROUTES[name]
            for tenant, expected, setting in (
                ("keyed-any", (403, "forbidden"), "`models`"),
                ("priced-any", (400, "invalid_request"), "(`prices` of the policy 'dollars')"),
            ):
                status, answer, _ = await called(served, up, tenant, ROUTES[name])
                if field == "service_tier" and tenant == "keyed-any":
                    assert status == 200, "the tier changes the price alone"
                    continue
                error = answer["error"]
                assert ((status, error["code"]), error["param"].startswith(field)) == (expected, True), (name, error)
                assert f"'{error['param']}'" in error["message"]
                assert setting in error["message"]
                assert field == "service_tier" or "ask the operator to have such fields dropped" in error["message"]


@pytest.mark.parametrize("names", groups(LEGITIMATE), ids=first)
async def test_legitimate_fields_pass_where_no_rule_forbids_them(tmp_path: Path, names: list[str]) -> None:
    """Fields of known servers reach upstream as sent without rules; the table has what rules and `known` make of them."""
    async with upstream(answers) as up:
        async with sidecar(settings_of(tmp_path, up.url)) as served:
            for name in names:
                fate = LEGITIMATE[name]
                assert fate_of(fate, await called(served, up, "none", fate.fields)) == "sent", name
        async with sidecar(settings_of(tmp_path, up.url, RULES, model=CHEAP)) as served:
            for name, kind in product(names, ("keyed", "priced", "plain")):
                fate = LEGITIMATE[name]
                rule = "sent" if fate.keyed == "sent" or kind == "plain" else 403 if kind == "keyed" else 400
                found = [fate_of(fate, await called(served, up, f"{kind}-{mode}", fate.fields)) for mode in MODES]
                assert found == [rule, fate.known], (name, kind)


def fate_of(fate: Fate, result: tuple[int, Any, dict[str, Any]]) -> str | int:
    """Return what happened to the fields: `sent`, `part`, `dropped`, or the status of a refusal."""
    status, _, sent = result
    if status != 200:
        return status
    found = {name: sent[name] for name in fate.fields if name in sent}
    return "sent" if found == fate.fields else "part" if found else "dropped"


@pytest.mark.parametrize("name", CEILINGS)
def test_documents_list_what_exceeds(name: str) -> None:
    """docs/configuration.md lists the ceilings and counts that limits do not read."""
    (field,) = CEILINGS[name]
    listed = (ROOT / "docs" / "configuration.md").read_text().split("## Fields of requests")[1].split("\n## ")[0]
    assert f"`{field if field in TOP else name}`" in listed


TOP = frozenset(name for name in CEILINGS if "." not in name)

UPSTREAMS = """
[[upstream]]
base_url = "{strict}"
fields = "known"
{more}
"""


async def test_upstream_receives_documented_fields_alone(tmp_path: Path) -> None:
    """With `fields = "known"` on the only upstream, undocumented fields are dropped for every client and noted."""
    fields = {"max_length": 9, "options": {"num_predict": 9, "top_k": 1}, "fallbacks": ["dear"], "\u00e9 sk-secret": 1}
    async with upstream(answers) as up:
        text = UPSTREAMS.format(strict=up.url, more="")
        async with sidecar(settings_of(tmp_path, None, text)) as served:
            seen: list[Any] = []
            served.gateway.observe = seen.append
            status, _, sent = await called(served, up, "none", fields)

    assert (status, sent) == (200, HELLO | {"options": {"top_k": 1}})
    (record,) = seen
    assert record.notes == (
        "dropped fields that are not documented: max_length, options.num_predict, fallbacks, 1 more",
    )


async def test_second_upstream_receives_all_fields(tmp_path: Path) -> None:
    """Of two upstreams, only the one with `fields = "known"` does not receive undocumented fields."""
    fields = {"max_length": 9, "options": {"num_predict": 9}, "stream_options": {"x": 1}, "stream": True}

    async def down(connection: Any) -> None:
        await connection.answer(503, b"{}")

    more = '[[upstream]]\nbase_url = "{}"\n[[policy]]\nuse = "fallback"\n'
    async with upstream(down) as strict, upstream(answers) as other:
        text = UPSTREAMS.format(strict=strict.url, more=more.format(other.url))
        async with sidecar(settings_of(tmp_path, None, text)) as served:
            seen: list[Any] = []
            served.gateway.observe = seen.append
            status, _, _ = await served.post(V1, HELLO | fields)

    assert status == 200
    usage = {"include_usage": True}
    assert strict.requests[0].body == HELLO | {"options": {}, "stream": True, "stream_options": usage}
    assert other.requests[0].body == HELLO | fields | {"stream_options": {"x": 1} | usage}
    assert [note for note in seen[0].notes if "max_length" in note] == [
        "upstream upstream-1: dropped fields that are not documented: max_length, options.num_predict, stream_options.x"
    ]


async def test_fields_of_policies_are_not_judged(tmp_path: Path) -> None:
    """Fields that a policy sets reach an upstream of documented fields, and pass rules for models."""
    (tmp_path / "own_fields.py").write_text(
        "from policies import Policy\n\n\nclass OwnFields(Policy, frozen=True):\n"
        '    async def admit(self, call):\n        call.body["fallbacks"] = ["cheap-2"]\n        call.body["top_z"] = 3\n'
    )
    policies = '[[policy]]\nuse = "own_fields:OwnFields"\n'
    async with upstream(answers) as strict, upstream(answers) as other:
        for more in (policies, f'[[upstream]]\nbase_url = "{other.url}"\n{policies}'):
            text = key("k", "t", 'models = ["cheap"]') + UPSTREAMS.format(strict=strict.url, more=more)
            async with sidecar(settings_of(tmp_path, None, text)) as served:
                status, _, sent = await called(served, strict, "k", {"top_z": 2})
            assert (status, sent) == (200, HELLO | {"fallbacks": ["cheap-2"], "top_z": 3})


@pytest.mark.parametrize("rule", ['only = { model = "dear*" }', 'by = "model"', 'by = ["tenant", "model"]'])
async def test_limit_of_a_model_is_not_evaded(tmp_path: Path, rule: str) -> None:
    """A limit that applies to some models, or counts by model, refuses routing fields too, and matches in any case."""
    text = f'[[policy]]\nuse = "rate"\nrequests = 1\n{rule}\n'
    async with upstream(obedient) as up, sidecar(settings_of(tmp_path, up.url, text)) as served:
        refused = await called(served, up, "none", {"fallbacks": ["dear"]})
        statuses = [(await called(served, up, "none", {"model": name}))[0] for name in ("dear", "DEAR")]
    option = rule.partition(" ")[0]
    assert (refused[0], f"(`{option}` of the policy 'rate')" in refused[1]["error"]["message"]) == (400, True)
    assert statuses == [200, 429]


async def test_rule_of_another_path_does_not_judge(tmp_path: Path) -> None:
    """A policy that does not apply to the path or the tenant of a call does not make it refuse fields."""
    text = '[[policy]]\nuse = "rate"\nrequests = 9\nonly = { path = "/api/chat", model = "dear" }\n'
    async with upstream(obedient) as up, sidecar(settings_of(tmp_path, up.url, text)) as served:
        assert (await called(served, up, "none", {"fallbacks": ["dear"]}))[0] == 200


async def test_listed_variant_is_permitted(tmp_path: Path) -> None:
    """A routing variant or preset may be used where the key lists it literally."""
    text = key("k", "t", 'models = ["cheap*", "cheap-1:nitro", "@preset/x"]')
    async with upstream(answers) as up, sidecar(settings_of(tmp_path, up.url, text)) as served:
        found = [
            (await called(served, up, "k", {"model": name}))[0]
            for name in ("cheap-1:nitro", "@preset/x", "cheap-2:nitro", "cheap-1:free", "cheap-1:8b")
        ]
    assert found == [200, 200, 403, 200, 200]


@pytest.mark.parametrize("path", [V1, "/api/chat"])
async def test_default_model_of_the_operator_is_not_judged(tmp_path: Path, path: str) -> None:
    """The operator's default model may have a routing variant; only names of clients are judged."""
    text = '[[policy]]\nuse = "budget"\nusd = 9\n[prices."*"]\ninput = 1\noutput = 1\n'
    body = {"messages": HELLO["messages"]}
    async with upstream(answers) as up, sidecar(settings_of(tmp_path, up.url, text, model="gpt:nitro")) as served:
        assert (await served.post(path, body))[0] == 200
        assert (await served.post(V1, body | {"model": "gpt:nitro"}))[0] == 400
    assert up.requests[0].body["model"] == "gpt:nitro"


@pytest.mark.parametrize("path", [V1, "/api/chat"])
@pytest.mark.parametrize(("models", "asked"), [('["cheap"]', "cheap"), ('["cheap", "dear"]', "dear")])
async def test_default_model_of_a_fallback_is_permitted(tmp_path: Path, path: str, models: str, asked: str) -> None:
    """A call that names no model is not served by another upstream's default model that its key may not use."""

    async def down(connection: Any) -> None:
        await connection.answer(503, b"{}")

    async with upstream(down) as first, upstream(answers) as other:
        text = key("k", "t", f"models = {models}") + '[[policy]]\nuse = "fallback"\n'
        for each, model in ((first, "cheap"), (other, "dear")):
            text += f'[[upstream]]\nbase_url = "{each.url}"\nmodel = "{model}"\n'
        async with sidecar(settings_of(tmp_path, None, text)) as served:
            status, _, _ = await served.post(path, {"messages": HELLO["messages"]}, "authorization: Bearer k")

    assert (status, [each.body["model"] for each in other.requests]) == (200, [asked])


async def test_routing_headers_and_queries_stay_here(tmp_path: Path) -> None:
    """No header by which a known router chooses a model reaches upstream by default, and no query of the client does."""
    routing = ["x-portkey-config", "x-portkey-provider", "helicone-fallbacks", "helicone-target-url", "x-litellm-tags"]
    routing += ["x-litellm-api-key", "openai-model", "x-ai-eg-model", "x-model", "model", "x-session-id"]
    headers = [f"{name}: dear" for name in routing]
    async with upstream(answers) as up, sidecar(settings_of(tmp_path, up.url)) as served:
        status, _, _ = await served.post(f"{V1}?model=dear&api-version=9", HELLO, *headers)
        assert status == 200
        assert not [name for name in routing if up.requests[0].header(name) is not None]
        assert b"dear" not in up.requests[0].head
