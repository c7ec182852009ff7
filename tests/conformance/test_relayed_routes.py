"""Routes of `[server] passthrough` over real sockets: what an upstream gets, what a client sees, and what it costs."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from api_keys import key
from recording import SERVERS, recorded
from relaying import Received, RelayUpstream, echoes, relay_upstream
from serving import settings_of, sidecar
from wire import TIMEOUT_SECONDS, chunk, eventually

from sidecar.config.settings import Settings
from sidecar.server.gateway import Gateway
from sidecar.server.http1.http_protocol import HttpProtocol

pytestmark = pytest.mark.anyio

RERANK = {"model": "m", "query": "q", "documents": ["a", "b"]}
BUDGET = '[[policy]]\nuse = "budget"\ntokens = 10_000\n[[policy]]\nuse = "retry"\nbase = 0.0\ncap = 0.0\n'
SPEECH = '[server]\npassthrough = [{ path = "/v1/audio/speech", tokens_each = 2_000 }]\n' + BUDGET


def routes(*paths: str, more: str = "") -> str:
    return f"[server]\npassthrough = {json.dumps(list(paths))}\n{more}"


def form(*parts: tuple[str, bytes], boundary: str = "xyz") -> bytes:
    """Return a multipart form; a name with a colon is that of a file."""
    lines = b""
    for name, value in parts:
        field, _, file = name.partition(":")
        named = f'; filename="{file}"' if file else ""
        head = f'--{boundary}\r\ncontent-disposition: form-data; name="{field}"{named}\r\n\r\n'
        lines += head.encode() + value + b"\r\n"
    return lines + f"--{boundary}--\r\n".encode()


FORM_TYPE = "content-type: multipart/form-data; boundary=xyz"


@SERVERS
async def test_json_is_relayed_as_it_was_sent(tmp_path: Path, protocol: type[asyncio.Protocol]) -> None:
    """A request keeps method, path, body and the headers about it, and loses credentials, cookies and hop-by-hop headers."""
    raw = b'{ "model": "m", "n": 1.0, "n": 1e2, "documents": ["\\u00e9"] }'
    sent = (
        "accept: application/json;q=1",
        "cookie: a=b",
        "x-api-key: k",
        "proxy-authorization: p",
        "x-own: 1",
        "te: trailers",
    )
    async with relay_upstream() as up, recorded(tmp_path, up.url, routes("/v1/rerank"), protocol=protocol) as it:
        status, headers, body = await it.served.post("/v1/rerank?top=2&api_key=s&x=%20", raw, *sent)
        record = await it.one()

    (request,) = up.requests
    assert (status, body, headers["content-type"]) == (200, b'{"ok": true}', "application/json")
    assert (request.method, request.target, request.body) == ("POST", "/v1/rerank?top=2&x=%20", raw)
    assert request.header("accept") == "application/json;q=1"
    assert not {"cookie", "x-api-key", "proxy-authorization", "x-own", "te"} & {name for name, _ in request.fields}
    assert (record.route, record.operation, record.model_asked, record.status) == (
        "/v1/rerank",
        "passthrough",
        "m",
        200,
    )
    assert (record.request_bytes, record.answer_bytes) == (len(raw), len(body))


async def test_paths_of_engines_are_at_the_origin(tmp_path: Path) -> None:
    """A path outside of `/v1` is requested at the origin of the upstream, one with ids as it was sent."""
    text = routes("/tokenize", "/v1/files/{id}/content", "/v1/files")
    async with relay_upstream() as up, sidecar(settings_of(tmp_path, up.url, text)) as served:
        await served.post("/tokenize", {"content": "a"})
        await served.get("/v1/files/file-1.a_B/content")
        await served.get("/v1/files")
    targets = [f"{each.method} {each.target}" for each in up.requests]
    assert targets == ["POST /tokenize", "GET /v1/files/file-1.a_B/content", "GET /v1/files"]


@pytest.mark.parametrize(
    "path",
    [
        "/v1/files/../models/content",
        "/v1/files/%2e%2e/content",
        "/v1/files/a%2Fb/content",
        "/v1/files/a%00/content",
        "/v1/files/a;x/content",
        "/v1/files/a%3Fb/content",
        "/v1/files/a%25/content",
        "/v1/files/a:cancel/content",
        "/v1/files//content",
        "/v1/files/a/content/",
        "/v1/files/a/Content",
        "/v1/files/" + "a" * 300 + "/content",
        "/V1/files/a/content",
        "//v1/files/a/content",
    ],
)
async def test_other_spellings_are_not_served(tmp_path: Path, path: str) -> None:
    """Only the path of the configuration, with a plain id, reaches the upstream."""
    async with (
        relay_upstream() as up,
        sidecar(settings_of(tmp_path, up.url, routes("/v1/files/{id}/content"))) as served,
    ):
        status, _, _ = await served.get(path)
    assert (status, up.requests) == (404, [])


@pytest.mark.parametrize(
    ("method", "path", "headers", "status"),
    [
        ("GET", "/v1/rerank", (), 405),
        ("DELETE", "/v1/rerank", (), 405),
        ("OPTIONS", "/v1/rerank", (), 405),
        ("GET", "/v1/files/a", ("content-length: 3",), 400),
        ("POST", "/v1/rerank", ("content-encoding: gzip", "content-length: 0"), 415),
        ("POST", "/v1/rerank?a;b", ("content-length: 0",), 400),
        ("POST", "/v1/rerank?a=%zz", ("content-length: 0",), 400),
        ("POST", "/v1/rerank?" + "&".join("a" * 70), ("content-length: 0",), 400),
        ("POST", "/v1/rerank?a=" + "b" * 5_000, ("content-length: 0",), 400),
        ("POST", "/v1/rerank", ("content-length: 99999999",), 413),
        ("POST", "/v1/rerank", ("content-length: 0", "origin: https://evil.example"), 403),
    ],
)
async def test_refusals_send_nothing_upstream(
    tmp_path: Path, method: str, path: str, headers: tuple[str, ...], status: int
) -> None:
    """Wrong methods, bodies and queries are refused in OpenAI's form, and nothing reaches the upstream."""
    async with (
        relay_upstream() as up,
        sidecar(settings_of(tmp_path, up.url, routes("/v1/rerank", "/v1/files/{id}"))) as served,
    ):
        found, _, body = await served.get(path, *headers, method=method)
    assert (found, up.requests) == (status, [])
    assert json.loads(body)["error"]["code"]


async def test_sounds_come_back_as_bytes(tmp_path: Path) -> None:
    """An answer of any type is relayed with its type, disposition and length, and without cookies and other headers."""
    sound = bytes(range(256)) * 40

    async def speaks(request: Received) -> None:
        await request.whole()
        more = ("content-type: audio/mpeg", 'content-disposition: attachment; filename="a.mp3"')
        await request.answer(200, sound, *more, "set-cookie: a=b", "server: x", "x-request-id: up-1")

    async with relay_upstream(speaks) as up, sidecar(settings_of(tmp_path, up.url, SPEECH)) as served:
        status, headers, body = await served.post("/v1/audio/speech", {"model": "m", "input": "hi"})
        account = await served.account()

    assert (status, body, headers["content-type"], headers["content-length"]) == (200, sound, "audio/mpeg", "10240")
    assert headers["content-disposition"] == 'attachment; filename="a.mp3"'
    assert headers["x-upstream-request-id"] == "up-1"
    assert headers.get("server") != "x"
    assert "set-cookie" not in headers
    assert account.spent == 2_000


async def test_events_come_back_as_they_are(tmp_path: Path) -> None:
    """Events of any form pass byte for byte, each when it arrives, without pings or an end marker."""
    events = [b"event: speech.audio.delta\r\ndata: {}\r\n\r\n", b": c\n\n", b"data: [DONE]\n\n", b"data: x\n\n"]
    seen = asyncio.Event()

    async def streams(request: Received) -> None:
        await request.whole()
        await request.send(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        for event in events:
            seen.clear()
            await request.send(chunk(event))
            await seen.wait()
        await request.send(b"0\r\n\r\n")

    async with relay_upstream(streams) as up, sidecar(settings_of(tmp_path, up.url, SPEECH)) as served:
        client = await served.client()
        await client.post("/v1/audio/speech", {"model": "m"})
        status, headers = await client.head()
        read = []
        for event in events:
            assert await client.until(b"\r\n") == b"%x\r\n" % len(event)
            read.append(await client.reader.readexactly(len(event)))
            await client.until(b"\r\n")
            seen.set()
        end = await client.until(b"0\r\n\r\n")

    assert (status, headers["content-type"], headers["cache-control"]) == (200, "text/event-stream", "no-cache")
    assert (read, end) == (events, b"0\r\n\r\n")


@SERVERS
@pytest.mark.parametrize("framing", ["content-length: 1000", "transfer-encoding: chunked"])
@pytest.mark.parametrize("version", ["1.1", "1.0"])
async def test_cut_answer_is_visible(
    tmp_path: Path, framing: str, version: str, protocol: type[asyncio.Protocol]
) -> None:
    """An answer that the upstream cuts ends without its end: the client's HTTP library raises."""

    async def cuts(request: Received) -> None:
        await request.whole()
        data = chunk(b"abc") if "chunked" in framing else b"abc"
        await request.send(f"HTTP/1.1 200 OK\r\ncontent-type: audio/wav\r\n{framing}\r\n\r\n".encode() + data)
        await request.piece()
        request.close()

    if protocol is not HttpProtocol and version == "1.0":
        pytest.skip("plain ASGI has no way to reset a connection")
    async with relay_upstream(cuts) as up, recorded(tmp_path, up.url, SPEECH, protocol=protocol) as it:
        reader, writer = await asyncio.open_connection("127.0.0.1", it.served.port)
        head = f"POST /v1/audio/speech HTTP/{version}\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n"
        writer.write(head.encode() + b"{}")
        read = b""
        with_reset = False
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                while data := await reader.read(65_536):
                    read += data
        except ConnectionResetError:
            with_reset = True
        writer.close()
        record = await it.one()

    is_chunked = b"transfer-encoding: chunked" in read
    assert read.startswith(b"HTTP/1.1 200")
    assert not read.endswith(b"0\r\n\r\n")
    assert is_chunked or b"content-length: 1000" in read or with_reset
    assert (record.status, record.ending, record.code) == (200, "failed", "stream_interrupted")


async def test_truncated_compressed_answer_is_visible(tmp_path: Path) -> None:
    """A compressed answer that ends inside of its stream is cut for the client, although its HTTP message is complete."""
    packed = gzip.compress(bytes(range(256)) * 4_000)

    async def truncates(request: Received) -> None:
        await request.whole()
        await request.answer(200, packed[:-200], "content-encoding: gzip")

    async with relay_upstream(truncates) as up, recorded(tmp_path, up.url, routes("/v1/rerank")) as it:
        client = await it.served.client()
        await client.post("/v1/rerank", RERANK)
        read = await client.until_end()
        record = await it.one()
    assert (read.startswith(b"HTTP/1.1 200"), read.endswith(b"0\r\n\r\n")) == (True, False)
    assert (record.ending, record.code) == ("failed", "stream_interrupted")


@pytest.mark.parametrize(("announced", "status"), [("20", 200), ("7", 200), ("3", 502)])
async def test_length_of_other_transports_is_checked(tmp_path: Path, announced: str, status: int) -> None:
    """An answer of an httpx transport with another length than it announces is cut, and surplus bytes are not relayed."""

    class Pieces(httpx.AsyncByteStream):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            yield b"12345"
            await asyncio.sleep(0.01)
            yield b"67890"

    def answers(_: httpx.Request) -> httpx.Response:
        return httpx.Response(200, headers={"content-length": announced, "content-type": "audio/wav"}, stream=Pieces())

    def over_httpx(settings: Settings) -> Gateway:
        return Gateway(settings, transport=httpx.MockTransport(answers))

    text = routes("/v1/rerank")
    async with recorded(tmp_path, "http://upstream.test/v1", text, make_gateway=over_httpx) as it:
        client = await it.served.client()
        await client.post("/v1/rerank", RERANK, "connection: close")
        read = await client.until_end()
        record = await it.one()
    body = read.partition(b"\r\n\r\n")[2]
    assert read.startswith(f"HTTP/1.1 {status}".encode())
    assert status != 200 or len(body) < int(announced)
    assert record.ending == "failed"


@pytest.mark.parametrize(
    ("status", "body", "shown", "code"),
    [
        (400, b'{"error":{"message":"bad voice","code":"bad"}}', 400, "bad"),
        (404, b"<html>no</html>", 404, "upstream_error"),
        (307, b"", 502, "upstream_error"),
        (500, b'{"error":{"message":"at 10.0.0.1:80"}}', 500, "upstream_error"),
    ],
)
async def test_upstream_errors_are_redacted(tmp_path: Path, status: int, body: bytes, shown: int, code: str) -> None:
    """An error of the upstream comes in OpenAI's form, without addresses, and costs nothing."""

    async def fails(request: Received) -> None:
        await request.whole()
        await request.answer(status, body, "location: http://10.0.0.1/secret")

    async with relay_upstream(fails) as up, sidecar(settings_of(tmp_path, up.url, SPEECH)) as served:
        found, headers, answer = await served.post("/v1/audio/speech", {"model": "m"})
        account = await served.account()

    error = json.loads(answer)["error"]
    assert (found, error["code"]) == (shown, code)
    assert b"10.0.0.1" not in answer
    assert "location" not in headers
    assert account.spent == 0


async def test_short_bodies_are_retried(tmp_path: Path) -> None:
    """A request whose body is in memory is repeated after a failure, like any call; each attempt sends all of it."""

    async def busy(request: Received) -> None:
        await request.whole()
        await request.answer(503, b"{}")

    text = '[server]\npassthrough = ["/v1/files"]\n' + BUDGET
    async with relay_upstream(busy, busy, echoes) as up, sidecar(settings_of(tmp_path, up.url, text)) as served:
        status, _, _ = await served.post("/v1/files", form(("file:a", b"x" * 1_000)), FORM_TYPE)
    assert (status, len(up.requests)) == (200, 3)
    assert len({each.body for each in up.requests}) == 1


async def test_streamed_bodies_are_not_retried(tmp_path: Path) -> None:
    """A body that streamed through cannot be sent again: its client is told that it may try again."""

    async def busy(request: Received) -> None:
        await request.whole(keep=False)
        await request.answer(503, b"{}")

    body = form(("file:a", b"x" * 300_000))
    text = '[server]\npassthrough = ["/v1/files"]\n' + BUDGET
    async with relay_upstream(busy, echoes) as up, sidecar(settings_of(tmp_path, up.url, text)) as served:
        status, headers, _ = await served.post("/v1/files", body, FORM_TYPE)
    assert (status, len(up.requests), up.requests[0].size) == (503, 1, len(body))
    assert "x-should-retry" not in headers


@pytest.mark.parametrize(
    ("type_", "answer", "cost"),
    [
        ("application/json", b'{"usage":{"input_tokens":1000,"output_tokens":4000}}', 5_000),
        ("application/json", b'{"usage":{"input_tokens":1,"output_tokens":4}}', 2_000),
        ("application/x-ndjson", b'{"a":1}\n{"prompt_eval_count":30,"eval_count":3000}\n', 3_030),
        (
            "text/event-stream",
            b'data: {"usage":{"prompt_tokens":9,"completion_tokens":2991}}\n\ndata: [DONE]\n\n',
            3_000,
        ),
        ("application/json", b'{"tokens_predicted":2500,"tokens_evaluated":10}', 2_510),
        ("audio/mpeg", b'{"usage":{"input_tokens":1000,"output_tokens":4000}}', 2_000),
    ],
)
async def test_reports_above_tokens_each_are_charged(tmp_path: Path, type_: str, answer: bytes, cost: int) -> None:
    """A call costs `tokens_each`, or what the upstream reports if that is more."""

    async def reports(request: Received) -> None:
        await request.whole()
        await request.answer(200, answer, f"content-type: {type_}")

    async with relay_upstream(reports) as up, sidecar(settings_of(tmp_path, up.url, SPEECH)) as served:
        await served.post("/v1/audio/speech", {"model": "m"})
        account = await served.account()
    assert (account.spent, account.reserved) == (cost, 0)


async def test_budget_bounds_the_calls(tmp_path: Path) -> None:
    """Calls of a generating route are refused when the budget has no room for another `tokens_each`; refused ones are free."""
    async with relay_upstream() as up, sidecar(settings_of(tmp_path, up.url, SPEECH)) as served:
        answers = [await served.post("/v1/audio/speech", {"model": "m"}) for _ in range(6)]
        account = await served.account()
    assert [status for status, _, _ in answers] == [200] * 5 + [429]
    assert json.loads(answers[-1][2])["error"]["code"] == "budget_exceeded"
    assert (account.spent, len(up.requests)) == (10_000, 5)


@pytest.mark.parametrize(("model", "cost"), [("cheap", 0.002), ("dear", 0.04), (None, 0.0)])
async def test_dollars_are_those_of_the_dearest_token(tmp_path: Path, model: str | None, cost: float) -> None:
    """A budget in dollars charges each of the `tokens_each` the highest price of the model, which must be named."""
    text = SPEECH.replace("tokens = 10_000", "usd = 1.0") + (
        "[prices.cheap]\ninput = 1\noutput = 0.5\n[prices.dear]\ninput = 1\noutput = 20\n"
    )
    async with relay_upstream() as up, sidecar(settings_of(tmp_path, up.url, text, model="cheap")) as served:
        body = {"input": "hi"} if model is None else {"model": model, "input": "hi"}
        status, _, answer = await served.post("/v1/audio/speech", body)
        if model is None:
            assert (status, json.loads(answer)["error"]["param"]) == (400, "model")
            return
        account = await served.account()
    assert (status, account.spent) == (200, round(cost * 1_000_000))


async def test_rate_and_keys_hold(tmp_path: Path) -> None:
    """A relayed route is under keys and rates, and the upstream never gets a key of the sidecar."""
    text = routes("/v1/rerank", more='[[policy]]\nuse = "rate"\nrequests = 2\n' + key("k", "acme"))
    async with relay_upstream() as up, recorded(tmp_path, up.url, text) as it:
        without, _, _ = await it.served.post("/v1/rerank", RERANK)
        found = [await it.served.post("/v1/rerank", RERANK, "authorization: Bearer k") for _ in range(3)]
        await eventually(lambda: len(it.records) == 4)

    assert (without, [status for status, _, _ in found]) == (401, [200, 200, 429])
    assert found[0][1]["ratelimit-policy"]
    assert len(up.requests) == 2
    assert all(each.header("authorization") is None for each in up.requests)
    assert [each.tenant for each in it.records] == ["", "acme", "acme", "acme"]


ONE_MODEL = key("k", "acme", 'models = ["small"]')
SMALL = b"small"


@pytest.mark.parametrize(
    ("path", "body", "type_", "status"),
    [
        ("/v1/rerank", b'{"model":"small"}', "application/json", 200),
        ("/v1/rerank", b'{"model":"big"}', "application/json", 403),
        ("/v1/rerank", b'{"query":"q"}', "application/json", 403),
        ("/v1/rerank", b'{"model":"small","Model":"big"}', "application/json", 403),
        ("/v1/rerank", b'{"model":["big"]}', "application/json", 403),
        ("/v1/rerank", b'{"model":"small","fallbacks":["big"]}', "application/json", 403),
        ("/v1/rerank", b'[{"model":"big"}]', "application/json", 403),
        ("/v1/rerank", b'{"model":"small"', "application/json", 403),
        ("/v1/rerank", b'{"model":"small"}', "text/plain", 403),
        ("/v1/rerank", b"", "application/json", 403),
        ("/v1/rerank?model=big", b'{"model":"small"}', "application/json", 403),
        ("/v1/rerank?model=small", b"{}", "application/json", 200),
        ("/v1/rerank?provider=x", b'{"model":"small"}', "application/json", 403),
        ("/v1/rerank", form(("model", SMALL), ("file:a", b"x")), "multipart/form-data; boundary=xyz", 200),
        ("/v1/rerank", form(("model", b"big"), ("file:a", b"x")), "multipart/form-data; boundary=xyz", 403),
        ("/v1/rerank", form(("model", SMALL), ("model", b"big")), "multipart/form-data; boundary=xyz", 403),
        ("/v1/rerank", form(("file:a", b"x" * 200_000), ("model", SMALL)), "multipart/form-data; boundary=xyz", 403),
        ("/v1/rerank", form(("file:a", b"x")), "multipart/form-data; boundary=xyz", 403),
        ("/v1/rerank", form(("model", SMALL)), "multipart/form-data", 403),
        ("/v1/files", form(("purpose", b"x"), ("file:a", b"x")), "multipart/form-data; boundary=xyz", 200),
    ],
    ids=str,
)
async def test_models_of_keys_hold(tmp_path: Path, path: str, body: bytes, type_: str, status: int) -> None:
    """A key with `models` reaches these alone: a model that cannot be read in one way only is refused before the upstream."""
    text = routes("/v1/rerank", "/v1/files", more=ONE_MODEL)
    async with relay_upstream() as up, sidecar(settings_of(tmp_path, up.url, text)) as served:
        found, _, answer = await served.post(path, body, f"content-type: {type_}", "authorization: Bearer k")
    assert (found, len(up.requests)) == (status, int(status == 200)), answer
    if status == 200 and type_ == "application/json":
        assert b"big" not in up.requests[0].body


async def test_last_of_repeated_fields_is_the_only_one_that_is_sent(tmp_path: Path) -> None:
    """Where limits depend on the model, a field that occurs twice is sent once: servers differ in which they read."""
    text = routes("/v1/rerank", more=ONE_MODEL)
    async with relay_upstream() as up, sidecar(settings_of(tmp_path, up.url, text)) as served:
        status, _, _ = await served.post("/v1/rerank", b'{"model":"big","model":"small"}', "authorization: Bearer k")
    assert (status, up.requests[0].body) == (200, b'{"model":"small"}')


async def test_second_model_behind_a_long_file_breaks_the_upload(tmp_path: Path) -> None:
    """A second model far behind the first one is refused before the end of the form has reached the upstream."""
    body = form(("model", SMALL), ("file:a", b"x" * 400_000), ("model", b"big"))
    text = routes("/v1/rerank", more=ONE_MODEL)

    async def reads(request: Received) -> None:
        await request.whole(keep=False)

    async with relay_upstream(reads) as up, sidecar(settings_of(tmp_path, up.url, text)) as served:
        status, _, answer = await served.post("/v1/rerank", body, FORM_TYPE, "authorization: Bearer k")
        await asyncio.wait_for(up.requests[0].gone.wait(), TIMEOUT_SECONDS)
    assert (status, b"two models" in answer, up.requests[0].is_complete) == (403, True, False)


async def test_names_of_models_are_those_of_the_upstream(tmp_path: Path) -> None:
    """An alias is replaced in JSON; in a form, which is not changed, it is refused."""
    async with relay_upstream() as up:
        text = f'[server]\npassthrough = ["/v1/rerank"]\n[[upstream]]\nbase_url = "{up.url}"\nmodels = {{ fast = "big" }}\n'
        async with sidecar(settings_of(tmp_path, None, text)) as served:
            status, _, _ = await served.post("/v1/rerank", b'{"a":1,"model":"fast"}')
            refused, _, answer = await served.post("/v1/rerank", form(("model", b"fast")), FORM_TYPE)
    assert (status, json.loads(up.requests[0].body)) == (200, {"a": 1, "model": "big"})
    assert (refused, json.loads(answer)["error"]["code"], len(up.requests)) == (400, "model_not_replaceable", 1)


def posted(up: RelayUpstream) -> int:
    """Return the number of POST requests: with several upstreams, the sidecar also reads their lists of models."""
    return sum(each.method == "POST" for each in up.requests)


async def test_named_upstream_gets_the_calls(tmp_path: Path) -> None:
    """`upstream` names the one that gets the calls of a route."""
    async with relay_upstream() as first, relay_upstream() as second:
        text = '[server]\npassthrough = [{ path = "/v1/rerank", upstream = "b" }]\n'
        for name, up in (("a", first), ("b", second)):
            text += f'[[upstream]]\nname = "{name}"\nbase_url = "{up.url}"\n'
        async with sidecar(settings_of(tmp_path, None, text)) as served:
            await served.post("/v1/rerank", RERANK)
    assert (posted(first), posted(second)) == (0, 1)


async def test_named_upstream_is_the_only_one(tmp_path: Path) -> None:
    """A call of a route with an `upstream` is repeated there, and never falls back to another one."""

    async def busy(request: Received) -> None:
        await request.whole()
        await request.answer(503, b"{}")

    async with relay_upstream() as first, relay_upstream(busy) as second:
        text = '[server]\npassthrough = [{ path = "/v1/rerank", upstream = "b" }]\n'
        for name, up in (("a", first), ("b", second)):
            text += f'[[upstream]]\nname = "{name}"\nbase_url = "{up.url}"\n'
        text += '[[policy]]\nuse = "fallback"\n[[policy]]\nuse = "retry"\nbase = 0.0\ncap = 0.0\n'
        async with sidecar(settings_of(tmp_path, None, text)) as served:
            status, _, _ = await served.post("/v1/rerank", RERANK)
    assert (status, posted(first), posted(second)) == (503, 0, 3)


async def test_answers_of_compressing_servers_are_decoded(tmp_path: Path) -> None:
    """A compressed answer, which was not asked for, is decoded: the client may not know its coding."""
    packed = gzip.compress(b"a" * 100_000)

    async def compresses(request: Received) -> None:
        assert request.header("accept-encoding") == "identity"
        await request.whole()
        await request.answer(200, packed, "content-encoding: gzip")

    async with relay_upstream(compresses) as up, sidecar(settings_of(tmp_path, up.url, routes("/v1/rerank"))) as served:
        status, headers, body = await served.post("/v1/rerank", RERANK)
    assert (status, body, "content-encoding" in headers) == (200, b"a" * 100_000, False)
