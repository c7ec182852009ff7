"""A mock of an OpenAI-compatible upstream, for demos, tests and measurements.

A model named `mock-N-I-F` responds with N tokens, I milliseconds apart, the first after F milliseconds.  The mock obeys
output ceilings, `n` and `stream_options.include_usage`, and counts prompt tokens with the sidecar's own estimator.
"""

from __future__ import annotations

import asyncio
import re
import socket
import sys
from collections.abc import Awaitable, Callable, Iterator
from itertools import islice
from typing import Any

import msgspec
import uvicorn
import uvloop

from policies.api.call import Call
from policies.api.prompt_size import size_of
from policies.api.services import Services
from policies.api.tokens import Estimator
from policies.stores.memory import MemoryStore
from sidecar.wire.request.json_body import BadRequest, json_object
from sidecar.wire.request.openai_request import check_openai

CREATED_AT = 1_700_000_000
MAX_BURST_TOKENS = 256
"""Tokens written at once before the mock waits for the reader."""
_MODEL_NAME = re.compile(r"mock-(\d{1,7})-(\d{1,7}(?:\.\d{1,3})?)-(\d{1,7}(?:\.\d{1,3})?)")
_SSE_HEADERS = [(b"content-type", b"text/event-stream"), (b"cache-control", b"no-cache")]
_JSON_HEADERS = [(b"content-type", b"application/json")]


class Stats(msgspec.Struct):
    """Counters of the mock: requests received, running and aborted by the client, and tokens sent."""

    requests: int = 0
    active: int = 0
    aborted: int = 0
    tokens: int = 0


class Plan(msgspec.Struct):
    """One response: tokens for each choice, pace in seconds, finish reason and prompt tokens."""

    model: str
    tokens: int
    interval: float
    first: float
    choices: int
    finish: str
    prompt: int
    usage: bool


class Mock:
    """The ASGI application of the mock.

    *tokens* are sent in each response, *interval_ms* milliseconds apart, the first after *first_ms* milliseconds.
    """

    def __init__(
        self,
        *,
        tokens: int = 64,
        interval_ms: float = 0.0,
        first_ms: float = 0.0,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._tokens, self._interval, self._first, self._sleep = tokens, interval_ms / 1000, first_ms / 1000, sleep
        self._services = Services(store=MemoryStore(clock=lambda: 0.0))
        self._estimator = Estimator()
        self.stats = Stats()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            return
        match scope["method"], scope["path"]:
            case "POST", "/v1/chat/completions":
                await self._chat(receive, send)
            case "GET", "/v1/models":
                await _json(send, 200, {"object": "list", "data": [_entry("mock")]})
            case "GET", path if path.startswith("/v1/models/"):
                await _json(send, 200, _entry(path.removeprefix("/v1/models/")))
            case _:
                await _json(send, 404, _error(f"Unknown request URL: {scope['path']}", "not_found"))

    async def _chat(self, receive: Any, send: Any) -> None:
        pieces = []
        while (message := await receive())["type"] == "http.request":
            pieces.append(message.get("body", b""))
            if not message.get("more_body"):
                break
        else:
            return
        try:
            body = json_object(b"".join(pieces))
            check_openai(body)
        except BadRequest as error:
            await _json(send, 400, _error(error.message, "invalid_request_error"))
            return
        plan = self._plan(body)
        self.stats.requests += 1
        self.stats.active += 1
        serving = asyncio.current_task()
        disconnected = asyncio.get_running_loop().create_task(_until_disconnected(receive))
        disconnected.add_done_callback(lambda task: None if task.cancelled() or serving is None else serving.cancel())
        try:
            await (self._stream(plan, send) if body.get("stream") else self._whole(plan, send))
        except asyncio.CancelledError:
            self.stats.aborted += 1
            if not disconnected.done():
                raise
        finally:
            self.stats.active -= 1
            disconnected.cancel()

    def _plan(self, body: dict[str, Any]) -> Plan:
        call = Call(id="", path="", body=body, services=self._services)
        tokens, interval, first = self._tokens, self._interval, self._first
        if named := _MODEL_NAME.fullmatch(call.model):
            tokens, interval, first = int(named[1]), float(named[2]) / 1000, float(named[3]) / 1000
        ceiling = call.max_tokens
        cut = ceiling is not None and ceiling < tokens
        return Plan(
            model=call.model or "mock",
            tokens=ceiling if cut and ceiling is not None else tokens,
            interval=interval,
            first=first,
            choices=call.choices_generated,
            finish="length" if cut else "stop",
            prompt=self._estimator.estimate(call.model, size_of(call)),
            usage=bool((body.get("stream_options") or {}).get("include_usage")),
        )

    async def _stream(self, plan: Plan, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": _SSE_HEADERS})
        if plan.first:
            await self._sleep(plan.first)
        pace = plan.interval
        if not pace:
            await self._at_once(plan, send)
            return
        head = _role_chunks(plan)
        for at, chunk in enumerate(_token_chunks(plan)):
            if at:
                await self._sleep(pace / plan.choices)
            self.stats.tokens += 1
            await send({"type": "http.response.body", "body": head + chunk, "more_body": True})
            head = b""
        await send({"type": "http.response.body", "body": head + _end_chunks(plan)})

    async def _at_once(self, plan: Plan, send: Any) -> None:
        chunks, body = _token_chunks(plan), _role_chunks(plan)
        while batch := list(islice(chunks, MAX_BURST_TOKENS)):
            self.stats.tokens += len(batch)
            body += b"".join(batch)
            if len(batch) == MAX_BURST_TOKENS:
                await send({"type": "http.response.body", "body": body, "more_body": True})
                body = b""
        await send({"type": "http.response.body", "body": body + _end_chunks(plan)})

    async def _whole(self, plan: Plan, send: Any) -> None:
        wait = plan.first + plan.interval * max(0, plan.tokens - 1)
        if wait:
            await self._sleep(wait)
        text = "".join(f" tok{at}" for at in range(plan.tokens))
        self.stats.tokens += plan.tokens * plan.choices
        choices = [
            {
                "index": at,
                "message": {"role": "assistant", "content": text},
                "logprobs": None,
                "finish_reason": plan.finish,
            }
            for at in range(plan.choices)
        ]
        answer = _object(plan, "chat.completion") | {"choices": choices, "usage": _usage(plan)}
        await _json(send, 200, answer)


async def _until_disconnected(receive: Any) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _object(plan: Plan, kind: str) -> dict[str, Any]:
    return {"id": "chatcmpl-mock", "object": kind, "created": CREATED_AT, "model": plan.model}


def _usage(plan: Plan) -> dict[str, int]:
    output = plan.tokens * plan.choices
    return {"prompt_tokens": plan.prompt, "completion_tokens": output, "total_tokens": plan.prompt + output}


def _chunk(plan: Plan, choice: int, delta: dict[str, str], finish: str | None) -> bytes:
    choices = [{"index": choice, "delta": delta, "logprobs": None, "finish_reason": finish}]
    data = _object(plan, "chat.completion.chunk") | {"choices": choices}
    return b"data: " + msgspec.json.encode(data) + b"\n\n"


def _role_chunks(plan: Plan) -> bytes:
    return b"".join(_chunk(plan, at, {"role": "assistant", "content": ""}, None) for at in range(plan.choices))


def _token_chunks(plan: Plan) -> Iterator[bytes]:
    before, after = _chunk(plan, 0, {"content": "\0"}, None).split(b"\\u0000")
    if plan.choices == 1:
        return (b"%b tok%d%b" % (before, at, after) for at in range(plan.tokens))
    return (_chunk(plan, c, {"content": f" tok{at}"}, None) for at in range(plan.tokens) for c in range(plan.choices))


def _end_chunks(plan: Plan) -> bytes:
    end = b"".join(_chunk(plan, at, {}, plan.finish) for at in range(plan.choices))
    if plan.usage:
        usage = _object(plan, "chat.completion.chunk") | {"choices": [], "usage": _usage(plan)}
        end += b"data: " + msgspec.json.encode(usage) + b"\n\n"
    return end + b"data: [DONE]\n\n"


def _error(message: str, code: str) -> dict[str, Any]:
    return {"error": {"message": message, "type": "invalid_request_error", "param": None, "code": code}}


def _entry(model: str) -> dict[str, Any]:
    return {"id": model, "object": "model", "created": CREATED_AT, "owned_by": "mock"}


async def _json(send: Any, status: int, data: dict[str, Any]) -> None:
    body = msgspec.json.encode(data)
    headers = [*_JSON_HEADERS, (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def serve_mock(host: str, port: int, *, tokens: int = 64, interval_ms: float = 0.0, first_ms: float = 0.0) -> int:
    """Run the mock until a signal; return the exit code. The first line on stdout is the URL that it listens on."""
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    with listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
        except OSError as error:
            print(f"sidecar: the mock cannot listen on {host}:{port}: {error}; choose another --port", file=sys.stderr)
            return 1
        listener.listen(4096)
        print(f"mock upstream listening on http://{host}:{listener.getsockname()[1]}/v1", flush=True)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_serve(Mock(tokens=tokens, interval_ms=interval_ms, first_ms=first_ms), listener))
    return 0


async def _serve(mock: Mock, listener: socket.socket) -> None:
    config = uvicorn.Config(
        mock,
        http="httptools",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        backlog=4096,
        timeout_graceful_shutdown=1,
    )
    await _MockServer(config).serve(sockets=[listener])


class _MockServer(uvicorn.Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        # uvicorn raises a captured signal again after the shutdown; the mock exits with 0 instead.
        self._captured_signals = _IgnoredSignals()


class _IgnoredSignals(list[int]):
    def append(self, _: int) -> None:
        return
