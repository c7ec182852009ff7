"""Engines with models of their own on real sockets: they list them, refuse others, and keep a prefix cache."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from wire import HEAD, Connection, Upstream, sse, upstream

Hook = Callable[[Connection], Awaitable[None]]


class Engine:
    """An engine that serves *models*.

    `lists` = False breaks its list. The fields of *entries* are added to the entry of a model. `hits` counts the
    calls whose messages up to the last answer it has seen before, as a prefix cache would.
    """

    def __init__(self, *models: str, entries: dict[str, dict[str, Any]] | None = None) -> None:
        self.models, self.entries, self.lists = list(models), entries or {}, True
        self.before: Hook | None = None
        """Awaited before each answer to a call."""
        self.seen: set[str] = set()
        self.calls: list[dict[str, Any]] = []
        self.hits = 0
        self.up: Upstream

    @property
    def count(self) -> int:
        """The number of calls that it got."""
        return len(self.calls)

    @property
    def asked(self) -> list[str]:
        """The model of each call that it got."""
        return [call["model"] for call in self.calls]

    async def __call__(self, connection: Connection) -> None:
        target = connection.head.split(b" ", 2)[1].decode().partition("?")[0]
        if target == "/v1/models":
            await self.list(connection)
        elif target.startswith("/v1/models/"):
            name = target.removeprefix("/v1/models/")
            await (
                connection.answer(200, json.dumps(self._entry(name)).encode())
                if name in self.models
                else _missing(connection, name)
            )
        else:
            await self._answer(connection)

    async def list(self, connection: Connection) -> None:
        """Answer with the list, as a router of models or an engine would."""
        body = {"object": "list", "data": [self._entry(name) for name in self.models]}
        await connection.answer(200 if self.lists else 500, json.dumps(body).encode())

    def _entry(self, name: str) -> dict[str, Any]:
        return {"id": name, "object": "model", "created": 7, "owned_by": "engine", **self.entries.get(name, {})}

    async def _answer(self, connection: Connection) -> None:
        body = connection.body
        self.calls.append(body)
        if self.before is not None:
            await self.before(connection)
        if body["model"] not in self.models:
            await _missing(connection, body["model"])
            return
        messages = body["messages"]
        self.hits += json.dumps(messages[:-2]) in self.seen
        self.seen.add(json.dumps(messages))
        if body.get("stream"):
            await connection.send(HEAD)
            for delta, finish in (({"role": "assistant"}, None), ({"content": "fine"}, None), ({}, "stop")):
                choice = {"index": 0, "delta": delta, "finish_reason": finish}
                await connection.chunk(sse({"id": "1", "model": body["model"], "choices": [choice]}))
            await connection.chunk(b"data: [DONE]\n\n")
            await connection.send(b"0\r\n\r\n")
        else:
            choice = {"index": 0, "message": {"role": "assistant", "content": "fine"}, "finish_reason": "stop"}
            usage = {"prompt_tokens": 5, "completion_tokens": 1}
            answer = {"id": "1", "model": body["model"], "choices": [choice], "usage": usage}
            await connection.answer(200, json.dumps(answer).encode())


async def _missing(connection: Connection, name: str) -> None:
    error = {"message": f"The model `{name}` does not exist.", "type": "NotFoundError", "code": "model_not_found"}
    await connection.answer(404, json.dumps({"error": error}).encode())


@asynccontextmanager
async def running(engine: Engine) -> AsyncIterator[Engine]:
    """Run *engine* on a free port while the block lasts; `engine.up` is its server."""
    async with upstream(engine) as up:
        engine.up, up.lists = up, engine.list
        yield engine


async def kill(engine: Engine) -> None:
    """Close the engine's port, and its connections by RST."""
    engine.up.server.close()
    for connection in (*engine.up.requests, *engine.up.probes):
        connection.reset()
    await engine.up.server.wait_closed()
