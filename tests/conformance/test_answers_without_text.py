"""Answers without text, or with output in other forms: what each client gets, how often upstream is asked, what is charged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from recording import recorded
from serving import CHAT, events, settings_of, sidecar
from wire import HEAD, Connection, Script, sse, upstream

pytestmark = pytest.mark.anyio

V1 = "/v1/chat/completions"
HI = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 400}
DONE = b"data: [DONE]\n\n"
RETRIES = '[[policy]]\nuse = "budget"\ntokens = 100_000\n[[policy]]\nuse = "retry"\nbase = 0.001\ncap = 0.001\n'
CALL = [{"index": 0, "id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}]
PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}


def chunk(fields: dict[str, Any], finish: str | None = None, **more: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": fields, "finish_reason": finish}], **more}


def usage(output: int) -> dict[str, Any]:
    return {"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": output, "total_tokens": 9 + output}}


def answers(*chunks: dict[str, Any], done: bool = True) -> Script:
    """Answer with *chunks* as a stream, or, for a call without `stream`, with one object that has the fields of all."""

    async def script(connection: Connection) -> None:
        if connection.body.get("stream"):
            await connection.send(HEAD)
            for each in chunks:
                await connection.chunk(sse(each))
            if done:
                await connection.chunk(DONE)
            await connection.send(b"0\r\n\r\n")
            return
        message: dict[str, Any] = {"role": "assistant", "content": None}
        choice: dict[str, Any] = {"index": 0, "message": message, "finish_reason": None}
        whole: dict[str, Any] = {"choices": [choice]}
        for each in chunks:
            for part in each["choices"]:
                message.update(part["delta"])
                choice["finish_reason"] = part["finish_reason"] or choice["finish_reason"]
            whole.update({"usage": each["usage"]} if "usage" in each else {})
        await connection.answer(200, json.dumps(whole).encode())

    return script


ROLE = chunk({"role": "assistant", "content": ""})


@pytest.mark.parametrize(
    ("chunks", "code", "words"),
    [
        pytest.param([chunk({"reasoning": "hm"}), chunk({}, "length"), usage(400)], "output_exhausted", "all 400 tokens were used for reasoning", id="reasoning to the ceiling"),
        pytest.param([chunk({"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}]}), chunk({}, "length"), usage(7)], "output_exhausted", "all 7 tokens", id="thinking parts"),
        pytest.param([chunk({"reasoning_details": [{"type": "reasoning.encrypted", "data": "x"}]}), chunk({}, "length"), usage(8)], "output_exhausted", "all 8 tokens", id="encrypted reasoning"),
        pytest.param([ROLE, chunk({}, "length"), usage(400)], "output_exhausted", "all 400 tokens", id="hidden reasoning"),
        pytest.param([chunk({"reasoning_content": "hm"}), chunk({}, "length")], "output_exhausted", "all 1 tokens", id="no report"),
        pytest.param([ROLE, chunk({}, "length")], "output_exhausted", "limit of output tokens before it wrote an answer.", id="nothing to the ceiling"),
        pytest.param([ROLE, chunk({}, "max_tokens"), usage(3)], "output_exhausted", "all 3 tokens", id="another word for it"),
        pytest.param([ROLE, chunk({}, "stop"), usage(1)], "empty_answer", "empty answer", id="an empty stop that made tokens"),
        pytest.param([chunk({"reasoning": "hm"}), chunk({}, "stop"), usage(9)], "empty_answer", "after reasoning", id="reasoning, then stop"),
        pytest.param([ROLE, chunk({}, "content_filter"), usage(0)], "empty_answer", "content filter", id="a content filter"),
        pytest.param([ROLE, usage(5)], "empty_answer", "empty answer", id="no finish, but tokens"),
    ],
)  # fmt: skip
async def test_answer_without_text_is_a_final_error(
    tmp_path: Path, chunks: list[dict[str, Any]], code: str, words: str
) -> None:
    """Chat Nest gets one final error, never `done` without output; upstream is asked once, and the answer is charged once."""
    async with upstream(answers(*chunks)) as up, recorded(tmp_path, up, RETRIES) as it:
        _, _, body = await it.served.post("/api/chat", CHAT)
        record, account = await it.one(), await it.served.account()

    first, (name, data) = events(body)
    error = json.loads(data)
    assert (first, name, error["code"], error["retryable"]) == (("start", ""), "error", code, False)
    assert words in error["message"]
    assert len(up.requests) == 1
    assert (record.status, record.ending, record.code, record.attempts) == (200, "failed", code, 1)
    reported = [each["usage"]["total_tokens"] for each in chunks if "usage" in each]
    assert (account.reserved, account.spent) == (0, reported[0] if reported else account.spent)
    assert 0 < account.spent < 500


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("finish", ["length", "stop"])
async def test_such_an_answer_passes_on_v1(tmp_path: Path, finish: str, *, stream: bool) -> None:
    """OpenAI's clients get such an answer as it was, and upstream is asked once."""
    chunks = [chunk({"role": "assistant", "content": ""}), chunk({}, finish), usage(400)]
    async with upstream(answers(*chunks)) as up, sidecar(settings_of(tmp_path, up.url, RETRIES)) as served:
        options = {"stream": True, "stream_options": {"include_usage": True}} if stream else {}
        status, _, body = await served.post(V1, HI | options)
        account = await served.account()

    assert (status, len(up.requests), account.spent, account.reserved) == (200, 1, 409, 0)
    assert not stream or body == b"".join(map(sse, chunks)) + DONE
    assert stream or json.loads(body)["choices"][0]["finish_reason"] == finish


@pytest.mark.parametrize(
    "chunks",
    [
        pytest.param([chunk({"tool_calls": CALL}), chunk({}, "tool_calls")], id="a tool call"),
        pytest.param(
            [chunk({"reasoning": "hm"}), chunk({"tool_calls": CALL}), chunk({}, "length")], id="cut tool call"
        ),
        pytest.param([chunk({"images": [PICTURE]}), chunk({}, "stop")], id="an image"),
        pytest.param([chunk({"content": [PICTURE]}), chunk({}, "stop")], id="an image among parts"),
    ],
)
async def test_other_output_ends_with_done(tmp_path: Path, chunks: list[dict[str, Any]]) -> None:
    """Tool calls and images count as output: the answer is done."""
    async with upstream(answers(*chunks)) as up, recorded(tmp_path, up, RETRIES) as it:
        _, _, body = await it.served.post("/api/chat", CHAT)
        record = await it.one()

    assert events(body) == [("start", ""), ("done", "")]
    assert (len(up.requests), record.ending, record.code) == (1, "done", "")


async def test_parts_are_shown_as_text(tmp_path: Path) -> None:
    """The text of lists of parts becomes token events; on `/v1` the bytes are as upstream sent them."""
    thinking = {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}
    chunks = [ROLE, chunk({"content": [thinking]})]
    chunks += [chunk({"content": [{"type": "text", "text": text}]}) for text in ("Hel", "lo")]
    chunks.append(chunk({}, "stop"))
    async with upstream(answers(*chunks)) as up, sidecar(settings_of(tmp_path, up.url, RETRIES)) as served:
        _, _, chat = await served.post("/api/chat", CHAT)
        _, _, body = await served.post(V1, HI | {"stream": True})

    assert events(chat) == [("start", ""), ("token", '"Hel"'), ("token", '"lo"'), ("done", "")]
    assert body == b"".join(map(sse, chunks)) + DONE
    assert len(up.requests) == 2


async def test_index_of_chunks_is_shown_as_one_answer(tmp_path: Path) -> None:
    """An index that rises with every chunk is one answer for Chat Nest; on `/v1` the bytes are as upstream sent them."""
    chunks = [{"choices": [{"index": at + 1, "delta": {"content": text}}]} for at, text in enumerate("Hello")]
    chunks.append({"choices": [{"index": 6, "delta": {}, "finish_reason": "stop"}]})
    async with (
        upstream(answers(*chunks, done=False)) as up,
        sidecar(settings_of(tmp_path, up.url, RETRIES)) as served,
    ):
        _, _, chat = await served.post("/api/chat", CHAT)
        _, _, body = await served.post(V1, HI | {"stream": True})

    assert events(chat) == [("start", ""), *[("token", json.dumps(text)) for text in "Hello"], ("done", "")]
    assert body == b"".join(map(sse, chunks)) + DONE


@pytest.mark.parametrize("size", [1, 2_000_000], ids=["1,500 pieces", "2 MB"])
async def test_large_answers_of_other_forms_pass(tmp_path: Path, size: int) -> None:
    """1,500 pieces of a vendor's field and one of 2 MB pass on both paths, and upstream is asked once each time."""
    pieces = [chunk({"images": [{"url": "A" * size}]})] * (1_500 if size == 1 else 1)
    script = answers(ROLE, *pieces, chunk({}, "stop"))
    async with upstream(script) as up, sidecar(settings_of(tmp_path, up.url, RETRIES)) as served:
        _, _, chat = await served.post("/api/chat", CHAT)
        _, _, body = await served.post(V1, HI | {"stream": True})
        account = await served.account()

    assert events(chat) == [("start", ""), ("done", "")]
    assert body == sse(ROLE) + b"".join(map(sse, pieces)) + sse(chunk({}, "stop")) + DONE
    assert (len(up.requests), account.reserved) == (2, 0)
    assert 2 * len(pieces) <= account.spent <= 4_000


async def test_unreported_empty_stop_is_still_asked_again(tmp_path: Path) -> None:
    """An empty stop without reported tokens is asked again once: some servers answer so by accident."""
    empty = answers(ROLE, chunk({}, "stop"))
    fine = answers(ROLE, chunk({"content": "fine"}), chunk({}, "stop"))
    async with upstream(empty, fine) as up, sidecar(settings_of(tmp_path, up.url, RETRIES)) as served:
        _, _, chat = await served.post("/api/chat", CHAT)

    assert events(chat) == [("start", ""), ("token", '"fine"'), ("done", "")]
    assert len(up.requests) == 2
