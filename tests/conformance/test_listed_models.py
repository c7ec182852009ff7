"""`GET /v1/models` and `GET /v1/models/{id}` of several upstreams over real sockets: what a client sees is what it can call."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from api_keys import key
from engines import Engine, kill, running
from recording import recorded
from serving import Sidecar, settings_of, sidecar
from upstream_tables import table
from wire import Connection, eventually

from sidecar.upstream import model_list

pytestmark = pytest.mark.anyio

RETRY = '[[policy]]\nuse = "retry"\nattempts = 1\n'


async def listed(served: Sidecar, *headers: str) -> dict[str, dict[str, Any]]:
    status, _, body = await served.get("/v1/models", *headers)
    assert status == 200
    answer = json.loads(body)
    assert answer["object"] == "list"
    assert len({each["id"] for each in answer["data"]}) == len(answer["data"])
    return {each["id"]: each for each in answer["data"]}


async def test_lists_are_merged(tmp_path: Path) -> None:
    """The models of all upstreams are listed once, with aliases and all fields, in the order of the file."""
    extra = {"owned_by": "first", "permission": [{"id": "p"}]}
    async with running(Engine("a", "m", entries={"m": extra})) as first, running(Engine("m", "b")) as second:
        text = table(first.up.url, "models = { chat = 'm', gone = 'no' }") + table(second.up.url) + RETRY
        async with sidecar(settings_of(tmp_path, None, text)) as served:
            found = await listed(served)

    assert list(found) == ["a", "m", "chat", "b"]
    assert found["m"] == {"id": "m", "object": "model", "created": 7, **extra}
    assert found["chat"] == {**found["m"], "id": "chat"}
    assert found["b"]["owned_by"] == "engine"


async def test_each_listed_model_can_be_called(tmp_path: Path) -> None:
    """Of an upstream with `serves`, models that no call would reach are not listed."""
    async with running(Engine("a", "hidden")) as first, running(Engine("b")) as second:
        text = (
            table(first.up.url, "serves = ['a', 'chat']", "models = { chat = 'hidden' }") + table(second.up.url) + RETRY
        )
        async with sidecar(settings_of(tmp_path, None, text)) as served:
            found = await listed(served)
            body = {"messages": [{"role": "user", "content": "hi"}]}
            statuses = [(await served.post("/v1/chat/completions", {"model": name, **body}))[0] for name in found]
            refused, _, _ = await served.post("/v1/chat/completions", {"model": "hidden", **body})

    assert (list(found), statuses, refused) == (["a", "chat", "b"], [200] * 3, 404)


async def test_key_sees_its_models_only(tmp_path: Path) -> None:
    """A key with `models` sees those of all upstreams that it may use, under the names by which it may call them."""
    async with running(Engine("a", "m")) as first, running(Engine("b", "mm")) as second:
        text = table(first.up.url, "models = { chat = 'a' }") + table(second.up.url) + RETRY
        async with sidecar(settings_of(tmp_path, None, text + key("k", "t", "models = ['m*', 'chat']"))) as served:
            found = await listed(served, "authorization: Bearer k")

    assert list(found) == ["m", "chat", "mm"]


async def test_failing_upstream_is_left_out_with_one_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """An upstream that cannot list its models is left out, with one line in the log; if all fail, the first one's error is sent."""
    async with running(Engine("a")) as first, running(Engine("b")) as second:
        text = table(first.up.url, "serves = ['*']") + table(second.up.url, "serves = ['*']") + RETRY
        async with sidecar(settings_of(tmp_path, None, text)) as served:
            second.lists = False
            assert [list(await listed(served)) for _ in range(2)] == [["a"]] * 2
            warned = [record for record in caplog.records if "list of models" in record.getMessage()]

            async def limited(connection: Connection) -> None:
                await connection.answer(429, b'{"error": {"message": "slow down"}}')

            first.up.play(limited)
            status, _, _ = await served.get("/v1/models")

    assert (len(warned), status) == (1, 429)
    assert "upstream-2" in warned[0].getMessage()


async def test_killed_and_hanging_upstreams_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A killed upstream and one that does not answer are left out; the second one costs its own time limit, no more."""
    monkeypatch.setattr(model_list, "MERGED_LIST_SECONDS", 0.05)

    async def hangs(connection: Connection) -> None:
        await connection.hang()

    async with running(Engine("a")) as first, running(Engine("b")) as second, running(Engine("c")) as third:
        text = "".join(table(each.up.url) for each in (first, second, third)) + RETRY
        async with sidecar(settings_of(tmp_path, None, text)) as served:
            await eventually(lambda: bool(second.up.probes and third.up.probes))
            await kill(second)
            third.up.play(hangs)
            assert list(await listed(served)) == ["a"]
            # Only upstreams that have not failed get as long.
            monkeypatch.setattr(model_list, "MERGED_LIST_SECONDS", 60)
            monkeypatch.setattr(model_list, "RETRIED_LIST_SECONDS", 0.05)
            assert list(await listed(served)) == ["a"]
            third.up.play(third)
            monkeypatch.setattr(model_list, "RETRIED_LIST_SECONDS", 60)
            assert list(await listed(served)) == ["a", "c"]
        await eventually(lambda: third.up.open == 0)


@pytest.mark.parametrize("count", [1, 2])
async def test_context_length_is_added_where_it_is_known(tmp_path: Path, count: int) -> None:
    """`context_length` is the effective context: never the trained one, and omitted where only that is known."""
    entries: dict[str, dict[str, Any]] = {
        "vllm": {"max_model_len": 8192},
        "lora": {"parent": "vllm", "max_model_len": None},
        "llama.cpp": {"meta": {"n_ctx": 4096, "n_ctx_train": 131072}},
        "loading": {"meta": None},
        "trained": {"meta": {"n_ctx_train": 131072}, "max_context_length": 131072},
        "router": {"context_length": 100, "max_model_len": 50},
        "odd": {"max_model_len": "8192", "context_window": -1},
    }
    async with running(Engine(*entries, entries=entries)) as first, running(Engine("other")) as second:
        text = "".join(table(each.up.url) for each in (first, second)[:count]) + RETRY
        async with sidecar(settings_of(tmp_path, None, text)) as served:
            found = await listed(served)
            _, _, one = await served.get("/v1/models/vllm")

    lengths = {name: found[name]["context_length"] for name in found if "context_length" in found[name]}
    assert lengths == {"vllm": 8192, "lora": 8192, "llama.cpp": 4096, "router": 100}
    assert json.loads(one)["context_length"] == 8192
    assert all(found[name][field] == value for name, more in entries.items() for field, value in more.items())


async def test_entry_comes_from_the_upstream_that_has_it(tmp_path: Path) -> None:
    """`GET /v1/models/{id}` asks the upstream that serves the model; an alias has its own name as the id; others are 404."""
    async with running(Engine("a")) as first, running(Engine("org/b")) as second:
        text = table(first.up.url) + table(second.up.url, "models = { chat = 'org/b' }") + RETRY
        async with recorded(tmp_path, None, text) as it:
            answers = [await it.served.get(f"/v1/models/{name}") for name in ("a", "org/b", "chat", "nope")]
            await eventually(lambda: len(it.records) == 4)

    assert [status for status, _, _ in answers] == [200, 200, 200, 404]
    assert [json.loads(body)["id"] for _, _, body in answers[:3]] == ["a", "org/b", "chat"]
    assert json.loads(answers[3][2])["error"]["code"] == "model_not_found"
    assert [record.upstream for record in it.records] == ["upstream-1", "upstream-2", "upstream-2", ""]
    assert len(first.up.requests) == 1


async def test_single_upstreams_list_keeps_its_fields(tmp_path: Path) -> None:
    """The list of a single upstream has its aliases, and keeps the fields beside the list."""
    body = b'{"object":"list","models":[{"name":"m"}],"data":[{"id":"m", "x":  1}]}'

    async def lists(connection: Connection) -> None:
        await connection.answer(200, body)

    async with running(Engine()) as engine:
        engine.up.play(lists)
        async with sidecar(settings_of(tmp_path, None, table(engine.up.url) + RETRY)) as served:
            _, _, plain = await served.get("/v1/models")
        text = table(engine.up.url, "models = { chat = 'm' }") + RETRY
        async with sidecar(settings_of(tmp_path, None, text)) as served:
            _, _, named = await served.get("/v1/models")

    assert plain == body
    assert json.loads(named) == {
        "object": "list", "models": [{"name": "m"}], "data": [{"id": "m", "x": 1}, {"id": "chat", "x": 1}]
    }  # fmt: skip
