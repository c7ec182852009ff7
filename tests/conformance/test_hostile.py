"""A hostile upstream on real sockets: both kinds of client receive the correct end of its answer, once."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import openai
import pytest
from hostile import CASES, DONE, HEAD, KEY, LAST, SIGNS, STOP, Case, event, token
from playing import plays
from serving import CHAT, events, settings_of, sidecar
from wire import Connection, chunk, upstream

pytestmark = pytest.mark.anyio

BUDGET = '[[policy]]\nuse = "budget"\ntokens = 100_000_000\n'
each_case = pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])


def test_table_has_at_least_60_cases() -> None:
    """The table of hostile answers has at least 60 cases, each with a unique name."""
    assert len({case.name for case in CASES}) == len(CASES) >= 60


@each_case
async def test_chat_nest_client_gets_one_correct_end(tmp_path: Path, case: Case) -> None:
    """Chat Nest's client receives the text, then exactly one of `done` and `error`; no reservation stays open."""
    async with (
        upstream(plays(case)) as up,
        sidecar(settings_of(tmp_path, up.url, BUDGET, environ={"SIDECAR_UPSTREAM_KEY": KEY})) as served,
    ):
        status, _, body = await served.post("/api/chat", CHAT)
        account = await served.account()

    seen = events(body)
    text = "".join(json.loads(data) for name, data in seen if name == "token")
    assert (status, text) == (200, case.text)
    error = case.chat_error or case.error
    assert [name for name, _ in seen if name not in ("token", "ping")] == ["start", "error" if error else "done"]
    if error:
        assert json.loads(seen[-1][1])["code"] == error
    assert KEY.encode() not in body
    assert account.reserved == 0
    assert len(up.requests) == 1


@each_case
async def test_openai_client_raises_for_incomplete_answers(tmp_path: Path, case: Case) -> None:
    """OpenAI's SDK receives the same text, and raises exactly if the answer is incomplete, with the right status."""
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
        assert raised.code == (case.shown or case.error)
        assert KEY not in str(raised)
        assert getattr(raised, "status_code", None) == (None if case.text else case.status)
    assert account.reserved == 0
    assert len(up.requests) == 1


RECORDED = event({"role": "assistant"}) + token("a") + b": ping\r\n\r\n" + token(SIGNS) + STOP + DONE
SIZE = len(RECORDED)


@pytest.mark.parametrize("path", ["/api/chat", "/v1/chat/completions"])
async def test_split_of_a_stream_changes_no_byte(tmp_path: Path, path: str) -> None:
    """A client receives the same bytes wherever a recorded stream is split between two reads."""
    at = iter(range(1, SIZE))

    async def script(connection: Connection) -> None:
        cut = next(at)
        await connection.send(HEAD + chunk(RECORDED[:cut]))
        await asyncio.sleep(0.001)  # a pace, so that the sidecar reads twice; the assertion also holds if it reads once
        await connection.send(chunk(RECORDED[cut:]) + LAST)

    async with upstream(script) as up, sidecar(settings_of(tmp_path, up.url, BUDGET)) as served:
        body = CHAT if path == "/api/chat" else {"model": "m", "stream": True, **CHAT}
        seen = {(await served.post(path, body))[2] for _ in range(1, SIZE)}

    assert len(seen) == 1
    assert (b"event: done" if path == "/api/chat" else b"data: [DONE]") in seen.pop()


async def test_cut_stream_is_complete_only_behind_its_finish(tmp_path: Path) -> None:
    """Of a recorded stream that is cut, complete events are delivered; it is complete if the finish is among them."""
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
