"""Error objects of vendors, through OpenAI's own client: the same exception direct and through the sidecar."""

from __future__ import annotations

import json
from base64 import b64encode
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import openai
import pytest
from recording import recorded
from serving import CHAT, events, settings_of, sidecar
from wire import HEAD, Connection, Script, eventually, sse, token, upstream

pytestmark = pytest.mark.anyio

HI: list[openai.types.chat.ChatCompletionMessageParam] = [{"role": "user", "content": "hi"}]
KEY = "sk-of-the-client-0123456789"
NO_RETRY = "[[policy]]\nuse = 'budget'\ntokens = 100_000\n"

# Shapes from public documentation and issues of the vendors: OpenRouter's "Errors and Debugging", openai/openai-dotnet#55
# (Azure), google-gemini/gemini-cli#14811, ggml-org/llama.cpp tools/server/README.md; texts are shortened.
VENDORS: dict[str, tuple[int, Any]] = {
    "OpenAI": (429, {"error": {"message": "Rate limit reached for gpt-4o: Limit 3, Used 3, Requested 1.", "type": "requests", "param": None, "code": "rate_limit_exceeded"}}),
    "OpenAI quota": (429, {"error": {"message": "You exceeded your current quota.", "type": "insufficient_quota", "param": None, "code": "insufficient_quota"}}),
    "OpenAI server": (500, {"error": {"message": "The server had an error.", "type": "server_error", "param": None, "code": None}}),
    "OpenRouter": (429, {"error": {"message": "Provider returned error", "code": 429, "metadata": {"raw": '{"error":"slow down"}', "provider_name": "Together"}}}),
    "Azure": (400, {"error": {"message": "The response was filtered.", "type": None, "param": "prompt", "code": "content_filter", "status": 400, "innererror": {"code": "ResponsibleAIPolicyViolation", "content_filter_result": {"hate": {"filtered": True, "severity": "high"}}}}}),
    "llama.cpp": (400, {"error": {"code": 400, "message": "the request exceeds the available context size", "type": "exceed_context_size_error", "n_prompt_tokens": 900, "n_ctx": 512}}),
    "vLLM": (404, {"error": {"message": "The model `x` does not exist.", "type": "NotFoundError", "param": "model", "code": 404}}),
    "Groq": (400, {"error": {"message": "Failed to call a function.", "type": "invalid_request_error", "code": "tool_use_failed", "failed_generation": "<function=x>{}"}}),
}  # fmt: skip
GOOGLE = {"error": {"code": 429, "message": "Quota exceeded.", "status": "RESOURCE_EXHAUSTED", "details": [{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "17s"}]}}  # fmt: skip


def answers(status: int, body: Any) -> Script:
    """Answer every request with *status* and *body* as JSON."""

    async def script(connection: Connection) -> None:
        await connection.answer(status, json.dumps(body).encode())

    return script


def streams(*events_before: bytes, error: Any) -> Script:
    """Stream *events_before*, then an event with *error*, then the end mark, as vLLM does."""

    async def script(connection: Connection) -> None:
        await connection.send(HEAD)
        for event in (*events_before, sse(error), b"data: [DONE]\n\n"):
            await connection.chunk(event)
        await connection.send(b"0\r\n\r\n")

    return script


async def raised(url: str, *, stream: bool) -> openai.APIError:
    """Return what OpenAI's client raises for one call at *url*."""
    async with openai.AsyncOpenAI(base_url=url, api_key=KEY, max_retries=0) as client:
        with pytest.raises(openai.APIError) as caught:
            if stream:
                async for _ in await client.chat.completions.create(model="m", messages=HI, stream=True):
                    pass
            else:
                await client.chat.completions.create(model="m", messages=HI)
    return caught.value


def seen(error: openai.APIError) -> dict[str, Any]:
    """Return what a program can read of *error*; the fields that the sidecar adds to a partial object do not count."""
    found = {"class": type(error), "status": getattr(error, "status_code", None), "body": error.body}
    return found | {"code": error.code, "type": error.type, "param": error.param}


def assert_equal(direct: openai.APIError, through: openai.APIError) -> None:
    """Check that *through* has all that *direct* has, and beside it only the sidecar's code, type and param."""
    first, second = seen(direct), seen(through)
    assert isinstance(first["body"], dict)
    assert isinstance(second["body"], dict)
    assert second["body"].items() >= first["body"].items()
    assert second["body"].keys() <= first["body"].keys() | {"code", "type", "param"}
    for name, value in first.items():
        if name != "body" and not (value is None and name not in first["body"]):
            assert second[name] == value, name
    if first["body"].keys() >= {"code", "type", "param"}:
        assert str(direct) == str(through)


async def compared(tmp_path: Path, script: Script, *, stream: bool) -> openai.APIError:
    """Compare the exceptions of a call direct and through the sidecar, and return the latter."""
    async with upstream(script) as up, sidecar(settings_of(tmp_path, up.url, NO_RETRY)) as served:
        direct = await raised(up.url, stream=stream)
        through = await raised(f"{served.url}/v1", stream=stream)
    assert_equal(direct, through)
    return through


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("vendor", VENDORS)
async def test_error_response_raises_the_same(tmp_path: Path, vendor: str, *, stream: bool) -> None:
    """An error response raises the same exception with the same fields, for plain calls and streams."""
    status, body = VENDORS[vendor]
    await compared(tmp_path, answers(status, body), stream=stream)


@pytest.mark.parametrize("before", [(), (token("a"),)], ids=["before output", "after output"])
@pytest.mark.parametrize("vendor", VENDORS)
async def test_error_event_keeps_its_object(tmp_path: Path, vendor: str, before: tuple[bytes, ...]) -> None:
    """An error event keeps its object: as a response before output, as the last event of the stream after it."""
    _, body = VENDORS[vendor]
    async with upstream(streams(*before, error=body)) as up, sidecar(settings_of(tmp_path, up.url, NO_RETRY)) as served:
        error = await raised(f"{served.url}/v1", stream=True)

    assert isinstance(error.body, dict)
    assert error.body.items() >= body["error"].items()
    assert isinstance(error, openai.APIStatusError) is not bool(before)


async def test_error_of_google_keeps_its_details(tmp_path: Path) -> None:
    """Google's endpoint sends a list; its object, with status and details, is what the client reads."""
    async with upstream(answers(429, [GOOGLE])) as up, sidecar(settings_of(tmp_path, up.url, NO_RETRY)) as served:
        error = await raised(f"{served.url}/v1", stream=False)

    assert isinstance(error.body, dict)
    assert error.body.items() >= GOOGLE["error"].items()
    assert (error.code, type(error)) == ("429", openai.RateLimitError)


async def test_page_of_a_proxy_is_hidden(tmp_path: Path) -> None:
    """A page or a text of a proxy is hidden behind the sidecar's own message."""
    for raw in (b"<html><h1>502 Bad Gateway</h1>gpu7</html>", b"upstream gpu7 timed out", b'"gpu7 is down"'):

        async def script(connection: Connection, raw: bytes = raw) -> None:
            await connection.answer(502, raw)

        async with upstream(script) as up, sidecar(settings_of(tmp_path, up.url, NO_RETRY)) as served:
            status, _, body = await served.post("/v1/chat/completions", {"model": "m", **CHAT})

        assert (status, json.loads(body)["error"]["code"]) == (502, "upstream_error")
        assert b"gpu7" not in body


async def test_key_in_any_field_is_hidden(tmp_path: Path) -> None:
    """The sidecar's key is hidden in every field, in responses, events and Chat Nest's events."""
    key = "own-opaque-key-987654"
    error = {"message": f"for {key}", "code": 400, "metadata": {"raw": [f"Bearer {key}"], key: 1, "host": "gpu7"}}
    for script in (answers(400, {"error": error}), streams(token("a"), error={"error": error})):
        async with upstream(script) as up:
            settings = settings_of(tmp_path, up.url, NO_RETRY, environ={"SIDECAR_UPSTREAM_KEY": key})
            async with sidecar(settings) as served:
                bodies = [
                    (await served.post("/v1/chat/completions", {"model": "m", "stream": True, **CHAT}))[2],
                    (await served.post("/api/chat", CHAT))[2],
                ]
        assert b"[redacted]" in bodies[0]
        for body in bodies:
            assert key.encode() not in body
            assert b"gpu7" not in body


OWN_KEY = "sk-proj-Ab3dEf7hIjKlMnOpQr9tUvWxYz012345"
KEY_LETTERS = "".join(filter(str.isalnum, OWN_KEY))
WRAPPED_KEY = f"{OWN_KEY[:15]}\n    {OWN_KEY[15:]}"
FORMS = [
    WRAPPED_KEY,
    json.dumps(json.dumps(WRAPPED_KEY)),
    quote("".join(f"%{ord(char):02x}" for char in OWN_KEY)),
    b64encode(f"user:{OWN_KEY}".encode()).decode(),
    "".join(f"&#{ord(char)};" for char in OWN_KEY),
    f"{'word ' * 1_597}  {OWN_KEY}",
]


@pytest.mark.parametrize("form", FORMS, ids=["wrapped", "JSON", "URL", "base64", "HTML", "at the limit"])
@pytest.mark.parametrize("client", [False, True], ids=["own key", "client's key"])
async def test_key_in_any_form_reaches_no_client(tmp_path: Path, form: str, *, client: bool) -> None:
    """The key that was sent upstream, in any form and in any place of an answer that is an error, reaches no client and no record."""
    error = {
        "message": f"for {form}",
        "param": form[-100:],
        "metadata": {"raw": json.dumps({"error": form}), "x": [OWN_KEY[at : at + 6] for at in range(0, 40, 6)]},
    }
    choice = {"index": 0, "delta": {"content": "b"}, "finish_reason": "error", "error": error}
    scripts = (
        answers(400, {"error": error}),
        streams(token("a"), error={"error": error}),
        streams(token("a"), error={"choices": [choice]}),
    )
    environ = {} if client else {"SIDECAR_UPSTREAM_KEY": OWN_KEY}
    headers = [f"authorization: Bearer {OWN_KEY}"] if client else []
    for at, script in enumerate(scripts):
        async with upstream(script) as up, recorded(tmp_path, up, NO_RETRY, environ=environ) as it:
            v1 = await it.served.post("/v1/chat/completions", {"model": "m", "stream": True, **CHAT}, *headers)
            seen = [v1[2], (await it.served.post("/api/chat", CHAT, *headers))[2]]
            if at == 0:
                seen.append((await it.served.get("/v1/models", *headers))[2])
            await eventually(lambda it=it, seen=seen: len(it.records) == len(seen))  # type: ignore[misc]
        for text in (*seen, *(repr(record).encode() for record in it.records)):
            letters = "".join(filter(str.isalnum, text.decode()))
            assert not [piece for at in range(len(KEY_LETTERS) - 7) if (piece := KEY_LETTERS[at : at + 8]) in letters]


async def test_upstream_request_id_has_no_part_of_the_key(tmp_path: Path) -> None:
    """A request id that holds a part of the sidecar's key, or its base64, is not passed on; another one is."""
    for value, passed in (("req_1", "req_1"), (OWN_KEY[4:20], None), (b64encode(OWN_KEY.encode()).decode(), None)):

        async def script(connection: Connection, value: str = value) -> None:
            body = b'{"choices": [{"index": 0, "message": {"content": "a"}, "finish_reason": "stop"}]}'
            head = f"HTTP/1.1 200 OK\r\nx-request-id: {value}\r\ncontent-length: {len(body)}\r\n\r\n"
            await connection.send(head.encode() + body)

        async with upstream(script) as up:
            settings = settings_of(tmp_path, up.url, NO_RETRY, environ={"SIDECAR_UPSTREAM_KEY": OWN_KEY})
            async with sidecar(settings) as served:
                status, headers, _ = await served.post("/v1/chat/completions", {"model": "m", **CHAT})
        assert (status, headers.get("x-upstream-request-id")) == (200, passed)


@pytest.mark.parametrize(
    ("text", "environ", "status", "code"),
    [
        ("", {}, 401, "invalid_api_key"),
        ("", {"SIDECAR_UPSTREAM_KEY": "own-opaque-key-987654"}, 502, "upstream_error"),
        (f"[[key]]\ntenant = 't'\nsha256 = '{sha256(KEY.encode()).hexdigest()}'\n", {}, 502, "upstream_error"),
    ],
    ids=["the client's key", "the sidecar's key", "no key is sent"],
)
async def test_refused_key_blames_its_holder(
    tmp_path: Path, text: str, environ: dict[str, str], status: int, code: str
) -> None:
    """A refused key is the client's 401 where its own key was sent, and a 502 where the sidecar holds the key."""
    refused = {
        "error": {"message": "Incorrect API key provided.", "type": "x", "param": None, "code": "invalid_api_key"}
    }
    async with (
        upstream(answers(401, refused)) as up,
        sidecar(settings_of(tmp_path, up.url, NO_RETRY + text, environ=environ)) as served,
    ):
        error = await raised(f"{served.url}/v1", stream=False)
        assert isinstance(error, openai.APIStatusError)
        assert (error.status_code, error.code, error.response.headers["x-should-retry"]) == (status, code, "false")
        _, _, chat = await served.post("/api/chat", CHAT, f"authorization: Bearer {KEY}")

    assert json.loads(events(chat)[-1][1])["retryable"] is False
    if status != httpx.codes.UNAUTHORIZED:
        assert "key" not in str(error.body)
