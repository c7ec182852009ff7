"""Upstream connections through the whole path: which call gets which response, what is charged, what is closed."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import respx
from event_loops import ON_BOTH_LOOPS
from hostile import AB, DONE, LAST, STOP
from recorded_outcomes import RecordOutcomes
from scripts import answers, closes, resets
from serving import CHAT, Sidecar, events, settings_of, sidecar, with_policies
from wire import HEAD, TIMEOUT_SECONDS, Client, Connection, Script, chunk, eventually, token, upstream

from policies.api.event import Batch
from policies.api.lease import Outcome
from sidecar.downstream.response import OpenAIResponse
from sidecar.server.gateway import Gateway

pytestmark = [pytest.mark.anyio, ON_BOTH_LOOPS]

V1 = "/v1/chat/completions"
HI: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": True}
PROMPT = 5
BUDGET = '[[policy]]\nuse = "budget"\ntokens = 100_000_000\n'
ONCE = BUDGET + '[[policy]]\nuse = "retry"\nattempts = 1\n'


async def test_surplus_bytes_never_answer_the_next_call(tmp_path: Path) -> None:
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


async def test_complete_response_lets_its_connection_be_reused(tmp_path: Path) -> None:
    """A connection whose response was read to its end is reused."""
    async with upstream(answers) as up, sidecar(settings_of(tmp_path, up.url, ONCE)) as served:
        for _ in range(3):
            await served.post("/api/chat", CHAT)

        assert (len(up.requests), up.open) == (3, 1)


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """Return an event that is set when the connection to a client has no more room."""
    found, write = asyncio.Event(), OpenAIResponse.write_nowait

    def watched(response: OpenAIResponse, batch: Batch) -> bool:
        room = write(response, batch)
        if not room:
            found.set()
        return room

    monkeypatch.setattr(OpenAIResponse, "write_nowait", watched)
    return found


@pytest.mark.parametrize("rest", [chunk(b":\n\n") * 4_200, chunk(token("z" * 40_000))], ids=["many", "much"])
async def test_next_call_succeeds_behind_a_slow_client(tmp_path: Path, rest: bytes, full: asyncio.Event) -> None:
    """An upstream connection whose response arrived faster than its client read it serves the next call, or is closed."""
    over = asyncio.Event()

    async def first(connection: Connection) -> None:
        await connection.send(HEAD)
        while not full.is_set():
            await connection.chunk(token("x" * 10_000))
            for _ in range(5):  # the sidecar keeps up: what it has not read would hold up `send` below
                await asyncio.sleep(0)
        for _ in range(50):
            await asyncio.sleep(0)
        await connection.send(rest + chunk(STOP) + chunk(DONE) + LAST)
        over.set()

    async def second(connection: Connection) -> None:
        await connection.stream("own")

    async with upstream(first, second) as up, sidecar(settings_of(tmp_path, up.url, BUDGET)) as served:
        client = await served.client()
        client.pause_reading()
        await client.post(V1, HI | {"max_tokens": 1_000_000})  # a growing reservation would read more slowly
        await asyncio.wait_for(over.wait(), TIMEOUT_SECONDS)
        for _ in range(50):
            await asyncio.sleep(0)
        client.reset()
        await eventually(lambda: len(served.gateway.active_calls) == 0)
        status, _, answer = await served.post(V1, HI)

    assert (status, b"own" in answer) == (200, True)


@pytest.mark.parametrize("name", ["content-length", "content-length "])
async def test_truncated_model_list_is_an_error(tmp_path: Path, name: str) -> None:
    """A list of models that is shorter than its length is an error, also if a blank follows the header's name."""

    async def cuts(connection: Connection) -> None:
        await connection.send(f"HTTP/1.1 200 OK\r\n{name}: 100\r\n\r\n".encode() + b'{"data":[{"id":"a"}},')
        connection.close()

    async with upstream(cuts) as up, sidecar(settings_of(tmp_path, up.url)) as served:
        status, _, _ = await served.get("/v1/models")

    assert status == 502


async def test_request_without_an_answer_pays_its_prompt(tmp_path: Path) -> None:
    """A call is charged its prompt if upstream closes behind the request, because it may have read the prompt."""
    async with upstream(closes) as up, sidecar(settings_of(tmp_path, up.url, ONCE)) as served:
        status, _, _ = await served.post(V1, HI)
        account = await served.account()

    assert (status, account.spent, account.reserved) == (502, PROMPT, 0)


@asynccontextmanager
async def recorded(folder: Path, url: str) -> AsyncIterator[tuple[Sidecar, list[Outcome]]]:
    """Run a sidecar whose breaker opens at the first failure; yield it and the outcomes of its calls."""
    outcomes: list[Outcome] = []
    text = f'[[upstream]]\nbase_url = "{url}"\nmodel = "m"\nbreaker = {{ calls = 1, rate = 0.01 }}\n' + ONCE
    settings = settings_of(folder, None, text)
    async with sidecar(with_policies(settings, RecordOutcomes(outcomes, name="records"))) as served:
        yield served, outcomes


@pytest.mark.parametrize("stale", [closes, resets], ids=["FIN", "RST"])
async def test_stale_connection_is_replaced(tmp_path: Path, stale: Script) -> None:
    """A reused connection that closes without a byte is replaced at once: no attempt, no retry, no failure of the breaker."""
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


async def early_response(connection: Connection) -> None:
    await connection.send(b"HTTP/1.1 103 Early\r\n\r\n")
    await asyncio.sleep(0)
    connection.close()


@pytest.mark.parametrize("breaks", [half_a_head, early_response])
async def test_kept_connection_that_answered_partly_is_not_stale(tmp_path: Path, breaks: Script) -> None:
    """A reused connection that breaks after it sent a byte is not replaced: the call fails and pays its prompt."""
    async with upstream(answers, breaks) as up, sidecar(settings_of(tmp_path, up.url, ONCE)) as served:
        await served.post(V1, HI)
        before = (await served.account()).spent
        status, _, _ = await served.post(V1, HI)
        account = await served.account()

    assert (status, account.spent) == (502, before + PROMPT)


@pytest.mark.parametrize("stream", [True, False])
async def test_error_body_without_an_end_has_a_timeout(tmp_path: Path, stream: bool) -> None:  # noqa: FBT001  # a column
    """The body of an error response has a timeout; its status is enough to try the next upstream."""

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


async def test_disconnect_closes_an_upstream_that_does_not_read(tmp_path: Path) -> None:
    """A disconnect closes the connection to an upstream that does not read the prompt."""
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
    ("status", "body", "shown", "code"),
    [
        (429, {"error": {"type": "insufficient_quota", "message": "m"}}, 429, "upstream_error"),
        (429, {"error": {"code": "insufficient_quota", "message": "m"}}, 429, "insufficient_quota"),
        (400, {"error": {"code": "context_length_exceeded", "message": "too long"}}, 400, "context_length_exceeded"),
        (401, {"error": {"message": "m"}}, 401, "upstream_error"),
        (503, {"error": {"message": "Loading model"}}, 503, "upstream_error"),
        (302, {}, 502, "upstream_error"),
    ],
)
async def test_gateway_accepts_an_httpx_transport(
    tmp_path: Path, status: int, body: Any, shown: int, code: str
) -> None:
    """A gateway accepts any httpx transport instead of its own: the whole path runs without a socket to upstream."""
    settings = settings_of(tmp_path, "http://up.example/v1", ONCE)
    with respx.MockRouter(assert_all_called=True) as router:
        route = router.post("http://up.example/v1/chat/completions").respond(status, json=body)
        transport = httpx.MockTransport(router.async_handler)
        async with sidecar(settings, make_gateway=lambda each: Gateway(each, transport=transport)) as served:
            found, headers, answer = await served.post(V1, HI)
            account = await served.account()

    again = None if status == httpx.codes.SERVICE_UNAVAILABLE else "false"
    assert (found, json.loads(answer)["error"]["code"], headers.get("x-should-retry")) == (shown, code, again)
    assert json.loads(route.calls[0].request.content)["stream_options"] == {"include_usage": True}
    assert (account.spent, account.reserved) == (0, 0)
