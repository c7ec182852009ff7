"""`POST /v1/responses` through the real server: every event as it came, every failure as SDKs raise it."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import openai
import pytest
from apis.api import breaks, cut, ends_early, fails, stalls, starts_with
from apis.responses import RESPONSES, begin, fails_after_text, reasons, refuses
from apis.texts import HELLO
from samples.recorded_answers import LLAMA_CPP
from samples.response_object import ANSWERS, MESSAGE, SERVER_ERROR, USAGE, response
from samples.responses import EVENTS, STREAMS, ended, message_events, numbered, opened
from samples.sample import named_event
from serving import settings_of, sidecar
from wire import HEAD, Client, Connection, Script, eventually, upstream

pytestmark = pytest.mark.anyio

PATH = "/v1/responses"
CALL: dict[str, Any] = {"model": "m", "input": "hi", "stream": True}
PROMPT_TOKENS = 5
RATE_LIMIT = {"message": "Slow down.", "type": "requests", "code": "rate_limit_exceeded", "param": None}
BUDGET = '[[policy]]\nuse = "budget"\ntokens = 100_000\nanswer = 1_000\n'
RETRIES = BUDGET + '[[policy]]\nuse = "retry"\nattempts = 3\n'


def plays(*events: bytes, ends: bool = True) -> Script:
    """Return a script that streams *events*, each in a write of its own."""

    async def script(connection: Connection) -> None:
        await connection.send(HEAD)
        for event in events:
            await connection.chunk(event)
            await asyncio.sleep(0)
        if ends:
            await connection.send(b"0\r\n\r\n")

    return script


def sdk(url: str) -> openai.AsyncOpenAI:
    """Return OpenAI's client of the server at *url*."""
    return openai.AsyncOpenAI(base_url=url, api_key="k", max_retries=0)


def answers(body: object, status: int = 200) -> Script:
    """Return a script that answers with *body* as JSON."""

    async def script(connection: Connection) -> None:
        await connection.answer(status, json.dumps(body).encode())

    return script


def read(body: bytes) -> list[dict[str, Any]]:
    """Return the events of *body*; the name of each is its type, and each ends with a blank line."""
    *blocks, rest = body.split(b"\n\n")
    assert rest == b""
    events = []
    for block in blocks:
        lines = [line for line in block.split(b"\n") if not line.startswith(b":")]
        data: dict[str, Any] = json.loads(lines[-1].removeprefix(b"data: "))
        assert lines[:-1] in ([], [b"event: " + data["type"].encode()])
        events.append(data)
    return events


@pytest.mark.parametrize("name", [name for name in STREAMS if "failed" not in name and "error" not in name])
async def test_stream_passes_byte_for_byte(tmp_path: Path, name: str) -> None:
    """The bytes of a stream are those of upstream; its usage is charged, and no `[DONE]` follows."""
    raw = [named_event(fields) for fields in STREAMS[name]]
    async with upstream(plays(*raw)) as up, sidecar(settings_of(tmp_path, up.url, BUDGET)) as served:
        status, headers, body = await served.post(PATH, CALL)
        account = await served.account()
    assert (status, headers["content-type"]) == (200, "text/event-stream")
    assert body == b"".join(raw)
    assert (account.spent, account.reserved) == (USAGE["total_tokens"], 0)


async def test_every_event_class_passes_byte_for_byte(tmp_path: Path) -> None:
    """All event classes of the SDK, and types that it does not know, between the first and the last event."""
    later = {"type": "response.later.delta", "delta": {"new": ["x"]}, "sequence_number": 900}
    middle = [each.fields for each in EVENTS if each.fields["type"] not in ("error", "response.created")]
    middle = [each for each in middle if "response" not in each or each["type"] == "response.in_progress"]
    raw = [named_event(fields) for fields in (*opened(), *middle, later, ended("completed", MESSAGE))]
    async with upstream(plays(*raw)) as up, sidecar(settings_of(tmp_path, up.url, BUDGET)) as served:
        _, _, body = await served.post(PATH, CALL)
    assert body == b"".join(raw)
    assert len(raw) > 55


async def test_answer_of_llama_cpp_passes(tmp_path: Path) -> None:
    """Events without numbers and places, as llama.cpp's server sends them, are as they came; a `[DONE]` is dropped."""
    recorded = LLAMA_CPP["responses_stream.sse"]
    script = plays(recorded, b"data: [DONE]\n\n")
    async with upstream(script) as up, sidecar(settings_of(tmp_path, up.url, BUDGET)) as served:
        _, _, body = await served.post(PATH, CALL)
        account = await served.account()
    assert body == recorded
    assert account.spent == 27


@pytest.mark.parametrize(
    "sample", [each for each in ANSWERS if each.kind not in ("failed", "queued", "cancelled")], ids=str
)
async def test_whole_answer_passes_byte_for_byte(tmp_path: Path, sample: Any) -> None:
    """An answer without `stream` is as upstream sent it; charged is what it reports, or what was read if that is more."""
    async with upstream(answers(sample.fields)) as up, sidecar(settings_of(tmp_path, up.url, BUDGET)) as served:
        status, _, body = await served.post(PATH, CALL | {"stream": False})
        account = await served.account()
    assert (status, body) == (200, json.dumps(sample.fields).encode())
    assert account.spent >= USAGE["total_tokens"]
    assert account.reserved == 0


@pytest.mark.parametrize(
    "sample", [each for each in ANSWERS if each.kind not in ("failed", "queued", "cancelled")], ids=str
)
async def test_whole_answer_to_a_streaming_client_becomes_events(tmp_path: Path, sample: Any) -> None:
    """A server that answers a request for a stream with one object: the SDK reads the same response at the end."""
    async with (
        upstream(answers(sample.fields)) as up,
        sidecar(settings_of(tmp_path, up.url, BUDGET)) as served,
        sdk(f"{served.url}/v1") as client,
        client.responses.stream(model="m", input="hi") as stream,
    ):
        types = [event.type async for event in stream]
        final = await stream.get_final_response() if sample.kind != "incomplete" else None
    assert types[:2] == ["response.created", "response.in_progress"]
    assert types[-1] == f"response.{sample.fields['status']}"
    if final is not None:
        assert final.output_text == openai.types.responses.Response.model_validate(sample.fields).output_text


@pytest.mark.parametrize(
    "reported",
    [{"usage": None}, {"usage": {"input_tokens": 0, "output_tokens": 0, "total_tokens": 0}}],
    ids=["none", "zero"],
)
@pytest.mark.parametrize("stream", [True, False])
async def test_answer_without_a_report_is_charged_by_what_was_read(
    tmp_path: Path, reported: dict[str, Any], *, stream: bool
) -> None:
    """A missing or zero usage never makes a call free: the prompt's estimate and the output count."""
    done = ended("completed", MESSAGE, **reported)
    raw = [named_event(fields) for fields in (*opened(), *message_events(*"abcd"), done)]
    body = response("completed", [MESSAGE], **reported)
    script = plays(*raw) if stream else answers(body)
    async with upstream(script) as up, sidecar(settings_of(tmp_path, up.url, BUDGET)) as served:
        await served.post(PATH, CALL | {"stream": stream})
        account = await served.account()
    output = 4 if stream else 3
    assert PROMPT_TOKENS + output <= account.spent <= PROMPT_TOKENS + output + 3


async def raised(url: str, *, stream: bool) -> openai.APIError:
    """Return what OpenAI's client raises for one call at *url*."""
    async with sdk(url) as client:
        with pytest.raises(openai.APIError) as caught:
            if stream:
                async for _ in await client.responses.create(model="m", input="hi", stream=True):
                    pass
            else:
                await client.responses.create(model="m", input="hi")
    return caught.value


FAILURES: dict[str, Script] = {
    "cut": cut(RESPONSES),
    "ends early": ends_early(RESPONSES),
    "error event": breaks(RESPONSES, RATE_LIMIT),
    "response.failed": fails_after_text,
    "not JSON": plays(*map(named_event, STREAMS["text"][:6]), b"event: x\ndata: {nonsense\n\n"),
    "error object": plays(*map(named_event, STREAMS["text"][:6]), b'data: {"error": {"message": "Slow down."}}\n\n'),
}


@pytest.mark.parametrize("name", FAILURES)
async def test_broken_stream_ends_with_an_error_event(tmp_path: Path, name: str) -> None:
    """A stream that breaks after output ends with one `error` event, numbered on, with which the SDK raises; it is charged."""
    async with upstream(FAILURES[name]) as up, sidecar(settings_of(tmp_path, up.url, RETRIES)) as served:
        status, _, body = await served.post(PATH, CALL)
        error = await raised(f"{served.url}/v1", stream=True)
        account = await served.account()
        asked = len(up.requests)
    events = read(body)
    assert (status, asked) == (200, 2)
    assert [event["type"] for event in events].count("error") == 1
    last = events[-1]
    assert last["type"] == "error"
    assert last["sequence_number"] == events[-2]["sequence_number"] + 1
    assert last["message"] == last["error"]["message"] == error.message
    assert {"code", "message", "param"} <= last.keys()
    assert account.reserved == 0
    assert account.spent >= 2 * (PROMPT_TOKENS + 1)
    if name in ("error event", "response.failed"):
        assert last["message"] in (RATE_LIMIT["message"], SERVER_ERROR["message"])


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (RATE_LIMIT, "retried"),
        ({"message": "Bad prompt.", "code": "invalid_prompt", "type": "invalid_request_error", "param": None}, "final"),
    ],
)
@pytest.mark.parametrize("form", ["error event", "failed event", "status"])
async def test_failure_before_output_is_a_true_status_or_a_retry(
    tmp_path: Path, error: dict[str, Any], kind: str, form: str
) -> None:
    """A failure before output is retried by its class, without two `response.created`; else it is an error with its status."""
    failed = named_event(ended("failed", usage=None, error=error))
    scripts = {
        "error event": starts_with(RESPONSES, error),
        "failed event": plays(*map(named_event, opened()), failed),
        "status": fails(RESPONSES, 429 if kind == "retried" else 400, error),
    }
    async with (
        upstream(scripts[form], RESPONSES.answers) as up,
        sidecar(settings_of(tmp_path, up.url, RETRIES)) as served,
    ):
        status, headers, body = await served.post(PATH, CALL)
        account = await served.account()
        asked = len(up.requests)
    if kind == "retried":
        assert (status, asked) == (200, 2)
        assert [event["type"] for event in read(body)].count("response.created") == 1
        assert account.spent == USAGE["total_tokens"]
    else:
        assert asked == 1
        assert status >= 400
        assert headers["content-type"] == "application/json"
        assert json.loads(body)["error"]["message"] == error["message"]
        assert account.spent == 0


@pytest.mark.parametrize("kind", ["failed", "cancelled"])
async def test_whole_answer_that_failed_is_an_error(tmp_path: Path, kind: str) -> None:
    """A response object with a status of failure, under HTTP 200, is an error with a true status."""
    sample = next(each for each in ANSWERS if each.kind == kind)
    async with upstream(answers(sample.fields)) as up, sidecar(settings_of(tmp_path, up.url, BUDGET)) as served:
        status, _, body = await served.post(PATH, CALL | {"stream": False})
    assert status >= 500
    assert json.loads(body)["error"]["message"]


async def test_stalled_stream_ends_with_an_error_event(tmp_path: Path) -> None:
    """An upstream that stops sending is cut after the idle timeout."""
    text = BUDGET + '[[upstream]]\nbase_url = "{url}"\nidle = 0.05\n'
    async with (
        upstream(stalls(RESPONSES)) as up,
        sidecar(settings_of(tmp_path, None, text.format(url=up.url))) as served,
    ):
        _, _, body = await served.post(PATH, CALL)
        await asyncio.wait_for(up.requests[0].gone.wait(), 5)
    assert read(body)[-1]["code"] == "stream_interrupted"


@pytest.mark.parametrize("phase", ["before the head", "before output", "after output"])
async def test_client_that_leaves_closes_upstream(tmp_path: Path, phase: str) -> None:
    """Upstream's connection is closed in each phase; the call is settled by what was read."""

    async def script(connection: Connection) -> None:
        if phase != "before the head":
            await connection.send(HEAD)
            await connection.chunk(b"".join(map(named_event, STREAMS["text"][: 2 if phase == "before output" else 6])))
        await connection.hang()

    async with upstream(script) as up, sidecar(settings_of(tmp_path, up.url, BUDGET)) as served:
        client = await Client.to(served.port)
        await client.post(PATH, CALL)
        await asyncio.wait_for(up.arrived.wait(), 5)
        if phase == "after output":
            await client.until(b'"delta": ", Zo\xc3\xab."')
        client.close()
        await asyncio.wait_for(up.requests[0].gone.wait(), 5)
        account = await served.account()
    assert account.reserved == 0
    assert account.spent == PROMPT_TOKENS + (2 if phase == "after output" else 0)


@pytest.mark.parametrize("script", [RESPONSES.answers, reasons, refuses], ids=["text", "reasoning", "refusal"])
async def test_sdk_reads_the_same_through_the_sidecar(tmp_path: Path, script: Script) -> None:
    """OpenAI's client reads the same events and the same final response as from upstream itself."""
    found = []
    async with upstream(script) as up, sidecar(settings_of(tmp_path, up.url, BUDGET)) as served:
        for url in (up.url, f"{served.url}/v1"):
            async with sdk(url) as client:
                events = [event async for event in await client.responses.create(model="m", input="hi", stream=True)]
                whole = await client.responses.create(model="m", input="hi")
                found.append(([event.model_dump() for event in events], whole.model_dump()))
    assert found[0] == found[1]
    if script is RESPONSES.answers:
        assert whole.output_text == "".join(HELLO)


async def test_tool_loop_of_the_sdk(tmp_path: Path) -> None:
    """A function call is streamed, its result sent back, and the answer read."""
    tool: Any = {"type": "function", "name": "get_weather", "parameters": {"type": "object"}, "strict": False}
    async with (
        upstream(RESPONSES.answers) as up,
        sidecar(settings_of(tmp_path, up.url, BUDGET)) as served,
        sdk(f"{served.url}/v1") as client,
    ):
        async with client.responses.stream(model="m", input="hi", tools=[tool]) as stream:
            async for _ in stream:
                pass
            (call,) = (await stream.get_final_response()).output
        assert call.type == "function_call"
        result = {"type": "function_call_output", "call_id": call.call_id, "output": "21"}
        asked: Any = [{"role": "user", "content": "hi"}, call.model_dump(), result]
        final = await client.responses.create(model="m", input=asked, tools=[tool])
    assert json.loads(call.arguments) == {"city": "Oslo"}
    assert "21" in final.output_text


async def test_heartbeat_between_typed_events(tmp_path: Path) -> None:
    """Comments between events do not disturb OpenAI's client, before the first event and after output."""
    text = "[server]\nheartbeat = 0.02\n" + BUDGET
    more = asyncio.Event()

    async def script(connection: Connection) -> None:
        await begin(connection)
        await more.wait()
        await connection.chunk(b"".join(map(named_event, numbered(*STREAMS["text"])[6:])))
        await connection.send(b"0\r\n\r\n")

    async with upstream(script) as up, sidecar(settings_of(tmp_path, up.url, text)) as served:
        reader = await served.client()
        await reader.post(PATH, CALL)
        body = await reader.until(b": ping\n")
        async with sdk(f"{served.url}/v1") as client:
            stream = await client.responses.create(model="m", input="hi", stream=True)
            await eventually(lambda: len(up.requests) == 2)
            await reader.until(b": ping\n")
            more.set()
            types = [event.type async for event in stream]
    assert b"response.output_text.delta" in body
    assert types[-1] == "response.completed"


async def test_upstream_without_the_route_says_so(tmp_path: Path) -> None:
    """A 404 of a server that lacks the API names the route."""

    async def script(connection: Connection) -> None:
        await connection.answer(404, b'{"detail":"Not Found"}')

    async with upstream(script) as up, sidecar(settings_of(tmp_path, up.url, BUDGET)) as served:
        status, _, body = await served.post(PATH, CALL)
    assert status == 404
    assert "/responses" in json.loads(body)["error"]["message"]
