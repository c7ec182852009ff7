"""Request styles learnt from an upstream's refusals, kept only after the changed request was accepted."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from serving import settings_of, sidecar
from wire import HEAD, Connection, eventually, sse, token, upstream

from policies.testing import make_call
from sidecar.upstream.dialect import MAX_LEARNT_MODELS, Dialect, RequestStyle
from sidecar.upstream.errors.fitted_ceiling import FittedCeiling

pytestmark = pytest.mark.anyio

V1 = "/v1/chat/completions"
SAY = [{"role": "user", "content": "hi"}]
BOUND = '[[policy]]\nuse = "budget"\ntokens = 2000\nfloor = 1\nreserve = "bound"\nanswer = 500\n'
LOTS = BOUND.replace("2000", "100_000_000")


def asks(*, stream: bool = True, **fields: Any) -> dict[str, Any]:
    return {"model": "m", "messages": SAY, "stream": stream, **fields}


async def answers(connection: Connection, tokens: int) -> None:
    usage = {"prompt_tokens": 5, "completion_tokens": tokens}
    if not connection.body.get("stream"):
        choice = {"index": 0, "message": {"content": "x"}, "finish_reason": "stop"}
        await connection.answer(200, json.dumps({"choices": [choice], "usage": usage}).encode())
        return
    await connection.send(HEAD)
    await connection.chunk(token("x"))
    await connection.chunk(sse({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}))
    if (connection.body.get("stream_options") or {}).get("include_usage"):
        await connection.chunk(sse({"choices": [], "usage": usage}))
    await connection.chunk(b"data: [DONE]\n\n")
    await connection.send(b"0\r\n\r\n")


async def refuses(connection: Connection, words: str) -> None:
    await connection.answer(
        400, json.dumps({"error": {"message": words, "type": "BadRequestError", "code": 400}}).encode()
    )


NO_USAGE = "stream_options", "Unrecognized request argument supplied: stream_options"
MODERN = "max_tokens", "'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."


@pytest.mark.parametrize(("lesson", "asked"), [(NO_USAGE, asks()), (MODERN, asks(stream=False)), (MODERN, asks(max_completion_tokens=9))])  # fmt: skip
async def test_concurrent_calls_use_a_learnt_style(
    tmp_path: Path, lesson: tuple[str, str], asked: dict[str, Any]
) -> None:
    """Calls that run while another one learns a style are rewritten too; later calls use it in their first request."""
    field, words = lesson
    all_here = asyncio.Event()

    async def refusing(connection: Connection) -> None:
        await all_here.wait()
        if field in connection.body:
            await refuses(connection, words)
        else:
            await answers(connection, 1)

    async with upstream(refusing) as up, sidecar(settings_of(tmp_path, up.url, LOTS)) as served:
        calls = [asyncio.create_task(served.post(V1, asked)) for _ in range(10)]
        await eventually(lambda: len(up.requests) == len(calls))
        all_here.set()
        first = await asyncio.gather(*calls)
        learnt = len(up.requests)
        last = await served.post(V1, asked)

    assert {status for status, _, _ in first} == {200}
    assert (last[0], len(up.requests)) == (200, learnt + 1)


async def test_quoted_client_text_changes_no_other_call(tmp_path: Path) -> None:
    """A refusal that quotes the client's text may rewrite that call, and changes no other one."""

    async def quotes(connection: Connection) -> None:
        if isinstance(quoted := connection.body.get("temperature"), str):
            await refuses(connection, f"Input should be a valid number, input: {quoted!r}")
        else:
            await answers(connection, connection.body.get("max_tokens") or 90_000)

    async with upstream(quotes) as up, sidecar(settings_of(tmp_path, up.url, LOTS)) as served:
        for words in ("stream_options", "max_tokens max_completion_tokens"):
            assert (await served.post(V1, asks(temperature=words)))[0] == 400
        assert (await served.post(V1, asks()))[0] == 200
        account = await served.account()

    assert up.requests[-1].body["stream_options"] == {"include_usage": True}
    assert up.requests[-1].body["max_tokens"] == 500
    assert account.spent == 505


@pytest.mark.parametrize("field", ["max_completion_tokens", "n_predict", "max_new_tokens", "max_output_tokens"])
async def test_obeyed_ceiling_is_added(tmp_path: Path, field: str) -> None:
    """A client's field for ceilings is accompanied by the field that the server obeys (ollama/ollama#7125)."""

    async def ollama(connection: Connection) -> None:
        await answers(connection, connection.body.get("max_tokens") or 100_000)

    async with upstream(ollama) as up, sidecar(settings_of(tmp_path, up.url, BOUND)) as served:
        status, _, _ = await served.post(V1, asks() | {field: 7})
        account = await served.account()

    assert (status, up.requests[0].body[field], account.spent) == (200, 7, 12)


async def test_lowered_ceiling_stays_with_its_upstream(tmp_path: Path) -> None:
    """A ceiling lowered for one server's context is not lowered for the next server."""

    async def small(connection: Connection) -> None:
        if connection.body["max_tokens"] > 5:
            words = "This model's maximum context length is 60 tokens. However, you requested 55 in the messages"
            await refuses(connection, words)
        else:
            await connection.answer(503, b"{}")

    async def large(connection: Connection) -> None:
        await answers(connection, connection.body["max_tokens"])

    async with upstream(small) as first, upstream(large) as second:
        text = f'[[upstream]]\nbase_url = "{first.url}"\nmodel = "m"\n[[upstream]]\nbase_url = "{second.url}"\nmodel = "m"\n'
        text += LOTS + '[[policy]]\nuse = "fallback"\n[[policy]]\nuse = "retry"\nattempts = 1\n'
        async with sidecar(settings_of(tmp_path, None, text)) as served:
            status, _, _ = await served.post(V1, asks())

    assert status == 200
    assert [request.body["max_tokens"] for request in first.requests] == [500, 5]
    assert [request.body["max_tokens"] for request in second.requests] == [500]


def test_configured_field_is_kept() -> None:
    """With `limit_field = "max_tokens"`, no refusal renames the field."""
    call = make_call("hi")
    call.max_tokens = 5
    words = "'max_tokens' is not supported. Use 'max_completion_tokens' instead."

    assert Dialect("max_tokens").after_refusal(call, RequestStyle(), 400, words) is None
    assert Dialect().after_refusal(call, RequestStyle(), 400, words) == RequestStyle(modern_limit=True)
    assert Dialect().after_refusal(call, RequestStyle(), 401, words) is None


@pytest.mark.parametrize(
    "words", ["maximum context length is " + "9" * 5000 + " tokens, 5 input tokens", "maximum context length is ²"]
)
def test_hostile_number_is_not_read(words: str) -> None:
    """Text that is not a number, or has thousands of digits, is no limit and raises nothing: the ceiling is halved."""
    call = make_call("hi")
    call.max_tokens = 500

    style = Dialect().after_refusal(call, RequestStyle(), 400, words)

    assert style is None or style == RequestStyle(ceiling=FittedCeiling(room=250, is_guess=True))


def test_learnt_styles_add_up() -> None:
    """A call that started before a style was learnt does not undo it."""
    dialect, call = Dialect(), make_call("hi")
    dialect.learn("m", RequestStyle(), RequestStyle(plain_usage=True), call)
    dialect.learn("m", RequestStyle(), RequestStyle(modern_limit=True), call)
    dialect.learn("m", RequestStyle(), RequestStyle(), call)

    assert dialect.style("m") == RequestStyle(plain_usage=True, modern_limit=True)


async def hangs(connection: Connection) -> None:
    await connection.hang()


async def one_token(connection: Connection) -> None:
    await connection.send(HEAD)
    await connection.chunk(token("a"))
    await connection.hang()


@pytest.mark.parametrize(
    "words", ["unknown field stream_options", "'max_tokens' is not supported, use 'max_completion_tokens'"]
)
@pytest.mark.parametrize(("then", "stream"), [(hangs, True), (hangs, False), (one_token, True)])
async def test_time_limits_hold_after_a_rewrite(tmp_path: Path, words: str, then: Any, stream: bool) -> None:  # noqa: FBT001  # a column
    """A rewritten request has the same time limits: silence after it ends the call."""

    async def refusing(connection: Connection) -> None:
        await refuses(connection, words)

    async with upstream(refusing, then) as up:
        limits = "head = 0.1\nfirst_token = 0.1\nidle = 0.1\nwhole = 0.1\n"
        text = f'[[upstream]]\nbase_url = "{up.url}"\nmodel = "m"\n{limits}' + LOTS
        async with sidecar(settings_of(tmp_path, None, text + '[[policy]]\nuse = "retry"\nattempts = 1\n')) as served:
            status, _, body = await served.post(V1, asks(stream=stream))
            account = await served.account()

    if "stream_options" in words and not stream:
        assert (status, len(up.requests)) == (400, 1), "the request had no field of ours"
    elif then is one_token:
        assert b"stream_interrupted" in body
    else:
        assert status == 504
    assert account.reserved == 0


def test_learnt_models_are_bounded() -> None:
    """At most 256 models are remembered; the oldest is dropped."""
    dialect = Dialect()
    for at in range(MAX_LEARNT_MODELS + 1):
        dialect.learn(f"m{at}", RequestStyle(), RequestStyle(plain_usage=True), make_call("hi"))

    assert dialect.style("m0") == RequestStyle()
    assert dialect.style(f"m{MAX_LEARNT_MODELS}") == RequestStyle(plain_usage=True)
