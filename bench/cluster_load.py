"""Calls of several tenants through several sidecars, and an upstream that counts what it produced for each tenant."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter, defaultdict
from typing import Any, NamedTuple

from api_keys import key
from wire import HEAD, Client, Connection, sse, token

PROMPT_TOKENS, MOST_TOKENS, SECONDS_PER_TOKEN = 5, 40, 0.02
PAUSE_SECONDS = 0.1
"""Between two calls of a client, on average."""
REFUSED_PAUSE_SECONDS = 0.3
"""After a refusal, so that refused calls do not fill the load."""
PROBE_PAUSE_SECONDS = 0.02
PROBE = "probe"
"""The tenant whose calls measure when a sidecar admits calls again. It has no limit that it could reach."""
UNLIMITED = 10**9
TOKEN_MARK = b'"content"'
CALL_SECONDS, READ_BYTES = 60.0, 65_536
"""A call without a complete answer in this time is broken; the machine may be slow."""
BROKEN = 0
"""The status of a call without a complete answer."""


class Tenant(NamedTuple):
    """A tenant and its limits."""

    name: str
    tokens: int
    share: int
    """How many of ten clients are of this tenant."""
    requests: int = UNLIMITED
    ceiling: bool = True
    """Whether its calls have a ceiling. Otherwise the reservations of its streams grow."""

    def policies(self) -> str:
        """Return its key and its policies."""
        reserve, answer = ("bound", 64) if self.ceiling else ("estimate", 16)
        return (
            key(self.name, self.name)
            + f'[[policy]]\nuse = "rate"\nname = "{self.name}-rate"\nonly = {{ tenant = "{self.name}" }}\n'
            f'requests = {self.requests}\nwindow = 86400\nwhen_store_fails = "refuse"\n'
            f'[[policy]]\nuse = "budget"\nname = "{self.name}"\nonly = {{ tenant = "{self.name}" }}\n'
            f'tokens = {self.tokens}\nwindow = "month"\nfloor = 1\nreserve = "{reserve}"\nanswer = {answer}\n'
        )


class Counts:
    """What all calls did."""

    def __init__(self) -> None:
        self.produced: dict[str, int] = defaultdict(int)
        self.calls: dict[str, int] = defaultdict(int)
        """Calls of each tenant that reached the upstream."""
        self.statuses: Counter[int] = Counter()
        self.arrivals: dict[int, list[float]] = defaultdict(list)
        """When calls of each sidecar arrived at the upstream, by the monotonic clock."""
        self.made: dict[str, int] = {}
        """Tokens of the answers that are being given, by call."""
        self.cuts = 0
        """Streams that the sidecar ended early."""
        self.failures: Counter[str] = Counter()
        """Why clients got no complete answer."""
        self.slowest = 0.0
        """Seconds that the slowest call of a probe took, since the last reset."""

    async def answer(self, connection: Connection) -> None:
        """Answer one request: at most as many tokens as it asks for, often fewer."""
        body = connection.body
        tenant, sidecar, name = body["messages"][0]["content"].split()
        self.calls[tenant] += 1
        self.arrivals[int(sidecar)].append(time.monotonic())
        self.made[name] = 0
        most = body.get("max_tokens") or 3 * MOST_TOKENS
        tokens = 1 if tenant == PROBE else random.randint(1, most)  # noqa: S311  # not for secrets
        finish = "length" if tokens == most else "stop"
        usage = {"prompt_tokens": PROMPT_TOKENS, "completion_tokens": tokens}
        if body.get("stream"):
            await connection.send(HEAD)
            for _ in range(tokens):
                if name not in self.made:
                    return  # its client has left
                await connection.chunk(token("x"))
                self.made[name] += 1
                await asyncio.sleep(SECONDS_PER_TOKEN)
            await connection.chunk(sse({"choices": [{"index": 0, "delta": {}, "finish_reason": finish}]}))
            await connection.chunk(sse({"choices": [], "usage": usage}))
            await connection.chunk(b"data: [DONE]\n\n")
            await connection.send(b"0\r\n\r\n")
        else:
            await asyncio.sleep(0 if tenant == PROBE else tokens * SECONDS_PER_TOKEN)
            self.made[name] = tokens
            choice = {
                "index": 0,
                "message": {"role": "assistant", "content": "x " * tokens},
                "finish_reason": finish,
            }
            await connection.answer(200, json.dumps({"id": "1", "choices": [choice], "usage": usage}).encode())

    def end(self, tenant: str, name: str, delivered: int | None) -> None:
        """Count the answer of a call that has ended; *delivered* are the tokens that its client got, None if it was no stream.

        Of a stream that the sidecar ended early, only these count: the upstream has written tokens that were never read.
        """
        if (made := self.made.pop(name, None)) is None:
            return  # it did not reach the upstream
        if delivered is not None and delivered < made:
            self.cuts += 1
            made = delivered
        self.produced[tenant] += PROMPT_TOKENS + made


class Load:
    """Clients that call until `end`, at the sidecars on *ports*."""

    def __init__(self, counts: Counts, ports: list[int], tenants: list[Tenant], clients: int) -> None:
        self._counts, self._ports, self._number = counts, ports, 0
        self._ending = asyncio.Event()
        self._tasks = [asyncio.create_task(self._probe(sidecar)) for sidecar in range(len(ports))]
        chosen = [tenant for tenant in tenants for _ in range(tenant.share)]
        for at in range(clients):
            self._tasks.append(asyncio.create_task(self._client(chosen[at % len(chosen)], random.Random(at))))  # noqa: S311  # not for secrets

    async def end(self) -> None:
        """Wait until the running calls have ended; start no others."""
        self._ending.set()
        await asyncio.gather(*self._tasks)

    async def _probe(self, sidecar: int) -> None:
        while not self._ending.is_set():
            began = time.monotonic()
            await self._call(PROBE, sidecar, stream=False, ceiling=1)
            self._counts.slowest = max(self._counts.slowest, time.monotonic() - began)
            await asyncio.sleep(PROBE_PAUSE_SECONDS)

    async def _client(self, tenant: Tenant, chance: random.Random) -> None:
        while not self._ending.is_set():
            await asyncio.sleep(chance.uniform(0, 2 * PAUSE_SECONDS))
            sidecar = chance.randrange(len(self._ports))
            ceiling = chance.randint(1, MOST_TOKENS) if tenant.ceiling else None
            stream = not tenant.ceiling or chance.random() < 0.7
            status = await self._call(tenant.name, sidecar, stream=stream, ceiling=ceiling)
            if status != 200:
                await asyncio.sleep(REFUSED_PAUSE_SECONDS)

    async def _call(self, tenant: str, sidecar: int, *, stream: bool, ceiling: int | None) -> int:
        self._number += 1
        name = str(self._number)
        body: dict[str, Any] = {
            "model": "m",
            "messages": [{"role": "user", "content": f"{tenant} {sidecar} {name}"}],
            "stream": stream,
        }
        if ceiling is not None:
            body["max_tokens"] = ceiling
        status, answer = await self._answer(sidecar, body, tenant)
        self._counts.statuses[status] += 1
        self._counts.end(tenant, name, answer.count(TOKEN_MARK) if stream else None)
        return status

    async def _answer(self, sidecar: int, body: dict[str, Any], tenant: str) -> tuple[int, bytes]:
        """Return status and body of one call; `BROKEN` where it has no complete answer."""
        began, answer = time.monotonic(), bytearray()
        client = None
        try:
            async with asyncio.timeout(CALL_SECONDS):
                client = await Client.to(self._ports[sidecar])
                await client.post("/v1/chat/completions", body, f"Authorization: Bearer {tenant}", "connection: close")
                while piece := await client.reader.read(READ_BYTES):
                    answer += piece
            return complete(bytes(answer))
        except (OSError, ValueError) as error:
            self._counts.failures[f"{type(error).__name__} after {time.monotonic() - began:.0f} s: {error}"] += 1
            return BROKEN, bytes(answer)
        finally:
            if client is not None:
                client.close()


def complete(answer: bytes) -> tuple[int, bytes]:
    """Return status and body of a whole HTTP answer; the chunks of a stream stay as they are. Raises `ValueError`."""
    head, separator, body = answer.partition(b"\r\n\r\n")
    if not separator:
        raise ValueError("the answer has no head")
    lines = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
    length = lines.get(b"content-length")
    if not body.endswith(b"0\r\n\r\n") if length is None else len(body) != int(length):
        raise ValueError("the answer is cut")
    return int(head.split(b" ", 2)[1]), body
