"""Upstream connections through the whole sidecar: which call gets which response, what is charged, what is closed."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
import respx
from hostile import AB, DONE, LAST, STOP
from serving import CHAT, Sidecar, events, settings_of, sidecar
from wire import HEAD, Client, Connection, Script, eventually, token, upstream

from policies import Call, Lease, Policy
from policies.api.lease import Outcome
from sidecar.downstream.active_calls import ActiveCall
from sidecar.downstream.response import ClientResponse
from sidecar.server.gateway import Gateway

pytestmark = pytest.mark.anyio

V1 = "/v1/chat/completions"
HI: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": True}
PROMPT = 5
BUDGET = '[[policy]]\nuse = "budget"\ntokens = 100_000_000\n'
ONCE = BUDGET + '[[policy]]\nuse = "retry"\nattempts = 1\n'


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


async def test_one_answer_for_one_call(tmp_path: Path) -> None:
    """Bytes that an upstream sends while no request is open never answer the next call."""
    poisoned = asyncio.Event()

    async def first(connection: Connection) -> None:
        await connection.send(HEAD + chunk(AB) + LAST)
        await poisoned.wait()
        await connection.send(HEAD + chunk(token("POISON")) + chunk(STOP) + chunk(DONE) + LAST)

    async def second(connection: Connection) -> None:
        await connection.stream("own")

    async with upstream(first, second) as up, sidecar(settings_of(tmp_path, up.url, ONCE)) as served:
        await served.post("/api/chat", CHAT)
        poisoned.set()
        await eventually(up.requests[0].gone.is_set)
        _, _, body = await served.post("/api/chat", CHAT)

    assert events(body) == [("start", ""), ("token", '"own"'), ("done", "")]


async def test_connections_are_kept(tmp_path: Path) -> None:
    """A connection whose response was read to its end is reused."""

    async def answers(connection: Connection) -> None:
        await connection.stream("a")

    async with upstream(answers) as up, sidecar(settings_of(tmp_path, up.url, ONCE)) as served:
        for _ in range(3):
            await served.post("/api/chat", CHAT)

        assert (len(up.requests), up.open) == (3, 1)


def _is_full(call: ActiveCall) -> bool:
    return isinstance(call.response, ClientResponse) and call.response._connection.full


@pytest.mark.parametrize("rest", [chunk(b":\n\n") * 4_200, chunk(token("z" * 40_000))], ids=["many", "much"])
async def test_reuse_behind_a_slow_reader(tmp_path: Path, rest: bytes) -> None:
    """A connection whose response arrived faster than its client took it serves the next call, or is closed."""
    over, running = asyncio.Event(), list[Sidecar]()

    async def first(connection: Connection) -> None:
        await connection.send(HEAD)
        while not any(_is_full(call) for call in running[0].gateway.active_calls._calls):
            await connection.chunk(token("x" * 60_000))
            await asyncio.sleep(0)
        for _ in range(50):
            await asyncio.sleep(0)
        await connection.send(rest + chunk(STOP) + chunk(DONE) + LAST)
        over.set()

    async def second(connection: Connection) -> None:
        await connection.stream("own")

    async with upstream(first, second) as up, sidecar(settings_of(tmp_path, up.url, BUDGET)) as served:
        running.append(served)
        client = await served.client()
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await client.post(V1, HI)
        await over.wait()
        for _ in range(50):
            await asyncio.sleep(0)
        client.reset()
        await eventually(lambda: len(served.gateway.active_calls) == 0)
        status, _, answer = await served.post(V1, HI)

    assert (status, b"own" in answer) == (200, True)


@pytest.mark.parametrize("name", ["content-length", "content-length "])
async def test_a_cut_list(tmp_path: Path, name: str) -> None:
    """A list that was cut is none, however its length was written."""

    async def cuts(connection: Connection) -> None:
        await connection.send(f"HTTP/1.1 200 OK\r\n{name}: 100\r\n\r\n".encode() + b'{"data":[{"id":"a"}},')
        connection.close()

    async with upstream(cuts) as up, sidecar(settings_of(tmp_path, up.url)) as served:
        status, _, _ = await served.get("/v1/models")

    assert status == 502


async def closes(connection: Connection) -> None:
    connection.close()


async def test_closed_without_a_word(tmp_path: Path) -> None:
    """An upstream that was sent a request and closes may have read the prompt: it is paid."""
    async with upstream(closes) as up, sidecar(settings_of(tmp_path, up.url, ONCE)) as served:
        status, _, _ = await served.post(V1, HI)
        account = await served.account()

    assert (status, account.spent, account.reserved) == (502, PROMPT, 0)


async def resets(connection: Connection) -> None:
    connection.reset()


class Recording(Lease):
    def __init__(self, outcomes: list[Outcome]) -> None:
        self._outcomes = outcomes

    async def settle(self, outcome: Outcome) -> None:
        self._outcomes.append(outcome)


class Records(Policy, frozen=True):
    """Notes how each call ended."""

    outcomes: list[Outcome]

    async def admit(self, call: Call) -> Lease:
        return Recording(self.outcomes)


@asynccontextmanager
async def recorded(folder: Path, url: str) -> AsyncIterator[tuple[Sidecar, list[Outcome]]]:
    """Run a sidecar whose breaker opens at the first failure, and which notes how each call ended."""
    outcomes: list[Outcome] = []
    text = f'[[upstream]]\nbase_url = "{url}"\nmodel = "m"\nbreaker = {{ calls = 1, rate = 0.01 }}\n' + ONCE
    settings = settings_of(folder, None, text)
    base = msgspec.structs.replace(settings.base, policies=(*settings.base.policies, Records(outcomes, name="records")))
    async with sidecar(msgspec.structs.replace(settings, base=base)) as served:
        yield served, outcomes


@pytest.mark.parametrize("stale", [closes, resets], ids=["FIN", "RST"])
async def test_stale_connection_is_replaced(tmp_path: Path, stale: Script) -> None:
    """A reused connection that closes without a byte is replaced at once: no attempt, no retry, no failure of the breaker."""

    async def answers(connection: Connection) -> None:
        await connection.stream("a")

    async with upstream(answers, stale, answers) as up, recorded(tmp_path, up.url) as (served, outcomes):
        await served.post(V1, HI)
        before = (await served.account()).spent
        status, headers, _ = await served.post(V1, HI)
        account = await served.account()
        state = served.gateway.upstream.states["upstream-1"]

    assert (status, len(up.requests)) == (200, 3)
    assert up.requests[1].raw_body == up.requests[2].raw_body
    assert (account.spent, account.reserved) == (2 * before, 0)
    assert [outcome.attempts for outcome in outcomes] == [1, 1]
    assert (state, "retry-after" in headers) == ("closed", False)


async def half_a_head(connection: Connection) -> None:
    await connection.send(b"HTTP/1.1 200 OK\r\ncontent-ty")
    connection.reset()


async def a_word_first(connection: Connection) -> None:
    await connection.send(b"HTTP/1.1 103 Early\r\n\r\n")
    await asyncio.sleep(0)
    connection.close()


@pytest.mark.parametrize("breaks", [half_a_head, a_word_first])
async def test_broken_while_it_answered(tmp_path: Path, breaks: Script) -> None:
    """A kept connection that said anything had not gone stale: the prompt is paid."""

    async def answers(connection: Connection) -> None:
        await connection.stream("a")

    async with upstream(answers, breaks) as up, sidecar(settings_of(tmp_path, up.url, ONCE)) as served:
        await served.post(V1, HI)
        before = (await served.account()).spent
        status, _, _ = await served.post(V1, HI)
        account = await served.account()

    assert (status, account.spent) == (502, before + PROMPT)


@pytest.mark.parametrize("stream", [True, False])
async def test_an_error_without_end(tmp_path: Path, stream: bool) -> None:  # noqa: FBT001  # a column
    """The body of a refusal has its time as well; its status is answer enough to go on to the next upstream."""

    async def half(connection: Connection) -> None:
        await connection.send(b"HTTP/1.1 503 X\r\ncontent-length: 100\r\n\r\n{")
        await connection.hang()

    async def works(connection: Connection) -> None:
        if stream:
            await connection.stream("a")
        else:
            choice = {"index": 0, "message": {"content": "a"}, "finish_reason": "stop"}
            await connection.answer(200, json.dumps({"choices": [choice]}).encode())

    async with upstream(half) as sick, upstream(works) as well:
        text = f'[[upstream]]\nbase_url = "{sick.url}"\nmodel = "m"\nhead = 0.1\n'
        text += f'[[upstream]]\nbase_url = "{well.url}"\nmodel = "m"\n[[policy]]\nuse = "fallback"\n' + ONCE
        async with sidecar(settings_of(tmp_path, None, text)) as served:
            status, _, _ = await served.post(V1, HI | {"stream": stream})

    assert (status, len(sick.requests), len(well.requests)) == (200, 1, 1)


async def test_an_upstream_that_never_reads(tmp_path: Path) -> None:
    """Whoever leaves takes the rest of the prompt along: an upstream that does not read it keeps no socket of ours."""
    with socket.socket() as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(1)
        url = f"http://127.0.0.1:{deaf.getsockname()[1]}/v1"
        async with sidecar(settings_of(tmp_path, url, ONCE)) as served:
            client = await Client.to(served.port)
            body = json.dumps(HI | {"messages": [{"role": "user", "content": "x" * 12_000_000}]}).encode()
            await client.post(V1, body)
            deaf.setblocking(False)
            taken, _ = await asyncio.get_running_loop().sock_accept(deaf)
            client.close()
            await eventually(lambda: len(served.gateway.active_calls) == 0)
            read = 0
            with taken:
                try:
                    while data := await asyncio.get_running_loop().sock_recv(taken, 2**20):
                        read += len(data)
                except ConnectionResetError:
                    pass

    assert read < len(body)


@pytest.mark.parametrize(
    ("status", "body", "told", "code"),
    [
        (429, {"error": {"type": "insufficient_quota", "message": "m"}}, 429, "upstream_error"),
        (429, {"error": {"code": "insufficient_quota", "message": "m"}}, 429, "insufficient_quota"),
        (400, {"error": {"code": "context_length_exceeded", "message": "too long"}}, 400, "context_length_exceeded"),
        (401, {"error": {"message": "m"}}, 401, "upstream_error"),
        (503, {"error": {"message": "Loading model"}}, 503, "upstream_error"),
        (302, {}, 502, "upstream_error"),
    ],
)
async def test_mock_transport(tmp_path: Path, status: int, body: Any, told: int, code: str) -> None:
    """A gateway takes any transport of httpx in place of its own: the whole path, without a socket upstream."""
    settings = settings_of(tmp_path, "http://up.example/v1", ONCE)
    with respx.MockRouter(assert_all_called=True) as router:
        route = router.post("http://up.example/v1/chat/completions").respond(status, json=body)
        transport = httpx.MockTransport(router.async_handler)
        async with sidecar(settings, make_gateway=lambda each: Gateway(each, transport=transport)) as served:
            seen, headers, answer = await served.post(V1, HI)
            account = await served.account()

    assert (seen, json.loads(answer)["error"]["code"], headers["x-should-retry"]) == (told, code, "false")
    assert json.loads(route.calls[0].request.content)["stream_options"] == {"include_usage": True}
    assert (account.spent, account.reserved) == (0, 0)
