"""The calls of `chaos.py`: clients that are patient, leave, or ask for whole answers, and the upstream that counts them."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import random
import re
import time
from typing import Any, NamedTuple

from wire import HEAD, Client, Connection, Upstream, sse, token

PROMPT_TOKENS = 5
"""What upstream reports for each prompt, and what the sidecar estimates for it at least."""
PROMPT_BOUND = 16
"""The most that the sidecar reserves for that prompt."""
PATIENCE_SECONDS = 120.0
"""Seconds after which a client that does not leave gives up: longer than any fault."""
STEADY_NODE = 0
"""The process that is suspended for long and never killed: calls in it cost exactly what upstream produced."""
MESSAGES = [{"role": "user", "content": "hi"}]
ERROR_CODE = re.compile(rb'"code": ?"(\w+)"')
LARGE_CEILING = 1_500
"""A ceiling far above the length of an answer: most of such a reservation must come back."""


class Tenant(NamedTuple):
    """A tenant with its monthly tokens.

    `grows`: its streams have no ceiling, and grow their reservations. `is_patient`: its clients do not leave, and use
    the process `STEADY_NODE`.
    """

    name: str
    tokens: int
    grows: bool = False
    is_patient: bool = False


class Record:
    """One call: what its client saw, and what upstream produced for it. Times are in seconds since 1970."""

    def __init__(self, name: str, tenant: Tenant, instance: int) -> None:
        self.name, self.tenant, self.instance = name, tenant, instance
        self.is_stream = True
        self.asked_ceiling: int | None = None
        self.tokens = 0
        """Tokens of the whole answer."""
        self.sent_at, self.arrived_at, self.ended_at = time.time(), 0.0, 0.0
        self.ceiling = 0
        """The ceiling with which upstream got the call."""
        self.made = self.received = 0
        """Output tokens that upstream wrote, and that the client read."""
        self.in_steps = False
        """Whether upstream writes a token only after the client has the one before, so that at most one is unread."""
        self.has_left = False
        self.outcome, self.error = "open", ""
        """How the call ended, and the code of its error."""
        self.moved = asyncio.Event()

    @property
    def produced(self) -> int:
        """What upstream produced, in tokens."""
        return PROMPT_TOKENS + self.made if self.arrived_at else 0

    @property
    def unread(self) -> int:
        """The tokens of it that the sidecar may not have read before it closed the connection to upstream."""
        return max(0, self.made - self.received) if self.in_steps and self.outcome != "done" else 0

    def move(self, received: int) -> None:
        """Note that the client has *received* so many tokens."""
        self.received = received
        self.moved.set()

    async def until_read(self) -> None:
        """Wait until the client has read all that upstream wrote, or has left."""
        while self.received < self.made and not self.has_left:
            self.moved.clear()
            await self.moved.wait()


class CountingUpstream:
    """An upstream that counts what it produces for each call, by the call's id. `served` is its server."""

    def __init__(self, records: dict[str, Record], chance: random.Random) -> None:
        self._records, self._chance = records, chance
        self.strangers = 0
        """Requests without a known call, or the second request of one."""
        self.served: Upstream

    async def __call__(self, connection: Connection) -> None:
        self.served.requests.clear()
        record = self._records.get(connection.header("x-request-id") or "")
        if record is None or record.arrived_at:
            self.strangers += 1
            await connection.answer(500, b"{}")
            return
        body = connection.body
        record.arrived_at, record.ceiling = time.time(), body.get("max_tokens") or 0
        length = min(record.tokens, record.ceiling or record.tokens)
        if body.get("stream"):
            await self._stream(connection, record, length)
        else:
            await asyncio.sleep(self._chance.uniform(0.0, 1.0))
            record.made = length
            await connection.answer(200, json.dumps(_whole(length)).encode())

    async def _stream(self, connection: Connection, record: Record, length: int) -> None:
        pace = self._chance.uniform(0.01, 0.08)
        await connection.send(HEAD)
        for _ in range(length):
            if record.in_steps:
                await record.until_read()
            if record.has_left:
                await connection.hang()
                return
            await connection.chunk(token("x"))
            record.made += 1
            await asyncio.sleep(pace)
        await connection.chunk(sse({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}))
        await connection.chunk(sse({"choices": [], "usage": _usage(length)}))
        await connection.chunk(b"data: [DONE]\n\n")
        await connection.send(b"0\r\n\r\n")


def _usage(length: int) -> dict[str, int]:
    return {"prompt_tokens": PROMPT_TOKENS, "completion_tokens": length, "total_tokens": PROMPT_TOKENS + length}


def _whole(length: int) -> dict[str, Any]:
    choice = {"index": 0, "message": {"role": "assistant", "content": "x " * length}, "finish_reason": "stop"}
    return {"id": "1", "object": "chat.completion", "choices": [choice], "usage": _usage(length)}


class Load:
    """The clients. *ports* has the port and the instance of each process that a client may choose."""

    def __init__(self, tenants: list[Tenant], ports: dict[int, tuple[int, int]], chance: random.Random) -> None:
        self._tenants, self._ports, self._chance = tenants, ports, chance
        self.records: dict[str, Record] = {}
        self.open = self.most_open = 0
        self.is_over = asyncio.Event()
        self._numbers = itertools.count()

    async def run(self, clients: int) -> None:
        """Make calls with so many *clients* until `is_over` is set and all calls have ended."""
        async with asyncio.TaskGroup() as group:
            for at in range(clients):
                group.create_task(self._repeat(self._tenants[at % len(self._tenants)]))

    async def _repeat(self, tenant: Tenant) -> None:
        chance = self._chance
        await asyncio.sleep(chance.uniform(0.0, 2.0))
        while not self.is_over.is_set():
            node = STEADY_NODE if tenant.is_patient else chance.choice(list(self._ports))
            port, instance = self._ports[node]
            record = Record(f"{tenant.name}-{next(self._numbers)}", tenant, instance)
            self.records[record.name] = record
            self.open += 1
            self.most_open = max(self.open, self.most_open)
            await self._call(port, record)
            self.open -= 1
            record.ended_at = time.time()
            if record.outcome == "not connected":
                del self.records[record.name]
            pause = chance.uniform(0.3, 1.5) if record.outcome != "done" else chance.uniform(0.0, 0.2)
            await asyncio.sleep(pause)

    def _body(self, record: Record) -> tuple[dict[str, Any], float]:
        """Choose the call of *record*; return its body, and the seconds after which its client leaves."""
        chance, kind = self._chance, self._chance.random()
        body: dict[str, Any] = {"model": "m", "messages": MESSAGES, "stream": kind < 0.85}
        patience = PATIENCE_SECONDS
        record.tokens = chance.randint(1, 80)
        if record.tenant.grows:
            body["stream"], record.tokens, record.in_steps = True, chance.randint(1, 300), True
        elif chance.random() < 0.9:
            body["max_tokens"] = LARGE_CEILING if chance.random() < 0.2 else chance.randint(1, 80)
        record.is_stream, record.asked_ceiling = body["stream"], body.get("max_tokens")
        if (
            kind < 0.3 and not record.tenant.is_patient
        ):  # leaves: some before the answer starts, some in the middle of it
            patience, record.in_steps = chance.uniform(0.0, 3.0), True
        return body, patience

    async def _call(self, port: int, record: Record) -> None:
        body, patience = self._body(record)
        headers = (f"authorization: Bearer {record.tenant.name}", f"x-request-id: {record.name}", "connection: close")
        try:
            client = await Client.to(port)
        except OSError:
            record.outcome = "not connected"
            return
        answer = b""
        try:
            async with asyncio.timeout(patience):
                await client.post("/v1/chat/completions", body, *headers)
                while data := await client.reader.read(65_536):
                    answer += data
                    record.move(answer.count(b'"content": "x"'))
            record.outcome = _outcome(answer, is_stream=record.is_stream)
            if found := ERROR_CODE.search(answer):
                record.error = found[1].decode()
        except TimeoutError:
            record.outcome = "left" if patience < PATIENCE_SECONDS else "hung"
        except OSError:
            record.outcome = "cut"
        finally:
            record.has_left = True
            record.moved.set()
            with contextlib.suppress(OSError):  # it is closed already
                self._chance.choice([client.close, client.reset])()


def _outcome(answer: bytes, *, is_stream: bool) -> str:
    """Return how a call ended whose connection was closed after *answer*."""
    head, _, body = answer.partition(b"\r\n\r\n")
    status = head[9:12].decode()
    if status != "200":
        return status or "cut"
    if not is_stream:
        return "done" if b'"usage"' in body else "cut"
    if not body.endswith(b"\r\n0\r\n\r\n"):
        return "cut"
    return "done" if b"data: [DONE]" in body and b'"error"' not in body else "error"
