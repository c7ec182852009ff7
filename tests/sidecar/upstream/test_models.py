"""`GET /v1/models` and `GET /v1/models/{id}` over real sockets: what upstream is asked, and what a client sees."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from urllib.parse import quote, unquote

import httpx
import msgspec
import pytest
from api_keys import key
from hypothesis import given
from hypothesis import strategies as st
from recording import SERVERS, recorded
from serving import settings_of, sidecar
from upstream_tables import FALLBACK, busy, table
from wire import Connection, upstream

from sidecar.upstream.routing.listed_names import ENTRIES_PER_ITERATION
from sidecar.upstream.routing.model_entries import shown_entries
from sidecar.wire.operations.models import MODEL_PREFIX, model_id

pytestmark = pytest.mark.anyio

LISTED = b'{"object":"list","data":[{"id":"gpt-4o-mini","owned_by":"o"},{"id":"gpt-4o"},{"id":"llama-3","x":{"y":1}}],"models":[{"name":"gpt-4o"}]}'
BEARER = "authorization: Bearer k"


def target(request: Connection) -> str:
    """Return the request target that an upstream received."""
    return request.head.split(b" ", 2)[1].decode()


async def tells(connection: Connection) -> None:
    """Answer with the list, or with an entry that has the last part of the path as its id."""
    path = target(connection).partition("?")[0]
    if path == "/v1/models":
        await connection.answer(200, LISTED)
    else:
        await connection.answer(200, json.dumps({"id": unquote(path.partition("/models/")[2])}).encode())


@SERVERS
@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("qwen3:8b", "qwen3:8b"),
        ("meta-llama/Llama-3.1-8B", "meta-llama/Llama-3.1-8B"),
        ("meta-llama%2FLlama-3.1-8B", "meta-llama%2FLlama-3.1-8B"),
        ("meta-llama%2fLlama-3.1-8B/", "meta-llama%2FLlama-3.1-8B"),
        ("accounts/fireworks/models/llama-v3p1", "accounts/fireworks/models/llama-v3p1"),
        ("ft:gpt-4o:org::id", "ft:gpt-4o:org::id"),
        ("@cf/meta/llama", "@cf/meta/llama"),
        ("our%20deployment", "our%20deployment"),
        ("mod%C3%A8le", "mod%C3%A8le"),
        ("x?api-version=1", "x"),
    ],
)
async def test_one_model_is_requested_by_its_id(
    tmp_path: Path, path: str, expected: str, protocol: type[asyncio.Protocol]
) -> None:
    """An id reaches upstream as it came, with slashes and colons; slashes stay encoded where the client encoded them."""
    async with upstream(tells) as up, recorded(tmp_path, up, protocol=protocol) as it:
        status, headers, body = await it.served.get(f"/v1/models/{path}")
        record = await it.one()

    assert (status, json.loads(body)["id"]) == (200, unquote(expected))
    assert [target(request) for request in up.requests] == [f"/v1/models/{expected}"]
    assert (record.route, record.operation, record.model_asked) == ("/v1/models/{id}", "models", unquote(expected))
    assert (record.status, record.input_tokens, record.output_tokens) == (200, 0, 0)
    assert headers["x-ratelimit-remaining-requests"] == "59"


@SERVERS
@pytest.mark.parametrize(
    "path",
    ["..", "../chat/completions", "%2e%2e/chat", "%2e%2e%2fchat", "a/../b", "a/%2e%2e/b", ".", "a/./b", "a//b", "%2Fx", "..;/x", "a;b", "%252e%252e/x", "a%3Fb", "a%23b", "a%5C..%5Cb", "a%00b", "a%0d%0ab", "%FF", "{id}", "x" * 257],
)  # fmt: skip
async def test_other_paths_do_not_reach_upstream(tmp_path: Path, path: str, protocol: type[asyncio.Protocol]) -> None:
    """What cannot be the id of a model is 404, and no request is sent: it could lead upstream to another path."""
    async with upstream(tells) as up, recorded(tmp_path, up, protocol=protocol) as it:
        status, _, body = await it.served.get(f"/v1/models/{path}")
        record = await it.one()

    assert (status, json.loads(body)["error"]["code"], up.requests) == (404, "not_found", [])
    assert (record.status, record.code, record.attempts) == (404, "not_found", 0)
    assert len(body) < 1_500


@given(st.one_of(st.text(max_size=20), st.text("aZ0.:@/-_%~ ;?#\\", max_size=30)))
def test_accepted_ids_stay_below_the_models(name: str) -> None:
    """Whatever id is accepted: the URL that httpx makes of it has exactly this id below `/models/`."""
    accepted = model_id(MODEL_PREFIX + name)
    if accepted is None:
        return
    for safe in (":@", ":@/"):
        url = httpx.URL(f"http://h/v1/models/{quote(accepted, safe=safe)}")
        assert unquote(url.raw_path.decode()) == f"/v1/models/{accepted}"
        assert (url.host, url.query, url.fragment) == ("h", b"", "")
        assert not {"..", "."} & set(unquote(url.raw_path.decode()).split("/"))


async def test_one_model_has_the_upstreams_name_and_parameters(tmp_path: Path) -> None:
    """The names of `models` and the parameters of `query` hold for one model as for completions."""
    more = ("models = { 'gpt-4o' = 'our deployment', 'org/*' = 'll/ama' }", "query = { api-version = '2024' }")
    async with upstream(tells) as up, sidecar(settings_of(tmp_path, None, table(up.url, *more))) as served:
        for name in ("gpt-4o", "org/x", "org%2Fx", "other"):
            assert (await served.get(f"/v1/models/{name}"))[0] == 200

    assert [target(request).removeprefix("/v1/models/") for request in up.requests] == [
        "our%20deployment?api-version=2024",
        "ll/ama?api-version=2024",
        "ll%2Fama?api-version=2024",
        "other?api-version=2024",
    ]


async def test_one_model_counts_in_rates_and_needs_a_key(tmp_path: Path) -> None:
    """One model passes keys and the chain: it counts in `rate`, and falls back to the next upstream."""
    text = key("k", "a") + '[[policy]]\nuse = "rate"\nrequests = 2\n' + FALLBACK
    async with (
        upstream(busy) as first,
        upstream(tells) as second,
        sidecar(settings_of(tmp_path, None, table(first.url) + table(second.url) + text)) as served,
    ):
        refused = await served.get("/v1/models/m")
        statuses = [(await served.get("/v1/models/m", BEARER))[0] for _ in range(3)]
        other = await served.get("/v1/models/m", BEARER, method="DELETE")

    assert (refused[0], statuses) == (401, [200, 200, 429])
    assert (other[0], other[1]["allow"]) == (405, "GET")
    assert len(first.requests) == len(second.requests) == 2


async def test_upstreams_404_for_one_model_is_passed_on(tmp_path: Path) -> None:
    """A model that upstream does not have is 404, with upstream's message."""

    async def unknown(connection: Connection) -> None:
        body = b'{"error": {"message": "The model `m` does not exist", "code": "model_not_found", "type": "t"}}'
        await connection.answer(404, body)

    async with upstream(unknown) as up, sidecar(settings_of(tmp_path, up.url)) as served:
        status, _, body = await served.get("/v1/models/m")

    assert (status, json.loads(body)["error"]["code"]) == (404, "model_not_found")
    assert "does not exist" in json.loads(body)["error"]["message"]


async def test_restricted_key_reads_only_its_models(tmp_path: Path) -> None:
    """A key with `models` reads only these, alone (403 for others) and in the list."""
    text = key("k", "a", 'models = ["gpt-4o-mini*", "llama-*"]') + key("all", "b")
    async with upstream(tells) as up, sidecar(settings_of(tmp_path, up.url, text)) as served:
        statuses = [
            (await served.get(f"/v1/models/{name}", BEARER))[0] for name in ("llama-3", "gpt-4o", "GPT-4o-mini")
        ]
        _, _, refused = await served.get("/v1/models/gpt-4o", BEARER)
        _, headers, listed = await served.get("/v1/models", BEARER)
        _, _, whole = await served.get("/v1/models", "authorization: Bearer all")

    assert statuses == [200, 403, 403]
    assert json.loads(refused)["error"]["message"] == "This key may not use the model 'gpt-4o'."
    assert listed == (b'{"object":"list","data":[{"id":"gpt-4o-mini","owned_by":"o"},{"id":"llama-3","x":{"y":1}}]}')
    assert int(headers["content-length"]) == len(listed)
    assert whole == LISTED


async def test_restricted_list_has_the_names_of_the_clients(tmp_path: Path) -> None:
    """The list of a restricted key has the names of `models` by which the key may call, not those that they stand for."""
    more = (
        "models = { chat = 'llama-3', 'fast-*' = 'gpt-4o', hidden = 'gpt-4o', gone = 'no-such', 'gpt-4o' = 'llama-3' }"
    )
    text = key("k", "a", 'models = ["chat", "gone", "fast-1", "gpt-4o"]')
    async with upstream(tells) as up, sidecar(settings_of(tmp_path, None, table(up.url, more) + text)) as served:
        _, _, listed = await served.get("/v1/models", BEARER)

    assert json.loads(listed)["data"] == [{"id": "chat", "x": {"y": 1}}, {"id": "gpt-4o", "x": {"y": 1}}]


async def test_long_list_is_reduced_in_several_iterations() -> None:
    """A list of 30,000 models is reduced in steps, with other tasks in between; one of a million values is refused."""
    listed = b",".join(b'{"id":"m-%d","object":"model"}' % at for at in range(30_000))
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    counting = asyncio.create_task(count())
    found = await shown_entries(b'{"data":[%b]}' % listed, {"chat": "m-1"}, lambda name: name == "m-29999")
    counting.cancel()

    assert found == {"m-29999": msgspec.Raw(b'{"id":"m-29999","object":"model"}')}
    assert turns >= 30_000 // ENTRIES_PER_ITERATION
    with pytest.raises(ValueError, match="too long"):
        await shown_entries(b'{"data":[%b1]}' % (b"1," * 1_000_000), {}, lambda _: True)


@pytest.mark.parametrize("body", [b"[]", b"{}", b'{"data": {}}', b'{"data": [{"name": "x"}]}', b"<html>", b"\xff", b""])
async def test_list_that_cannot_be_reduced_is_not_shown(tmp_path: Path, body: bytes) -> None:
    """A list in another form is a failure for a restricted key: it could name models that the key may not use."""

    async def odd(connection: Connection) -> None:
        await connection.answer(200, body)

    text = key("k", "a", 'models = ["m"]') + '[[policy]]\nuse = "rate"\nrequests = 9\n'
    async with upstream(odd) as up, sidecar(settings_of(tmp_path, up.url, text)) as served:
        status, _, answer = await served.get("/v1/models", BEARER)

    assert (status, json.loads(answer)["error"]["code"]) == (502, "upstream_error")
