"""Upstream's request id and processing times over real sockets: which answers have them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from serving import CHAT, settings_of, sidecar
from wire import Connection, Script, upstream

pytestmark = pytest.mark.anyio

QUICK = "[[policy]]\nuse = 'retry'\nbase = 0.001\ncap = 0.001\nattempts = 2\n"
SENT = ("x-request-id: req_of_upstream", "openai-processing-ms: 123", "openai-version: 2020-10-01", "server: gpu7")
PASSED = {"x-upstream-request-id": "req_of_upstream", "openai-processing-ms": "123", "openai-version": "2020-10-01"}
CALL = {"model": "m", **CHAT, "max_tokens": 10}


def answers(status: int, *headers: str) -> Script:
    """Answer with *status*: a stream or an object under 200, as asked, else an error."""

    async def script(connection: Connection) -> None:
        if b"GET" in connection.head:
            await connection.answer(status, b'{"object": "list", "data": [{"id": "m"}]}', *headers)
        elif status == 200 and connection.body.get("stream"):
            lines = ["HTTP/1.1 200 OK", "content-type: text/event-stream", "connection: close", *headers]
            choice = b'{"index": 0, "delta": {"content": "a"}, "finish_reason": "stop"}'
            body = b'data: {"choices": [' + choice + b"]}\n\ndata: [DONE]\n\n"
            await connection.send("\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body)
            connection.close()
        elif status == 200:
            answer = {"choices": [{"index": 0, "message": {"content": "a"}, "finish_reason": "stop"}]}
            await connection.answer(status, json.dumps(answer).encode(), *headers)
        else:
            await connection.answer(status, b'{"error": {"message": "no"}}', *headers)

    return script


async def resets(connection: Connection) -> None:
    connection.reset()


def passed(headers: dict[str, str]) -> dict[str, str]:
    """Return those of *headers* that come from upstream; check that the request id is the sidecar's own."""
    assert headers["x-request-id"] == "mine"
    assert "gpu7" not in headers.values()
    return {name: value for name, value in headers.items() if name.startswith(("x-upstream-", "openai-", "x-envoy-"))}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("status", [200, 400, 503])
async def test_answer_has_upstreams_id_and_times(tmp_path: Path, status: int, *, stream: bool) -> None:
    """Streams, whole answers and errors have upstream's request id under its own name, and its times."""
    async with upstream(answers(status, *SENT)) as up, sidecar(settings_of(tmp_path, up.url, QUICK)) as served:
        got, headers, _ = await served.post("/v1/chat/completions", {**CALL, "stream": stream}, "x-request-id: mine")

    assert (got, passed(headers)) == (status, PASSED)


async def test_model_list_has_them(tmp_path: Path) -> None:
    """The list of models has them too."""
    async with upstream(answers(200, *SENT)) as up, sidecar(settings_of(tmp_path, up.url)) as served:
        status, headers, _ = await served.get("/v1/models", "x-request-id: mine")

    assert (status, passed(headers)) == (200, PASSED)


@pytest.mark.parametrize(
    "bad", ["x-request-id: caf\xe9", "x-request-id: a b", f"x-request-id: {'x' * 200}", "openai-processing-ms: soon"]
)
@pytest.mark.parametrize("status", [200, 400])
async def test_invalid_header_is_dropped(tmp_path: Path, bad: str, status: int) -> None:
    """A header with other characters than printable ASCII, or a long one, is dropped; the answer is served."""

    async def script(connection: Connection) -> None:
        head = f"HTTP/1.1 {status} X\r\ncontent-type: application/json\r\n{bad}\r\nconnection: close\r\n\r\n"
        choice = {"index": 0, "message": {"content": "a"}, "finish_reason": "stop"}
        await connection.send(head.encode("latin-1") + json.dumps({"choices": [choice]}).encode())
        connection.close()

    async with upstream(script) as up, sidecar(settings_of(tmp_path, up.url, QUICK)) as served:
        got, headers, _ = await served.post("/v1/chat/completions", CALL, "x-request-id: mine")

    assert (got, passed(headers)) == (status, {})


async def test_headers_are_those_of_the_last_attempt(tmp_path: Path) -> None:
    """After a retry the client gets the headers of the attempt that ends the call; none if that had no answer."""
    again = [answers(503, "x-request-id: first"), answers(200, "x-request-id: second")]
    async with upstream(*again) as up, sidecar(settings_of(tmp_path, up.url, QUICK)) as served:
        _, second, _ = await served.post("/v1/chat/completions", CALL, "x-request-id: mine")
    async with upstream(again[0], resets) as up, sidecar(settings_of(tmp_path, up.url, QUICK)) as served:
        status, reset, _ = await served.post("/v1/chat/completions", CALL, "x-request-id: mine")

    assert passed(second) == {"x-upstream-request-id": "second"}
    assert (status, passed(reset)) == (502, {})
