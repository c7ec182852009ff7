"""How the record says that a call ended: by its answer, its client, its deadline, a drain, or the server."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from process import program
from recording import HI, SERVERS, V1, recorded, says_ab
from scripts import endless, silent
from serving import CHAT
from wire import TIMEOUT_SECONDS, Client, Connection, eventually, upstream

from policies import Call, Lease, Outcome, Policy
from sidecar.downstream.active_calls import ActiveCall
from sidecar.downstream.client_errors import draining

pytestmark = pytest.mark.anyio

DEADLINE_SECONDS = 0.5


class SettlesFor(Policy, frozen=True):
    """Its leases take *seconds* to settle, so that timers set before the call fire meanwhile."""

    seconds: float = DEADLINE_SECONDS

    async def admit(self, call: Call) -> Lease:
        return SlowLease(self.seconds)


class SlowLease(Lease):
    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    async def settle(self, outcome: Outcome) -> None:
        await asyncio.sleep(self.seconds)


class Settlement(Policy, frozen=True):
    """Its lease reports that it settles, and waits until it may end."""

    begun: asyncio.Event
    may_end: asyncio.Event

    async def admit(self, call: Call) -> Lease:
        return HeldLease(self)


class HeldLease(Lease):
    def __init__(self, policy: Settlement) -> None:
        self.policy = policy

    async def settle(self, outcome: Outcome) -> None:
        self.policy.begun.set()
        await self.policy.may_end.wait()


async def refuses(connection: Connection) -> None:
    await connection.answer(400, b'{"error": {"message": "no"}}')


@SERVERS
@pytest.mark.parametrize(("path", "body"), [("/api/chat", CHAT), (V1, HI), (V1, HI | {"stream": False})])
async def test_deadline_behind_a_complete_answer_changes_nothing(
    tmp_path: Path, path: str, body: dict[str, Any], protocol: type[asyncio.Protocol]
) -> None:
    """A deadline that passes while a complete answer settles is not in its record."""
    text = f"[server]\nchat_deadline = {DEADLINE_SECONDS}\ndeadline = {DEADLINE_SECONDS}\n"
    async with (
        upstream(answers) as up,
        recorded(tmp_path, up, text, protocol=protocol, policies=(SettlesFor(),)) as it,
    ):
        status, _, _ = await it.served.post(path, body)
        record = await it.one()

    assert (status, record.status, record.ending, record.code) == (200, 200, "done", "")


async def answers(connection: Connection) -> None:
    if connection.body.get("stream"):
        await says_ab(connection)
    else:
        message = {"role": "assistant", "content": "ab"}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        await connection.answer(200, json.dumps({"choices": [choice]}).encode())


@SERVERS
async def test_drain_behind_a_complete_answer_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, protocol: type[asyncio.Protocol]
) -> None:
    """A drain whose time is over while a complete answer settles is not in its record."""
    settlement, cancelled = Settlement(begun=asyncio.Event(), may_end=asyncio.Event()), asyncio.Event()
    monkeypatch.setattr(ActiveCall, "cancel_with", noting(ActiveCall.cancel_with, cancelled))
    async with upstream(says_ab) as up, recorded(tmp_path, up, protocol=protocol, policies=(settlement,)) as it:
        client = await it.served.client()
        await client.post(V1, HI)
        await settlement.begun.wait()
        drain = asyncio.create_task(it.served.gateway.active_calls.drain(0, draining()))
        await asyncio.wait_for(cancelled.wait(), TIMEOUT_SECONDS)
        settlement.may_end.set()
        await drain
        answer = await client.until(b"[DONE]")
        record = await it.one()

    assert b'"error"' not in answer
    assert (record.status, record.ending, record.code) == (200, "done", "")


def noting(method: Any, called: asyncio.Event) -> Any:
    def with_note(*arguments: Any) -> None:
        method(*arguments)
        called.set()

    return with_note


@SERVERS
@pytest.mark.parametrize("leave", [Client.close, Client.reset], ids=["FIN", "RST"])
async def test_client_that_leaves_while_a_failed_call_settles_has_cancelled_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, leave: Any, protocol: type[asyncio.Protocol]
) -> None:
    """A client that left without a status has cancelled its call, also if upstream had refused it before."""
    settlement, left = Settlement(begun=asyncio.Event(), may_end=asyncio.Event()), asyncio.Event()
    monkeypatch.setattr(ActiveCall, "client_left", noting(ActiveCall.client_left, left))
    async with upstream(refuses) as up, recorded(tmp_path, up, protocol=protocol, policies=(settlement,)) as it:
        client = await it.served.client()
        await client.post(V1, HI)
        await settlement.begun.wait()
        leave(client)
        await asyncio.wait_for(left.wait(), TIMEOUT_SECONDS)
        settlement.may_end.set()
        record = await it.one()

    assert (record.status, record.ending, record.code) == (499, "cancelled", "")


async def test_client_that_leaves_an_operation_route_has_cancelled_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that leaves `/readyz` without a status is recorded as cancelled, not as refused."""
    asked, may_answer = asyncio.Event(), asyncio.Event()

    async def ping() -> None:
        asked.set()
        await may_answer.wait()

    async with upstream() as up, recorded(tmp_path, up) as it:
        monkeypatch.setattr(it.served.gateway.policy_services.store, "ping", ping)
        client = await it.served.client()
        client.writer.write(b"GET /readyz HTTP/1.1\r\nhost: localhost\r\n\r\n")
        await asked.wait()
        client.close()
        await client.writer.wait_closed()
        await it.served.get("/healthz")  # the server has read the disconnect before
        may_answer.set()
        await eventually(lambda: len(it.records) == 2)

    (record,) = [each for each in it.records if each.route == "/readyz"]
    assert (record.status, record.ending, record.code) == (499, "cancelled", "")


async def test_calls_that_a_second_signal_ends_are_recorded_as_draining(tmp_path: Path) -> None:
    """A second signal gives clients a `draining` refusal or a stream's error event, and each request its record."""
    (tmp_path / "c.toml").write_text('[store]\nurl = "memory://"\n[log]\nformat = "json"\n[server]\ndrain = 60\n')
    log = tmp_path / "log"
    async with upstream(endless, silent) as up:
        serve = ("serve", "--config", "c.toml", "--upstream", up.url, "--model", "m", "--port", "0")
        with program(*serve, folder=tmp_path, log=log) as running:
            streams, waits, half = [await Client.to(running.port) for _ in range(3)]
            await streams.post(V1, HI, "x-request-id: streams")
            await streams.until(b'"a"')
            await waits.post(V1, HI, "x-request-id: waits")
            await eventually(lambda: len(up.requests) == 2)
            half.writer.write(
                f"POST {V1} HTTP/1.1\r\nhost: localhost\r\nx-request-id: half\r\ncontent-type: application/json\r\n".encode()
                + b"content-length: 99\r\n\r\n{"
            )
            await half.writer.drain()
            health = await Client.to(running.port)
            health.writer.write(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n")
            await health.answer()  # the half request has been read
            running.popen.terminate()
            await eventually(lambda: "draining" in log.read_text())
            running.popen.terminate()
            ends = [await asyncio.wait_for(each.reader.read(), TIMEOUT_SECONDS) for each in (streams, waits, half)]
            for each in (streams, waits, half, health):
                each.close()
                await each.writer.wait_closed()
            await eventually(lambda: running.popen.poll() is not None)
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    found = {line["request_id"]: line for line in lines if line["event"] == "request" and line["route"] == V1}

    assert b'"code":"draining"' in ends[0]
    assert all(end.startswith(b"HTTP/1.1 503 ") and b'"draining"' in end for end in ends[1:])
    assert {name: (line["status"], line["ending"], line["code"]) for name, line in found.items()} == {
        "streams": (200, "failed", "draining"),
        "waits": (503, "failed", "draining"),
        "half": (503, "rejected", "draining"),
    }
