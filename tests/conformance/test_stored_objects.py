"""The routes of stored responses and conversations over real sockets: whose they are, where they go, what they cost."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from api_keys import key
from process import program
from recording import SERVERS, recorded
from serving import Sidecar, settings_of, sidecar
from storing import StoringUpstream
from wire import Connection, upstream

from policies.api.store import StoreDown
from policies.stores.entries.in_memory import MemoryEntries
from sidecar.server.app import DATA_ROUTES
from sidecar.wire.stored.paths import STORED_PATHS

pytestmark = pytest.mark.anyio

ANN, BOB = "authorization: Bearer a", "authorization: Bearer b"
KEYS = key("a", "ann") + key("b", "bob")
JSON = "content-type: application/json"


async def asked(
    served: Sidecar, method: str, path: str, who: str = ANN, body: Any = None
) -> tuple[int, dict[str, Any]]:
    """Return status and JSON of one request."""
    if body is not None:
        status, _, raw = await served.post(path, body, who)
    else:
        status, _, raw = await served.get(path, who, method=method)
    return status, json.loads(raw)


async def with_response(
    served: Sidecar, stored: StoringUpstream, stored_id: str = "resp_1", upstream: str = ""
) -> None:
    """Store a response that a call of `ann` has created."""
    stored.add_response(stored_id)
    name = upstream or served.gateway.policy_services.upstreams[0]
    await served.gateway.owners.remember("ann", name, {("response", stored_id): 100})


RESPONSE_REQUESTS = [
    ("GET", "/v1/responses/{}", "GET /v1/responses/{}"),
    ("GET", "/v1/responses/{}?include[]=a&x=1&stream=false", "GET /v1/responses/{}?include%5B%5D=a"),
    ("POST", "/v1/responses/{}/cancel", "POST /v1/responses/{}/cancel"),
    ("GET", "/v1/responses/{}/input_items?limit=5&order=asc", "GET /v1/responses/{}/input_items?limit=5&order=asc"),
    ("DELETE", "/v1/responses/{}", "DELETE /v1/responses/{}"),
]


async def test_own_response_is_served(tmp_path: Path) -> None:
    """The tenant that made a response reads, cancels, lists and deletes it; only documented parameters reach upstream."""
    stored = StoringUpstream()
    async with upstream(stored) as up, sidecar(settings_of(tmp_path, up.url, KEYS)) as served:
        await with_response(served, stored)
        answers = [await asked(served, method, path.format("resp_1")) for method, path, _ in RESPONSE_REQUESTS]
        again = await asked(served, "GET", "/v1/responses/resp_1")
    assert [status for status, _ in answers] == [200] * 5
    assert answers[0][1]["id"] == "resp_1"
    assert answers[-1][1]["deleted"] is True
    assert stored.seen == [target.format("resp_1") for _, _, target in RESPONSE_REQUESTS]
    assert up.requests[2].header("content-length") == "0"
    assert again[0] == 404


@pytest.mark.parametrize(("method", "path", "target"), RESPONSE_REQUESTS)
async def test_other_tenants_get_the_answer_of_an_unknown_id(
    tmp_path: Path, method: str, path: str, target: str
) -> None:
    """For another tenant a response does not exist: nothing reaches upstream, and the answer is that of an unknown id."""
    stored = StoringUpstream()
    async with upstream(stored) as up, sidecar(settings_of(tmp_path, up.url, KEYS)) as served:
        await with_response(served, stored)
        other = await asked(served, method, path.format("resp_1"), BOB)
        unknown = await asked(served, method, path.format("resp_9"), BOB)
        anonymous = await asked(served, method, path.format("resp_1"), "x: y")
    assert (other[0], unknown[0], anonymous[0]) == (404, 404, 401)
    assert json.dumps(other[1]).replace("resp_1", "resp_9") == json.dumps(unknown[1])
    assert other[1]["error"] == {
        "message": "Response with id 'resp_1' not found.",
        "type": "invalid_request_error",
        "param": None,
        "code": "not_found",
    }
    assert stored.seen == []


async def test_conversation_belongs_to_its_tenant(tmp_path: Path) -> None:
    """A conversation and its items are served to the tenant that created it, until it is deleted."""
    stored = StoringUpstream()
    message = {"type": "message", "role": "user", "content": "hello"}
    async with upstream(stored) as up, sidecar(settings_of(tmp_path, up.url, KEYS)) as served:
        status, made = await asked(served, "POST", "/v1/conversations", ANN, {"items": [message], "secret": 1})
        name, owners = made["id"], served.gateway.owners
        tokens = [await owners.owned("ann", ("conversation", name))]
        requests: list[tuple[str, str, Any]] = [
            ("GET", "", None),
            ("POST", "", {"metadata": {"a": "b"}}),
            ("GET", "/items?limit=1", None),
            ("POST", "/items", {"items": [message, message]}),
            ("GET", "/items/msg_1", None),
            ("DELETE", "/items/msg_1", None),
            ("DELETE", "", None),
        ]
        for who, expected in ((BOB, 404), (ANN, 200)):
            for method, path, body in requests:
                assert (await asked(served, method, f"/v1/conversations/{name}{path}", who, body))[0] == expected
                if (method, path, who) == ("POST", "/items", ANN):
                    tokens.append(await owners.owned("ann", ("conversation", name)))
        gone = await owners.owned("ann", ("conversation", name))
    size = len(json.dumps([message], separators=(",", ":")))
    assert status == 200
    assert up.requests[0].body == {"items": [message]}
    assert [each.tokens for each in tokens if each is not None] == [size, 3 * size - 1]
    assert gone is None


async def test_input_tokens_are_counted_under_ownership(tmp_path: Path) -> None:
    """Counting costs no tokens; documented fields alone pass, the model by upstream's name, and references are checked."""
    stored = StoringUpstream()
    settings = '[[upstream]]\nname = "m"\nbase_url = "{}"\nmodels = {{ fast = "real" }}\n'
    body = {"model": "fast", "input": "hello", "request_id": "x", "stream": True}
    async with (
        upstream(stored) as up,
        sidecar(settings_of(tmp_path, None, settings.format(up.url) + KEYS, model=None)) as served,
    ):
        await with_response(served, stored)
        status, counted = await asked(served, "POST", "/v1/responses/input_tokens", ANN, body)
        follow_up = {**body, "previous_response_id": "resp_1"}
        own = await asked(served, "POST", "/v1/responses/input_tokens", ANN, follow_up)
        other = await asked(served, "POST", "/v1/responses/input_tokens", BOB, follow_up)
        budget = [each for each in await served.gateway.policy_services.store.accounts() if each.unit == "tokens"]
    assert (status, own[0], counted["object"]) == (200, 200, "response.input_tokens")
    assert up.requests[0].body == {"model": "real", "input": "hello"}
    assert other[0] == 400
    assert other[1]["error"] == {
        "message": "Previous response with id 'resp_1' not found.",
        "type": "invalid_request_error",
        "param": "previous_response_id",
        "code": "previous_response_not_found",
    }
    assert len(up.requests) == 2
    assert budget == []


async def test_model_rules_hold_for_counting(tmp_path: Path) -> None:
    """A key with `models` counts tokens for these alone, and must name one; its own stored responses need no model."""
    stored = StoringUpstream()
    keys = key("a", "ann", 'models = ["small*"]')
    async with upstream(stored) as up, sidecar(settings_of(tmp_path, up.url, keys, model="big")) as served:
        await with_response(served, stored)
        answers = [
            await asked(served, "POST", "/v1/responses/input_tokens", ANN, {"input": "x", **model})
            for model in ({"model": "small-1"}, {"model": "big"}, {}, {"model": 7}, {"model": "x" * 300})
        ]
        read = await asked(served, "GET", "/v1/responses/resp_1")
    assert [status for status, _ in answers] == [200, 403, 403, 400, 400]
    assert read[0] == 200


async def test_request_counts_for_the_rate(tmp_path: Path) -> None:
    """Each request about a stored object counts as a request, also a refused one does not reach upstream."""
    stored = StoringUpstream()
    text = '[[policy]]\nuse = "rate"\nrequests = 2\nwindow = 60\n'
    async with upstream(stored) as up, sidecar(settings_of(tmp_path, up.url, text + KEYS)) as served:
        await with_response(served, stored)
        answers = [await asked(served, "GET", "/v1/responses/resp_1") for _ in range(3)]
    assert [status for status, _ in answers] == [200, 200, 429]
    assert len(stored.seen) == 2


async def test_request_goes_to_the_upstream_that_has_the_object(tmp_path: Path) -> None:
    """With several upstreams each object is read where it is stored, and no fallback asks another one."""
    one, two = StoringUpstream("a"), StoringUpstream("b")
    text = '[[upstream]]\nname = "one"\nbase_url = "{}"\n[[upstream]]\nname = "two"\nbase_url = "{}"\n[[policy]]\nuse = "fallback"\n'
    async with (
        upstream(one) as first,
        upstream(two) as second,
        sidecar(settings_of(tmp_path, None, text.format(first.url, second.url) + KEYS, model=None)) as served,
    ):
        await with_response(served, two, "resp_2", "two")
        found = await asked(served, "GET", "/v1/responses/resp_2")

        async def fails(connection: Connection) -> None:
            await connection.answer(503, b'{"error":{"message":"busy"}}')

        second.play(fails)
        failed = await asked(served, "DELETE", "/v1/responses/resp_2")
        kept = await served.gateway.owners.owned("ann", ("response", "resp_2"))
    assert (found[0], failed[0], one.seen) == (200, 503, [])
    assert kept is not None


async def test_without_keys_every_id_passes(tmp_path: Path) -> None:
    """Without API keys upstream decides about ids; its own 404 reaches the client."""
    stored = StoringUpstream()
    async with upstream(stored) as up, sidecar(settings_of(tmp_path, up.url)) as served:
        stored.add_response("resp_1")
        found = await asked(served, "GET", "/v1/responses/resp_1", "x: y")
        missing = await asked(served, "GET", "/v1/responses/resp_9", "x: y")
    assert (found[0], missing[0]) == (200, 404)
    assert missing[1]["error"]["message"] == "Response with id 'resp_9' not found."


@SERVERS
async def test_record_names_the_route(tmp_path: Path, protocol: type[asyncio.Protocol]) -> None:
    """The record has the route without ids, and no tokens; both servers serve these paths."""
    stored = StoringUpstream()
    async with upstream(stored) as up, recorded(tmp_path, up, protocol=protocol) as it:
        stored.add_response("resp_1")
        status, headers, _ = await it.served.get("/v1/responses/resp_1/input_items")
        record = await it.one()
    assert (status, record.route, record.operation) == (200, "/v1/responses/{id}/input_items", "stored")
    assert (record.input_tokens, record.output_tokens, record.method) == (0, 0, "GET")
    assert headers["x-request-id"]


@pytest.mark.parametrize(
    ("method", "path", "status", "words"),
    [
        ("GET", "/v1/responses/..%2Fmodels", 404, "Nothing is served"),
        ("GET", "/v1/responses/a%20b", 404, "no stored object has such an id"),
        ("GET", "/v1/responses/%2e%2e", 404, "no stored object has such an id"),
        ("GET", "/v1/responses/" + "x" * 600, 404, "no stored object has such an id"),
        ("GET", "/v1/conversations/c/items/..", 404, "no stored object has such an id"),
        ("GET", "/v1/responses/resp_1?stream=true", 400, "'stream' must be false"),
        ("GET", "/v1/responses/resp_1/cancel", 405, "Use POST"),
        ("POST", "/v1/responses/resp_1", 405, "Use GET, DELETE"),
        ("PUT", "/v1/conversations/c", 405, "Use GET, POST, DELETE"),
        ("GET", "/v1/responses/input_tokens", 405, "Use POST"),
        ("POST", "/v1/responses/compact", 404, "no budget could bound it"),
        ("POST", "/v1/conversations", 415, "Send JSON"),
    ],
)
async def test_wrong_requests_do_not_reach_upstream(
    tmp_path: Path, method: str, path: str, status: int, words: str
) -> None:
    """Strange ids, streams, wrong methods and compaction are refused with the reason, in OpenAI's envelope."""
    stored = StoringUpstream()
    async with upstream(stored) as up, sidecar(settings_of(tmp_path, up.url)) as served:
        stored.add_response("resp_1")
        answered, fault = await asked(served, method, path, "x: y")
    assert answered == status
    assert words in fault["error"]["message"]
    assert stored.seen == []


@pytest.mark.parametrize("items", [[{"type": "item_reference", "id": "msg_other"}], [{"id": "msg_other"}]])
async def test_items_of_others_cannot_be_copied(tmp_path: Path, items: Any) -> None:
    """A conversation cannot be filled with items that another tenant has."""
    stored = StoringUpstream()
    async with upstream(stored) as up, sidecar(settings_of(tmp_path, up.url, KEYS)) as served:
        await served.gateway.owners.remember("bob", "upstream-1", {("item", "msg_other"): 5}, origin="resp_b")
        status, fault = await asked(served, "POST", "/v1/conversations", ANN, {"items": items})
    assert (status, fault["error"]["message"]) == (404, "Item with id 'msg_other' not found.")
    assert stored.seen == []


class DownEntries(MemoryEntries):
    async def recall(self, keys: Any) -> Any:
        raise StoreDown("no")


async def test_store_that_is_down_is_503(tmp_path: Path) -> None:
    """While the store does not answer, no owner can be checked: 503 that a client may repeat, and nothing is sent."""
    stored = StoringUpstream()
    async with upstream(stored) as up, sidecar(settings_of(tmp_path, up.url, KEYS)) as served:
        await with_response(served, stored)
        served.gateway.owners._entries = DownEntries(lambda: 0.0)
        path = await asked(served, "GET", "/v1/responses/resp_1")
        body = await asked(
            served, "POST", "/v1/responses/input_tokens", ANN, {"model": "m", "previous_response_id": "resp_1"}
        )
    assert (path[0], body[0], path[1]["error"]["code"]) == (503, 503, "store_unavailable")
    assert stored.seen == []


async def test_upstreams_errors_are_redacted(tmp_path: Path) -> None:
    """Upstream's errors reach the client in the usual envelope, without the sidecar's key."""

    async def refuses(connection: Connection) -> None:
        await connection.answer(400, b'{"error":{"message":"key sk-secret-1234567890 may not read it","code":"no"}}')

    text = '[[upstream]]\nname = "upstream-1"\nbase_url = "{}"\napi_key_env = "UP"\n'
    async with (
        upstream(refuses) as up,
        sidecar(settings_of(tmp_path, None, text.format(up.url), environ={"UP": "sk-secret-1234567890"})) as served,
    ):
        status, fault = await asked(served, "GET", "/v1/responses/resp_1", "x: y")
    assert (status, fault["error"]["code"]) == (400, "no")
    assert "sk-secret" not in json.dumps(fault)
    assert up.requests[0].header("authorization") == "Bearer sk-secret-1234567890"


@pytest.mark.parametrize("body", [b"", b"[]", b"<html>", b"null"])
async def test_answer_that_is_no_object_is_an_error(tmp_path: Path, body: bytes) -> None:
    """What is not a JSON object is not passed on as one."""

    async def strange(connection: Connection) -> None:
        await connection.answer(200, body)

    async with upstream(strange) as up, sidecar(settings_of(tmp_path, up.url)) as served:
        status, fault = await asked(served, "GET", "/v1/responses/resp_1", "x: y")
    assert status == 502
    assert fault["error"]["code"] == "upstream_error"


def test_every_route_is_served() -> None:
    """The table of routes and the application name the same ones."""
    assert {*STORED_PATHS} < {*DATA_ROUTES}


async def test_owners_survive_a_restart_and_are_shared_by_workers(tmp_path: Path) -> None:
    """Two workers on one SQLite file know each other's conversations, and so does the sidecar after a restart."""
    stored = StoringUpstream()
    (tmp_path / "s.toml").write_text(f'[store]\nurl = "sqlite:///s.db"\n{KEYS}')
    names: list[str] = []
    async with upstream(stored) as up:
        serve = ("serve", "--config", "s.toml", "--upstream", up.url, "--port", "0", "--workers", "2")
        for _ in range(2):
            with program(*serve, folder=tmp_path) as running:
                served = Sidecar(None, running.port)  # type: ignore[arg-type]  # the gateway is in another process
                for _ in range(4):
                    status, made = await asked(served, "POST", "/v1/conversations", ANN, {})
                    assert status == 200
                    names.append(made["id"])
                for name in names * 2:
                    own = await asked(served, "GET", f"/v1/conversations/{name}")
                    other = await asked(served, "GET", f"/v1/conversations/{name}", BOB)
                    assert (own[0], other[0]) == (200, 404)
