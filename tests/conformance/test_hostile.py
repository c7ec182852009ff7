"""A hostile upstream on real sockets: whatever it does, both kinds of client see the truth of it, once."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import openai
import pytest
from hostile import CASES, DONE, HEAD, KEY, LAST, SIGNS, STOP, Case, chunk, event, token
from playing import plays
from serving import CHAT, events, settings_of, sidecar
from wire import Connection, upstream

pytestmark = pytest.mark.anyio

BUDGET = '[[policy]]\nuse = "budget"\ntokens = 100_000_000\n'
each_case = pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])


def test_many() -> None:
    """The table has at least 60 cases, each with a name of its own."""
    assert len({case.name for case in CASES}) == len(CASES) >= 60


@each_case
async def test_chat_nest(tmp_path: Path, case: Case) -> None:
    """Chat Nest's client gets the text, then exactly one of done and error; nothing of the call stays open."""
    async with (
        upstream(plays(case)) as up,
        sidecar(settings_of(tmp_path, up.url, BUDGET, environ={"SIDECAR_UPSTREAM_KEY": KEY})) as served,
    ):
        status, _, body = await served.post("/api/chat", CHAT)
        account = await served.account()

    seen = events(body)
    text = "".join(json.loads(data) for name, data in seen if name == "token")
    assert (status, text) == (200, case.text)
    assert [name for name, _ in seen if name not in ("token", "ping")] == ["start", "error" if case.error else "done"]
    if case.error:
        assert json.loads(seen[-1][1])["code"] == case.error
    assert KEY.encode() not in body
    assert account.reserved == 0
    assert len(up.requests) == 1


@each_case
async def test_openai(tmp_path: Path, case: Case) -> None:
    """OpenAI's SDK gets the same text, raises exactly where the answer is not complete, and with the true status."""
    text, finishes, raised = "", list[str](), None
    async with (
        upstream(plays(case)) as up,
        sidecar(settings_of(tmp_path, up.url, BUDGET, environ={"SIDECAR_UPSTREAM_KEY": KEY})) as served,
    ):
        async with openai.AsyncOpenAI(base_url=f"{served.url}/v1", api_key="sk-client", max_retries=0) as client:
            try:
                stream = await client.chat.completions.create(
                    model="m", messages=[{"role": "user", "content": "hi"}], stream=True
                )
                async for piece in stream:
                    for choice in piece.choices:
                        if choice.index == 0 and choice.delta is not None:
                            text += choice.delta.content or ""
                            finishes += [choice.finish_reason] if choice.finish_reason else []
            except openai.APIError as error:
                raised = error
        account = await served.account()

    assert text == case.text
    if case.error is None:
        assert raised is None
        assert (finishes[-1] if finishes else None) == case.finish
    else:
        assert raised is not None
        assert raised.code == case.error
        assert KEY not in str(raised)
        assert getattr(raised, "status_code", None) == (None if case.text else case.status)
    assert account.reserved == 0
    assert len(up.requests) == 1


RECORDED = event({"role": "assistant"}) + token("a") + b": ping\r\n\r\n" + token(SIGNS) + STOP + DONE
SIZE = len(RECORDED)


@pytest.mark.parametrize("path", ["/api/chat", "/v1/chat/completions"])
async def test_any_split(tmp_path: Path, path: str) -> None:
    """Wherever a recorded stream is split between two reads, its client gets the same bytes."""
    at = iter(range(1, SIZE))

    async def script(connection: Connection) -> None:
        cut = next(at)
        await connection.send(HEAD + chunk(RECORDED[:cut]))
        await asyncio.sleep(0.001)  # so that they are two reads; the client's bytes are the same if they are one
        await connection.send(chunk(RECORDED[cut:]) + LAST)

    async with upstream(script) as up, sidecar(settings_of(tmp_path, up.url, BUDGET)) as served:
        asked = CHAT if path == "/api/chat" else {"model": "m", "stream": True, **CHAT}
        seen = {(await served.post(path, asked))[2] for _ in range(1, SIZE)}

    assert len(seen) == 1
    assert (b"event: done" if path == "/api/chat" else b"data: [DONE]") in seen.pop()


async def test_any_cut(tmp_path: Path) -> None:
    """Wherever a recorded stream is cut, what was whole by then is delivered, and it is complete from its finish on."""
    at = iter(range(SIZE + 1))

    async def script(connection: Connection) -> None:
        await connection.send(HEAD + chunk(RECORDED[: next(at)]).replace(b"0\r\n\r\n", b""))
        connection.close()

    ends = {text: RECORDED.index(token(text)) + len(token(text)) for text in ("a", SIGNS)}
    finished = RECORDED.index(STOP) + len(STOP)
    async with upstream(script) as up:
        text = f"[[upstream]]\nbase_url = '{up.url}'\nmodel = 'm'\nbreaker = {{ calls = 0 }}\n"
        async with sidecar(settings_of(tmp_path, None, text + BUDGET)) as served:
            bodies = [(await served.post("/api/chat", CHAT))[2] for _ in range(SIZE + 1)]
    for cut, body in enumerate(bodies):
        seen = events(body)
        whole = [("token", json.dumps(text, ensure_ascii=False)) for text, end in ends.items() if end <= cut]
        assert seen[1:-1] == whole, cut
        if cut >= finished:
            assert seen[-1] == ("done", ""), cut
        else:
            code = "stream_interrupted" if whole else "upstream_error"
            assert (seen[-1][0], json.loads(seen[-1][1])["code"]) == ("error", code), cut
