"""No answer of an upstream holds the event loop for long: a table of hostile answers, and large normal ones.

The probe measures the CPU time of each step of the loop's thread, not wall time. A step that took too long is measured again:
the least of several times counts.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from hostile_answers import ANSWERS, CHAT_PATH, JSON, MB, NORMAL, USAGE, Answer, answer, event, events, sized, until
from probe import Probed, probed
from serving import CHAT, settings_of, sidecar
from wire import Connection, Script, upstream

pytestmark = pytest.mark.anyio

STEP_MS, LARGE_STEP_MS = 20.0, 100.0
NOISE = 2.5
"""Factor for slower machines."""
REPEATS = 4
PAUSE_SECONDS = 0.01
"""A pace between pieces, so that the sidecar reads each by itself; assertions also hold if it does not."""
BUDGET = '[[policy]]\nuse = "budget"\ntokens = 100_000_000_000\n'
ONE_ATTEMPT = '[[policy]]\nuse = "retry"\nattempts = 1\n'
HI: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


class Player:
    """A server that sends one response to each request, which `play` changes, and closes."""

    def __init__(self) -> None:
        self._response, self._pieces = b"", 1
        self.port = 0

    def play(self, case: Answer) -> None:
        """Send the response of *case* from now on."""
        self._response, self._pieces = case.response(), case.pieces

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request."""
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
            await reader.readexactly(int(lengths[0].partition(b":")[2]) if lengths else 0)
            size = -(-len(self._response) // self._pieces)
            for at in range(0, len(self._response), size):
                writer.write(self._response[at : at + size])
                await writer.drain()
                if self._pieces > 1:
                    await asyncio.sleep(PAUSE_SECONDS)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def played() -> AsyncIterator[Player]:
    player = Player()
    server = await asyncio.start_server(player.serve, "127.0.0.1", 0)
    player.port = server.sockets[0].getsockname()[1]
    try:
        yield player
    finally:
        server.close()


async def asked(port: int, path: str, body: dict[str, Any] | None) -> tuple[int, bytes]:
    """Send a request; return the status of its answer and the end of it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    raw = b"" if body is None else json.dumps(body).encode()
    lines = [f"{'GET' if body is None else 'POST'} {path} HTTP/1.1", "host: localhost", "connection: close"]
    lines += ["content-type: application/json", f"content-length: {len(raw)}"]
    writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + raw)
    start = await reader.readline()
    end = b""
    while data := await reader.read(MB):
        end = (end + data)[-4_000:]
    writer.close()
    return int(start.split()[1]), end


def is_complete(status: int, end: bytes) -> bool:
    return status == 200 and b'"error":{' not in end and b"event: error" not in end


async def worst_step(program: Probed, case: Answer, limit: float) -> tuple[float, str, list[bool]]:
    """Return the longest step in ms while *case* is answered, where it was, and which answers were complete."""
    paths = [(case.path, case.question)]
    paths += [("/api/chat", CHAT)] if case.streams and not case.large and case.path == CHAT_PATH else []
    requests: list[tuple[str, dict[str, Any] | None]] = [("/v1/models", None)] if case.lists_models else [*paths]
    worst, where, complete = 0.0, "", []
    for path, body in requests:
        steps = []
        for _ in range(REPEATS):
            await asyncio.to_thread(program.sample)
            seen = await asked(program.port, path, body)
            sample = await asyncio.to_thread(program.sample)
            steps.append((sample.step_ms, sample.where))
            if sample.step_ms <= limit:
                break
        complete.append(is_complete(*seen))
        worst, where = max((worst, where), min(steps))
    return worst, where, complete


async def test_no_answer_holds_the_loop(tmp_path: Path) -> None:
    """No step takes longer than 20 ms (100 ms for the largest answers), and only answers within the limits are complete."""
    held, wrong = list[str](), list[str]()
    async with played() as player:
        text = f"[[upstream]]\nbase_url = 'http://127.0.0.1:{player.port}/v1'\nmodel = 'm'\nbreaker = {{ calls = 0 }}\n"
        (tmp_path / "sidecar.toml").write_text('[store]\nurl = "memory://"\n' + text + BUDGET + ONE_ATTEMPT)
        with probed("serve", "--config", "sidecar.toml", "--port", "0", folder=tmp_path) as program:
            for name, case in ANSWERS.items():
                player.play(case)
                limit = (LARGE_STEP_MS if case.large else STEP_MS) * NOISE
                step, where, complete = await worst_step(program, case, limit)
                if step > limit:
                    held.append(f"{name}: {step} ms in {where}")
                if case.succeeds is not None and set(complete) != {case.succeeds}:
                    wrong.append(f"{name}: {complete}")
            resident = program.sample().resident_mb

    assert held == []
    assert wrong == []
    assert len(ANSWERS) >= 25
    assert resident < 400


def answers(response: bytes) -> Script:
    async def script(connection: Connection) -> None:
        await connection.send(response)

    return script


@pytest.mark.parametrize("name", NORMAL)
async def test_large_normal_answers_pass_byte_for_byte(tmp_path: Path, name: str) -> None:
    """A large answer of a common kind reaches its client as it is, and costs what upstream reports."""
    body = NORMAL[name]()
    async with (
        upstream(answers(sized(body, JSON))) as up,
        sidecar(settings_of(tmp_path, up.url, BUDGET)) as served,
    ):
        status, _, seen = await served.post("/v1/chat/completions", {**HI, "n": 128 if "128" in name else 1})
        account = await served.account()

    assert status == 200
    assert seen == body
    assert account.spent == USAGE["total_tokens"]


@pytest.mark.parametrize("name", NORMAL)
async def test_large_normal_answers_become_chunks(tmp_path: Path, name: str) -> None:
    """A large answer in JSON to a call that streams becomes one chunk for each choice, with all of its fields."""
    body = NORMAL[name]()
    async with (
        upstream(answers(sized(body, JSON))) as up,
        sidecar(settings_of(tmp_path, up.url, BUDGET)) as served,
    ):
        status, _, seen = await served.post(
            "/v1/chat/completions", {**HI, "stream": True, "n": 128 if "128" in name else 1}
        )
        account = await served.account()

    chunks = [json.loads(line[6:]) for line in seen.split(b"\n\n") if line.startswith(b"data: {")]
    assert status == 200
    assert seen.endswith(b"data: [DONE]\n\n")
    expected = [{**choice, "delta": choice["message"]} for choice in json.loads(body)["choices"]]
    for choice in expected:
        del choice["message"]
        for at, call in enumerate(choice["delta"].get("tool_calls", [])):
            call["index"] = at
    assert [chunk["choices"][0] for chunk in chunks] == expected
    assert {(chunk["id"], chunk["object"]) for chunk in chunks} == {("1", "chat.completion.chunk")}
    assert account.spent == USAGE["total_tokens"]


TOO_COMPLEX = answer(until(b"[],", 4 * MB))


@pytest.mark.parametrize(
    ("response", "streams"),
    [
        (sized(TOO_COMPLEX, JSON), False),
        (sized(TOO_COMPLEX, JSON), True),
        (sized(b'{"choices":[' + b"{}," * 2_000 + b"{}]}", JSON), False),
        (sized(b'{"choices":[' + b"{}," * 2_000 + b"{}]}", JSON), True),
    ],
    ids=["values", "values, stream", "choices", "choices, stream"],
)
async def test_answer_that_is_too_complex_costs_its_prompt(tmp_path: Path, response: bytes, *, streams: bool) -> None:
    """An answer with too many values or choices is a failure with status 502 that is charged as a prompt, never a success."""
    async with (
        upstream(answers(response)) as up,
        sidecar(settings_of(tmp_path, up.url, BUDGET + ONE_ATTEMPT)) as served,
    ):
        status, _, seen = await served.post("/v1/chat/completions", {**HI, "stream": streams})
        account = await served.account()

    assert status == 502
    assert json.loads(seen)["error"]["code"] == "upstream_error"
    assert 0 < account.spent < 20
    assert account.reserved == 0


async def test_event_that_is_too_complex_costs_what_was_read(tmp_path: Path) -> None:
    """A stream that breaks at an event with too many values ends with an error, and its text so far is charged."""
    async with (
        upstream(answers(events(event(b'"x":[' + until(b"1,", MB) + b"0]")))) as up,
        sidecar(settings_of(tmp_path, up.url, BUDGET + ONE_ATTEMPT)) as served,
    ):
        status, _, seen = await served.post("/v1/chat/completions", {**HI, "stream": True})
        spent = (await served.account()).spent

    assert status == 200
    assert seen.count(b'"content":"a"') == 2
    assert b'"code":"stream_interrupted"' in seen
    assert 2 < spent < 20
