"""Failing upstreams over real sockets: which failures are retried, and what each error_type of client gets."""

from __future__ import annotations

import json
import random
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from scripts import closes
from serving import CHAT, Sidecar, events, settings_of, sidecar
from wire import HEAD, Connection, Script, Upstream, sse, token, upstream

pytestmark = pytest.mark.anyio

HI = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": True, "max_tokens": 40}
STOP = sse({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
PLAIN = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"
QUICK = """
[[policy]]
use = "budget"
tokens = 100_000
[[policy]]
use = "retry"
base = 0.001
cap = 0.001
"""


def sends(*chunks: bytes, then: str = "end") -> Script:
    """Stream *chunks*, then end the body, close the connection, or reset it."""

    async def script(connection: Connection) -> None:
        await connection.send(HEAD)
        for chunk in chunks:
            await connection.chunk(chunk)
        if then == "end":
            await connection.send(b"0\r\n\r\n")
        elif then == "cut":
            connection.close()
        else:
            connection.reset()

    return script


def answers(status: int, body: bytes, *headers: str) -> Script:
    async def script(connection: Connection) -> None:
        await connection.answer(status, body, *headers)

    return script


async def refuses(connection: Connection) -> None:
    connection.reset()


async def good(connection: Connection) -> None:
    await connection.stream("fine")


async def without_length(connection: Connection) -> None:
    await connection.send(PLAIN + token("a") + STOP)
    connection.close()


def error(**fields: Any) -> bytes:
    return json.dumps({"error": {"message": "boom", **fields}}).encode()


ERROR_EVENT = b"data: " + error(code=502) + b"\n\n"


async def both(up: Upstream, served: Sidecar) -> tuple[list[tuple[str, str]], tuple[int, dict[str, str], bytes]]:
    """Send a request in each schema and return both answers."""
    status, _, chat = await served.post("/api/chat", CHAT)
    assert status == 200
    return events(chat), await served.post("/v1/chat/completions", HI)


@pytest.mark.parametrize(
    "first",
    [
        pytest.param(refuses, id="reset before the head"),
        pytest.param(closes, id="closed before the head"),
        pytest.param(answers(500, error(type="server_error")), id="500"),
        pytest.param(answers(503, error(), "retry-after-ms: 1"), id="503"),
        pytest.param(answers(529, error(type="overloaded_error")), id="529"),
        pytest.param(answers(429, error(code="rate_limit_exceeded"), "retry-after-ms: 1"), id="429"),
        pytest.param(answers(409, error()), id="409"),
        pytest.param(answers(503, error(type="unavailable_error", message="Loading model")), id="loading"),
        pytest.param(answers(200, error(code=500)), id="error as JSON under a 200"),
        pytest.param(answers(200, b"<html>"), id="a page under a 200"),
        pytest.param(sends(ERROR_EVENT), id="error event before output"),
        pytest.param(sends(b'error: {"code": 500, "message": "boom"}\n\n'), id="error field"),
        pytest.param(sends(b"event: error\n" + ERROR_EVENT), id="named error event"),
        pytest.param(sends(), id="empty stream"),
        pytest.param(sends(b"data: [DONE]\n\n"), id="only the end mark"),
        pytest.param(sends(b": nothing\n\n", then="cut"), id="cut before output"),
        pytest.param(sends(b": nothing\n\n", then="reset"), id="reset before output"),
        pytest.param(sends(b"data: {half\n\n"), id="malformed before output"),
        pytest.param(sends(STOP), id="finished without output"),
    ],
)
async def test_failure_before_output_is_retried(tmp_path: Path, first: Script) -> None:
    """A failure before the first output is retried, and the client gets one whole answer."""
    async with upstream(first, good) as up, sidecar(settings_of(tmp_path, up.url, QUICK)) as served:
        _, _, chat = await served.post("/api/chat", CHAT)
        account = await served.account()

    assert events(chat) == [("start", ""), ("token", '"fine"'), ("done", "")]
    assert (len(up.requests), account.reserved) == (2, 0)


@pytest.mark.parametrize(
    ("first", "status", "code", "error_type"),
    [
        (answers(400, error(code="context_length_exceeded", type="invalid_request_error")), 400, "context_length_exceeded", 0),
        (answers(400, error(type="exceed_context_size_error", n_ctx=512)), 400, "upstream_error", "exceed_context_size_error"),
        (answers(429, error(type="insufficient_quota", code="insufficient_quota")), 429, "insufficient_quota", 0),
        (answers(401, error(code="invalid_api_key")), 401, "invalid_api_key", 0),
        (answers(403, error()), 403, "upstream_error", 0),
        (answers(404, error(type="NotFoundError", code=404)), 404, 404, "NotFoundError"),
        (answers(413, b"too big"), 413, "upstream_error", 0),
        (answers(422, b'{"detail": [{"msg": "no"}]}'), 422, "upstream_error", 0),
        (answers(503, error(), "x-should-retry: false"), 503, "upstream_error", 0),
        (answers(302, b"", "location: http://elsewhere.example/"), 502, "upstream_error", 0),
    ],
)  # fmt: skip
async def test_final_failure_is_not_retried(
    tmp_path: Path, first: Script, status: int, code: object, error_type: object
) -> None:
    """A final failure is not retried; SDKs get upstream's status and code, and `x-should-retry: false`."""
    async with upstream(first) as up, sidecar(settings_of(tmp_path, up.url, QUICK)) as served:
        chat, (got, headers, body) = await both(up, served)
        account = await served.account()
        asked = len(up.requests)

    answer = json.loads(body)["error"]
    assert (asked, got, answer["code"], headers["x-should-retry"]) == (2, status, code, "false")
    assert not error_type or answer["type"] == error_type
    assert [name for name, _ in chat] == ["start", "error"]
    assert json.loads(chat[1][1])["message"]
    assert (account.spent, account.reserved) == (0, 0)


async def test_last_failure_is_final(tmp_path: Path) -> None:
    """After the last attempt an SDK gets the last status and its wait, and `x-should-retry: false`."""
    busy = answers(503, error(type="overloaded"), "retry-after-ms: 2")
    async with upstream(busy) as up, sidecar(settings_of(tmp_path, up.url, QUICK)) as served:
        status, headers, body = await served.post("/v1/chat/completions", HI)

    assert (len(up.requests), status, json.loads(body)["error"]["code"]) == (3, 503, "upstream_error")
    assert (headers["x-should-retry"], headers["retry-after"]) == ("false", "1")


async def test_unreachable_upstream_costs_nothing(tmp_path: Path) -> None:
    """An unreachable upstream is 502 `upstream_unavailable` and costs nothing."""
    async with upstream(good) as gone:
        url = gone.url
    async with sidecar(settings_of(tmp_path, url, QUICK)) as served:
        status, _, body = await served.post("/v1/chat/completions", HI | {"stream": False})
        account = await served.account()

    assert (status, json.loads(body)["error"]["code"]) == (502, "upstream_unavailable")
    assert (account.spent, account.reserved) == (0, 0)


@pytest.mark.parametrize(
    "first",
    [
        pytest.param(sends(token("a"), token("b"), then="end"), id="end without a finish"),
        pytest.param(sends(token("a"), token("b"), then="cut"), id="cut"),
        pytest.param(sends(token("a"), token("b"), then="reset"), id="reset"),
        pytest.param(sends(token("a") + token("b") + b'data: {"choices": [{"del'), id="cut inside an event"),
        pytest.param(sends(token("a"), token("b") + ERROR_EVENT), id="error object"),
        pytest.param(
            sends(token("a") + token("b"), ERROR_EVENT + b"data: [DONE]\n\n"), id="error object, then the end"
        ),
        pytest.param(sends(token("a"), token("b"), b"data: nonsense\n\n", STOP), id="malformed"),
    ],
)
async def test_broken_stream_ends_with_one_error(tmp_path: Path, first: Script) -> None:
    """A stream that breaks after output ends with one error; it is not retried and not marked complete."""
    async with upstream(first) as up, sidecar(settings_of(tmp_path, up.url, QUICK)) as served:
        chat, (status, _, body) = await both(up, served)
        account = await served.account()
        asked = len(up.requests)

    last = json.loads(chat[-1][1])
    assert chat[:-1] == [("start", ""), ("token", '"a"'), ("token", '"b"')]
    assert (chat[-1][0], last["code"] in ("stream_interrupted", "upstream_error")) == ("error", True)
    assert (asked, status) == (2, 200)
    assert body.startswith(token("a") + token("b") + b'data: {"error":{"message":')
    assert body.endswith(b"}}\n\ndata: [DONE]\n\n")
    assert body.count(b"[DONE]") == body.count(b'"error"') == 1
    assert (account.spent, account.reserved) == ((8 + 2) + (5 + 2), 0)


@pytest.mark.parametrize(
    "first",
    [
        pytest.param(sends(token("a"), STOP), id="no end mark"),
        pytest.param(sends(token("a"), STOP, then="cut"), id="cut after the finish"),
        pytest.param(sends(token("a"), STOP, b"data: [DONE]\n"), id="no blank line"),
        pytest.param(sends(token("a"), STOP, b"data: [DONE]\n\ndata: junk\n\n"), id="junk behind the end"),
        pytest.param(sends(token("a"), b"data: [DONE]\n\n"), id="no finish"),
        pytest.param(without_length, id="ends by close"),
        pytest.param(sends(b"\xef\xbb\xbf" + token("a").replace(b"\n", b"\r\n"), STOP, b"data: [DONE]\r\n\r\n"), id="CRLF"),
        pytest.param(answers(200, json.dumps({"choices": [{"message": {"content": "a"}, "finish_reason": "stop"}]}).encode()), id="JSON"),
    ],
)  # fmt: skip
async def test_finished_stream_is_complete(tmp_path: Path, first: Script) -> None:
    """A stream is complete at `[DONE]`, or once each choice has finished; clients get a complete end either way."""
    async with upstream(first) as up, sidecar(settings_of(tmp_path, up.url, QUICK)) as served:
        chat, (_, _, body) = await both(up, served)

    assert chat == [("start", ""), ("token", '"a"'), ("done", "")]
    assert body.endswith(b"\n\ndata: [DONE]\n\n")
    assert body.count(b"[DONE]") == 1
    assert b"junk" not in body
    assert b"error" not in body
    assert b"\r" not in body


@pytest.mark.parametrize("nothing", [STOP + b"data: [DONE]\n\n", STOP, b"data: [DONE]\n\n"])
async def test_empty_answer_is_retried_once(tmp_path: Path, nothing: bytes) -> None:
    """A finished answer without output is retried once; then it is an error for Chat Nest's client, not to be repeated."""
    async with upstream(sends(nothing)) as up, sidecar(settings_of(tmp_path, up.url, QUICK)) as served:
        _, _, chat = await served.post("/api/chat", CHAT)
        account = await served.account()

    start, (name, data) = events(chat)
    assert (start, name) == (("start", ""), "error")
    expected = {"message": "The model sent an empty answer.", "code": "empty_answer", "retryable": False}
    assert json.loads(data) == expected
    assert (len(up.requests), account.spent, account.reserved) == (2, 16, 0)


async def test_empty_answer_is_delivered_as_it_is(tmp_path: Path) -> None:
    """After its retry, OpenAI's clients get a finished answer without output as it is."""
    nothing = STOP + b"data: [DONE]\n\n"
    async with upstream(sends(nothing)) as up, sidecar(settings_of(tmp_path, up.url, QUICK)) as served:
        status, _, body = await served.post("/v1/chat/completions", HI)

    assert (status, body, len(up.requests)) == (200, nothing, 2)


async def test_upstream_error_text_is_redacted(tmp_path: Path) -> None:
    """Upstream's error text reaches a client without keys, hosts and stack traces."""
    words = "Bad request for key sk-proj-abcdefgh1234 at http://10.0.0.7:8000/v1 (db.internal:5432)"
    async with upstream(answers(400, json.dumps({"error": {"message": words}}).encode())) as up:
        keyed = settings_of(tmp_path, up.url, QUICK, environ={"SIDECAR_UPSTREAM_KEY": "opaque-key-of-ours"})
        async with sidecar(keyed) as served:
            chat, (_, _, body) = await both(up, served)

    for text in (chat[-1][1], body.decode()):
        assert "Bad request for key" in text
        assert not any(secret in text for secret in ("sk-proj", "10.0.0.7", "internal", "opaque"))


async def test_any_split_of_writes_gives_the_same_result(tmp_path: Path) -> None:
    """Any split of a stream into writes gives the same result in both schemas."""
    stream = token("h\u00e9") + b": c\n\n" + token("\U0001f98a") + STOP + b"data: [DONE]\n\n"
    rng = random.Random(7)

    def pieces() -> list[bytes]:
        cuts = sorted({0, len(stream), *(rng.randrange(len(stream)) for _ in range(9))})
        return [stream[a:b] for a, b in pairwise(cuts)]

    scripts = [sends(*pieces()) for _ in range(20)]
    async with upstream(*scripts) as up, sidecar(settings_of(tmp_path, up.url, QUICK)) as served:
        seen = [await both(up, served) for _ in range(10)]

    assert all(
        chat == [("start", ""), ("token", '"h\u00e9"'), ("token", '"\U0001f98a"'), ("done", "")] for chat, _ in seen
    )
    assert {body for _, (_, _, body) in seen} == {stream.replace(b": c\n\n", b"")}


@pytest.mark.parametrize("then", [200, 400])
async def test_failed_plain_attempt_costs_its_prompt(tmp_path: Path, then: int) -> None:
    """A failed attempt without `stream` costs its prompt, not its reservation; the next attempt is charged in addition."""

    async def cuts(connection: Connection) -> None:
        await connection.send(b'HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 99\r\n\r\n{"cho')
        connection.close()

    async def answers(connection: Connection) -> None:
        choice = {"index": 0, "message": {"content": "fine"}, "finish_reason": "stop"}
        usage = {"prompt_tokens": 10, "completion_tokens": 3}
        body = {"choices": [choice], "usage": usage} if then == 200 else {"error": {"message": "no"}}
        await connection.answer(then, json.dumps(body).encode())

    text = '[[policy]]\nuse = "budget"\ntokens = 100_000\n[[policy]]\nuse = "retry"\nbase = 0.001\ncap = 0.001\n'
    async with upstream(cuts, answers) as up, sidecar(settings_of(tmp_path, up.url, text)) as served:
        call = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 400}
        status, _, _ = await served.post("/v1/chat/completions", call)
        account = await served.account()

    prompt = 5
    assert (status, account.reserved) == (then, 0)
    assert account.spent == prompt + (13 if then == 200 else 0)
