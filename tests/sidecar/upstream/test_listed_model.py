"""The default model of an upstream without a configured one: the first that it lists, read again after a while."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from wire import Connection, Upstream, eventually, upstream

from policies.api.upstream import UpstreamError
from policies.testing import FakeClock, make_call
from sidecar.config.upstream import ResolvedUpstream
from sidecar.upstream.client import UpstreamClient
from sidecar.upstream.listed_model import REFRESH_SECONDS, REMEMBER_SECONDS
from sidecar.upstream.router import UpstreamRouter
from sidecar.upstream.transport.http_transport import HttpTransport

pytestmark = pytest.mark.anyio


class Server:
    """An upstream that serves the models in `models` and refuses all others; `lists` = False breaks its list."""

    def __init__(self, *models: str) -> None:
        self.models, self.lists = models, True
        self.missing: dict[str, Any] = {"message": "The model does not exist", "code": 404}

    async def __call__(self, connection: Connection) -> None:
        if b"/models" in connection.head.split(b"\r\n")[0]:
            body = {"data": [{"id": model} for model in self.models]}
            await connection.answer(200 if self.lists else 500, json.dumps(body).encode())
        elif connection.body["model"] in self.models:
            await connection.stream("fine")
        else:
            await connection.answer(404, json.dumps({"error": self.missing}).encode())


@asynccontextmanager
async def router_of(server: Server, **settings: Any) -> AsyncIterator[tuple[UpstreamRouter, FakeClock, Upstream]]:
    clock = FakeClock()
    async with upstream(server, has_probes=False) as up:
        choice = ResolvedUpstream(base_url=up.url, **settings)
        router = UpstreamRouter([UpstreamClient(choice, HttpTransport(), clock=lambda: 0.0, monotonic=clock)])
        try:
            yield router, clock, up
        finally:
            await router.aclose()


async def chat(router: UpstreamRouter, model: str = "") -> None:
    call = make_call("hi")
    call.model = model
    async with router.open(call) as stream:
        await stream.deliver(lambda _: True)


def requests(up: Upstream) -> list[str]:
    """Return the model of each request so far, "list" for a request for the list."""
    return [request.body["model"] if request.head.startswith(b"POST") else "list" for request in up.requests]


async def test_listed_model_is_refreshed() -> None:
    """The first listed model is used for 60 seconds; then the list is read again, and its new first model is used."""
    server = Server("old", "other")
    async with router_of(server) as (router, clock, up):
        await chat(router)
        server.models = ("new", "old")
        clock.advance(REMEMBER_SECONDS - 1)
        await chat(router)
        clock.advance(1)
        await chat(router)
        await chat(router)

        assert requests(up) == ["list", "old", "old", "list", "new", "new"]
        assert router.names_of("", (), substituted=True) == ["new"]


@pytest.mark.parametrize("missing", [{"message": "no", "code": 404}, {"message": "no", "code": "model_not_found"}])
async def test_missing_model_is_forgotten(missing: dict[str, Any]) -> None:
    """When upstream answers that the listed model does not exist, the next call reads the list again."""
    server = Server("old")
    server.missing = missing
    async with router_of(server) as (router, _, up):
        await chat(router)
        server.models = ("new",)
        with pytest.raises(UpstreamError):
            await chat(router)
        assert router.default_model == ""
        await chat(router)

        assert requests(up) == ["list", "old", "old", "list", "new"]


async def test_another_missing_model_changes_nothing() -> None:
    """A client that asks for a model that does not exist does not make upstream's list be read again."""
    async with router_of(Server("listed")) as (router, _, up):
        await chat(router)
        with pytest.raises(UpstreamError):
            await chat(router, "made-up")
        await chat(router)

        assert requests(up) == ["list", "listed", "made-up", "listed"]


async def test_configured_model_stays() -> None:
    """A configured model is never replaced by a listed one, also not after a 404."""
    async with router_of(Server("other"), model="configured") as (router, clock, up):
        for _ in range(2):
            with pytest.raises(UpstreamError):
                await chat(router)
            clock.advance(REMEMBER_SECONDS)

        assert requests(up) == ["configured", "configured"]
        assert router.default_model == "configured"


async def test_failed_refresh_keeps_the_name() -> None:
    """If the list cannot be read again, the remembered model is used, and the list is tried again 10 seconds later."""
    server = Server("listed")
    async with router_of(server) as (router, clock, up):
        await chat(router)
        server.lists = False
        clock.advance(REMEMBER_SECONDS)
        await chat(router)
        await chat(router)
        clock.advance(REFRESH_SECONDS)
        server.lists = True
        await chat(router)

        assert requests(up) == ["list", "listed", "list", "listed", "listed", "list", "listed"]


async def test_first_list_must_succeed() -> None:
    """Without a remembered model, a list that cannot be read fails the call."""
    server = Server("listed")
    server.lists = False
    async with router_of(server) as (router, _, up):
        with pytest.raises(UpstreamError):
            await chat(router)
        await eventually(lambda: requests(up) == ["list"])


@pytest.mark.parametrize(
    ("body", "name"),
    [
        (b'{"data":[{"id":"a","x":[1]},7,[],{"id":3}]}', "a"),
        (b'{"data":[{"id":"a"}' + b",[]" * 1_000_000 + b"]}", "a"),
        (b'{"data":[{"id":3},{"id":"a"}]}', ""),
        (b'{"data":[]}', ""),
        (b'{"data":{"id":"a"}}', ""),
        (b'[{"id":"a"}]', ""),
        (b'{"data":[' + b"[" * 100_000, ""),
    ],
    ids=["other types behind it", "a million entries", "number", "empty", "no list", "no object", "nested"],
)
async def test_first_name_is_read_without_the_rest(body: bytes, name: str) -> None:
    """The first name of a list counts, whatever the other entries are; a list without one leaves the model unknown."""

    async def lists(connection: Connection) -> None:
        if b"/models" in connection.head.split(b"\r\n")[0]:
            await connection.answer(200, body)
        else:
            await connection.stream("fine")

    async with upstream(lists, has_probes=False) as up:
        client = UpstreamClient(ResolvedUpstream(base_url=up.url), HttpTransport(), clock=lambda: 0.0)
        call = make_call("hi")
        call.model = ""
        try:
            assert await client.model(call) == name
        finally:
            await client.aclose()
