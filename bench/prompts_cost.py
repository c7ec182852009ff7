"""Measure large prompts: CPU of the event loop from the last byte of a request until it is sent upstream.

Everything runs in one thread, with a transport that answers at once. Bodies arrive in parts of 64 kB, as from uvicorn.
The shipped chain is on, with raised limits and the store in memory. Each column is the CPU of one part in milliseconds;
`longest` is the longest time without another event-loop iteration.
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
from sidecar.downstream.endpoints import ChatRoute, OperationRoute
from sidecar.downstream.route import CHAT_PATH, COMPLETIONS_PATH, Route
from sidecar.server.gateway import Gateway
from sidecar.server.process import _freeze_startup_objects

KB, MB = 1 << 10, 1 << 20
PART_BYTES = 64 * KB
MOST_ITEMS = 9_900
"""Messages, or parts of them, a little fewer than a body may have."""
SAMPLE_TEXT = 'He chat_body: "the quick brown fox", and\njumped over [the] {lazy} dog. '
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
"""The functions whose time each column counts."""
UPSTREAM_ANSWER = {"choices": [{"index": 0, "message": {"role": "assistant", "content": "x"}, "finish_reason": "stop"}]}

spent: dict[str, float] = dict.fromkeys(PARTS, 0.0)


def shapes() -> Iterator[tuple[str, str, dict[str, Any] | bytes]]:
    """Yield the name, path and content of each body."""
    yield "chat, 1,000 x 1 kB", CHAT_PATH, chat_body(conversation(1000, SAMPLE_TEXT, 960))
    yield "1,000 x 1 kB", COMPLETIONS_PATH, chat_body(conversation(1000, SAMPLE_TEXT, 1000))
    yield "9,900 of 3 letters", COMPLETIONS_PATH, chat_body(conversation(MOST_ITEMS, "abc", 3))
    yield "1 MB of []", COMPLETIONS_PATH, with_extra_field(b"[]", MB)
    yield "1 MB of deep []", COMPLETIONS_PATH, with_extra_field(b"[" * 90 + b"]" * 90, MB)
    yield "1 MB of floats", COMPLETIONS_PATH, with_extra_field(b"1.7976931348623157e308", MB)
    yield "1 MB of integers", COMPLETIONS_PATH, with_extra_field(b"9" * 4000, MB)
    yield (
        "1 MB of keys",
        COMPLETIONS_PATH,
        b'{"x": {%b}, ' % b",".join(b'"%013d":1' % at for at in range(MB // 21)) + BODY_END,
    )
    yield (
        "9,900 parts",
        COMPLETIONS_PATH,
        chat_body([{"role": "user", "content": [{"type": "text", "text": "a"}] * MOST_ITEMS}]),
    )
    tool = {"name": "f", "description": SAMPLE_TEXT * 8, "parameters": {"type": "object", "properties": {}}}
    yield (
        "tools, 1 MB",
        COMPLETIONS_PATH,
        chat_body(conversation(2, "a", 9)) | {"tools": [{"type": "function", "function": tool}] * 1500},
    )
    yield "16 MB of 1.6 kB", COMPLETIONS_PATH, chat_body(conversation(MOST_ITEMS, SAMPLE_TEXT, 1500))
    yield "16 MB of prose", COMPLETIONS_PATH, chat_body(conversation(1, SAMPLE_TEXT, 15 * MB))
    yield "16 MB of Cyrillic", COMPLETIONS_PATH, chat_body(conversation(1, "привет ", 8 * MB))
    yield "16 MB, escaped", COMPLETIONS_PATH, json.dumps(chat_body(conversation(1, "привет ", 2 * MB))).encode()
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "QUJD" * (3 * MB)}}
    yield (
        "12 MB image",
        COMPLETIONS_PATH,
        chat_body([{"role": "user", "content": [{"type": "text", "text": "a"}, image]}]),
    )
    yield "16 MB of 3 letters", COMPLETIONS_PATH, chat_body(conversation(15 * MB // 38, "abc", 3))
    yield "16 MB of []", COMPLETIONS_PATH, with_extra_field(b"[]", 15 * MB)
    yield "16 MB of deep []", COMPLETIONS_PATH, with_extra_field(b"[" * 90 + b"]" * 90, 15 * MB)
    yield "16 MB of floats", COMPLETIONS_PATH, with_extra_field(b"1.7976931348623157e308", 15 * MB)
    yield "16 MB of integers", COMPLETIONS_PATH, with_extra_field(b"9" * 4000, 15 * MB)


BODY_END = b'"model": "m", "messages": [{"role": "user", "content": "hi"}]}'


def conversation(many: int, text: str, length: int) -> list[dict[str, Any]]:
    content = (text * (length // len(text) + 1))[:length]
    return [{"role": ("user", "assistant")[at % 2], "content": content} for at in range(many)]


def chat_body(messages: list[dict[str, Any]]) -> dict[str, Any]:
    return {"model": "m", "messages": messages}


def with_extra_field(value: bytes, size: int) -> bytes:
    return b'{"x": [%b], ' % b",".join([value] * (size // (len(value) + 1))) + BODY_END


def count_parts() -> None:
    """Wrap the functions of every part so that they count their time."""
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


class Iterations:
    """Runs once per event-loop iteration, and keeps the longest time between two runs."""

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


class CountingUpstream:
    """The upstream: keeps the time at which a request arrives, and answers it."""

    left = 0.0

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.left = time.thread_time()
        return httpx.Response(200, json=UPSTREAM_ANSWER)


async def measure(route: Route, counting: CountingUpstream, body: bytes) -> tuple[float, float, int]:
    """Return the CPU seconds of one request, the longest step among them, and its status."""
    pieces = [body[at : at + PART_BYTES] for at in range(0, len(body), PART_BYTES)]
    begun = status = 0.0
    iterations = Iterations()
    ticking = asyncio.create_task(iterations.run())
    await asyncio.sleep(0)

    async def receive() -> dict[str, Any]:
        nonlocal begun
        if not pieces:
            await asyncio.Event().wait()
        piece = pieces.pop(0)
        if not pieces:
            begun = iterations.last = time.thread_time()
        return {"type": "http.request", "body": piece, "more_body": bool(pieces)}

    async def send(message: dict[str, Any]) -> None:
        nonlocal status
        if counting.left <= begun:  # the request was refused
            counting.left = time.thread_time()
        iterations.note()
        status = status or message["status"]

    headers = [(b"host", b"localhost"), (b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    scope = {"type": "http", "method": "POST", "path": route.path, "headers": headers, "client": ("127.0.0.1", 1)}
    await over_asgi(route, scope, receive, send)
    ticking.cancel()
    return counting.left - begun, iterations.longest, int(status)


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
    counting = CountingUpstream()
    gateway = Gateway(settings(folder), transport=httpx.MockTransport(counting))
    _freeze_startup_objects()
    print(f"{'ms of CPU':20}{'MB':>6}{'all':>9}{'longest':>9}" + "".join(f"{part:>11}" for part in PARTS))
    for name, path, content in shapes():
        if only not in name:
            continue
        body = content if isinstance(content, bytes) else json.dumps(content, ensure_ascii=False).encode()
        route = (ChatRoute if path == CHAT_PATH else OperationRoute)(gateway)
        rows = []
        for _ in range(rounds):
            spent.update(dict.fromkeys(PARTS, 0.0))
            total, longest, status = await measure(route, counting, body)
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
    count_parts()
    with tempfile.TemporaryDirectory() as name:
        asyncio.run(compare(Path(name), given.only, given.rounds))


if __name__ == "__main__":
    main()
