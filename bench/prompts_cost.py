"""What large prompts cost: CPU of the loop between the last byte of a request and its leaving for upstream.

One process, one thread, a transport that answers at once: what is counted is what nobody else can do meanwhile.  Bodies come
in pieces of 64 kB, as uvicorn gives them; the shipped chain is on, its limits raised, its store in memory.  A column is the
time within that part alone, `longest` what the loop did without a turn for anybody else, in milliseconds.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import inspect
import json
import re
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx

from sidecar.config.loader import default_text, load
from sidecar.config.settings import Flags
from sidecar.downstream.asgi_connection import over_asgi
from sidecar.downstream.endpoints import ChatRoute, CompletionsRoute
from sidecar.downstream.route import CHAT_PATH, COMPLETIONS_PATH, Route
from sidecar.server.gateway import Gateway
from sidecar.server.process import _freeze_startup_objects

KB, MB = 1 << 10, 1 << 20
PIECE = 64 * KB
PROSE = 'He said: "the quick brown fox", and\njumped over [the] {lazy} dog. '
PARTS = {
    "read": ("sidecar.downstream.request:read_body",),
    "decode": ("sidecar.downstream.request:json_object",),
    "check": ("sidecar.downstream.endpoints:check_openai", "sidecar.downstream.endpoints:chat_nest_messages"),
    "call": ("sidecar.downstream.route:Route.call",),
    "trim": ("policies.builtin.trim:Trim.admit",),
    "max_tokens": ("policies.builtin.max_tokens:MaxTokens.admit",),
    "size": ("policies.builtin.budget:size_of",),
    "reserve": ("policies.engine.ledger:Ledger.reserve",),
    "encode": ("sidecar.upstream.client:UpstreamClient.chat_body",),
}
"""Where each column's time is spent."""
ANSWER = {"choices": [{"index": 0, "message": {"role": "assistant", "content": "x"}, "finish_reason": "stop"}]}

spent: dict[str, float] = dict.fromkeys(PARTS, 0.0)


def shapes() -> Iterator[tuple[str, str, dict[str, Any] | bytes]]:
    """Give each body's name, path and content."""
    yield "chat, 1,000 x 1 kB", CHAT_PATH, said(talk(1000, PROSE, 960))
    yield "1,000 x 1 kB", COMPLETIONS_PATH, said(talk(1000, PROSE, 1000))
    yield "1 MB of 3 letters", COMPLETIONS_PATH, said(talk(MB // 38, "abc", 3))
    yield "1 MB of []", COMPLETIONS_PATH, beside(b"[]", MB)
    yield "1 MB of deep []", COMPLETIONS_PATH, beside(b"[" * 90 + b"]" * 90, MB)
    yield "1 MB of floats", COMPLETIONS_PATH, beside(b"1.7976931348623157e308", MB)
    yield "1 MB of integers", COMPLETIONS_PATH, beside(b"9" * 4000, MB)
    yield "1 MB of keys", COMPLETIONS_PATH, b'{"x": {%b}, ' % b",".join(b'"%06d":1' % at for at in range(MB // 11)) + HI
    yield (
        "1 MB of parts",
        COMPLETIONS_PATH,
        said([{"role": "user", "content": [{"type": "text", "text": "a"}] * (MB // 30)}]),
    )
    tool = {"name": "f", "description": PROSE * 8, "parameters": {"type": "object", "properties": {}}}
    yield (
        "tools, 1 MB",
        COMPLETIONS_PATH,
        said(talk(2, "a", 9)) | {"tools": [{"type": "function", "function": tool}] * 1500},
    )
    yield "16 MB of 1 kB", COMPLETIONS_PATH, said(talk(16_000, PROSE, 1000))
    yield "16 MB of prose", COMPLETIONS_PATH, said(talk(1, PROSE, 15 * MB))
    yield "16 MB of Cyrillic", COMPLETIONS_PATH, said(talk(1, "привет ", 8 * MB))
    yield "16 MB, escaped", COMPLETIONS_PATH, json.dumps(said(talk(1, "привет ", 2 * MB))).encode()
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "QUJD" * (3 * MB)}}
    yield "12 MB image", COMPLETIONS_PATH, said([{"role": "user", "content": [{"type": "text", "text": "a"}, image]}])
    yield "16 MB of 3 letters", COMPLETIONS_PATH, said(talk(15 * MB // 38, "abc", 3))
    yield "16 MB of []", COMPLETIONS_PATH, beside(b"[]", 15 * MB)
    yield "16 MB of deep []", COMPLETIONS_PATH, beside(b"[" * 90 + b"]" * 90, 15 * MB)
    yield "16 MB of floats", COMPLETIONS_PATH, beside(b"1.7976931348623157e308", 15 * MB)
    yield "16 MB of integers", COMPLETIONS_PATH, beside(b"9" * 4000, 15 * MB)


HI = b'"model": "m", "messages": [{"role": "user", "content": "hi"}]}'


def talk(many: int, text: str, length: int) -> list[dict[str, Any]]:
    said = (text * (length // len(text) + 1))[:length]
    return [{"role": ("user", "assistant")[at % 2], "content": said} for at in range(many)]


def said(messages: list[dict[str, Any]]) -> dict[str, Any]:
    return {"model": "m", "messages": messages}


def beside(value: bytes, size: int) -> bytes:
    return b'{"x": [%b], ' % b",".join([value] * (size // (len(value) + 1))) + HI


def watch() -> None:
    """Have every part add to what it has spent."""
    for part, places in PARTS.items():
        for place in places:
            module, _, path = place.partition(":")
            *owners, name = path.split(".")
            owner: Any = importlib.import_module(module)
            for each in owners:
                owner = getattr(owner, each)
            setattr(owner, name, timed(part, getattr(owner, name)))


def timed(part: str, function: Callable[..., Any]) -> Callable[..., Any]:
    def plain(*given: Any, **named: Any) -> Any:
        begun = time.thread_time()
        try:
            return function(*given, **named)
        finally:
            spent[part] += time.thread_time() - begun

    async def waiting(*given: Any, **named: Any) -> Any:
        begun = time.thread_time()
        try:
            return await function(*given, **named)
        finally:
            spent[part] += time.thread_time() - begun

    return waiting if inspect.iscoroutinefunction(function) else plain


class Turns:
    """Takes every turn of the loop that it gets, and notes the longest time between two."""

    def __init__(self) -> None:
        self.longest = self.last = 0.0

    async def run(self) -> None:
        self.last = time.thread_time()
        while True:
            self.note()
            await asyncio.sleep(0)

    def note(self) -> None:
        now = time.thread_time()
        self.longest, self.last = max(self.longest, now - self.last), now


class Door:
    """The upstream: notes when a request leaves, and answers it."""

    left = 0.0

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.left = time.thread_time()
        return httpx.Response(200, json=ANSWER)


async def measure(route: Route, door: Door, body: bytes) -> tuple[float, float, int]:
    """Return the seconds of one request, the longest of them in one go, and its status."""
    pieces = [body[at : at + PIECE] for at in range(0, len(body), PIECE)]
    begun = status = 0.0
    turns = Turns()
    ticking = asyncio.create_task(turns.run())
    await asyncio.sleep(0)

    async def receive() -> dict[str, Any]:
        nonlocal begun
        if not pieces:
            await asyncio.Event().wait()
        piece = pieces.pop(0)
        if not pieces:
            begun = turns.last = time.thread_time()
        return {"type": "http.request", "body": piece, "more_body": bool(pieces)}

    async def send(message: dict[str, Any]) -> None:
        nonlocal status
        if door.left <= begun:  # it was refused
            door.left = time.thread_time()
        turns.note()
        status = status or message["status"]

    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    scope = {"type": "http", "method": "POST", "path": route.path, "headers": headers, "client": ("127.0.0.1", 1)}
    await over_asgi(route, scope, receive, send)
    ticking.cancel()
    return door.left - begun, turns.longest, int(status)


def settings(folder: Path) -> Any:
    text = re.sub(
        r"(?m)\b(requests|request|tokens|max_messages|max_body|chat_max_body) = [\d_]+",
        r"\1 = 900_000_000",
        default_text(),
    )
    text = text.replace("sqlite:///sidecar.db", "memory://")
    (folder / "sidecar.toml").write_text(text)
    return load(folder / "sidecar.toml", environ={}, flags=Flags(upstream="http://upstream/v1", model="m"))


async def compare(folder: Path, only: str, rounds: int) -> None:
    door = Door()
    gateway = Gateway(settings(folder), transport=httpx.MockTransport(door))
    _freeze_startup_objects()
    print(f"{'ms of CPU':20}{'MB':>6}{'all':>9}{'longest':>9}" + "".join(f"{part:>11}" for part in PARTS))
    for name, path, content in shapes():
        if only not in name:
            continue
        body = content if isinstance(content, bytes) else json.dumps(content, ensure_ascii=False).encode()
        route = (ChatRoute if path == CHAT_PATH else CompletionsRoute)(gateway)
        rows = []
        for _ in range(rounds):
            spent.update(dict.fromkeys(PARTS, 0.0))
            total, longest, status = await measure(route, door, body)
            rows.append([total, longest, *spent.values()])
        total, longest, *parts = (statistics.median(column) * 1000 for column in zip(*rows, strict=True))
        columns = "".join(f"{each:>11.2f}" for each in parts)
        print(f"{name:20}{len(body) / MB:>6.1f}{total:>9.2f}{longest:>9.2f}{columns}  {status}", flush=True)
    await gateway.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="shapes whose name contains this")
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    watch()
    with tempfile.TemporaryDirectory() as name:
        asyncio.run(compare(Path(name), given.only, given.rounds))


if __name__ == "__main__":
    main()
