"""A `base_url` that lacks `/v1`: the log names the URL once; a model that a server does not have is no such case."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from serving import CHAT, settings_of, sidecar
from upstream_tables import FALLBACK, HI, lists, table
from wire import Connection, Script, upstream

from sidecar.upstream.missing_route import lacks_route

pytestmark = pytest.mark.anyio

V1 = "/v1/chat/completions"
LM_STUDIO = b'{"error":"Unexpected endpoint or method. (POST /chat/completions)"}'
"""Under status 200. Source: lmstudio-ai/lmstudio-bug-tracker#618."""
MISSING_ROUTES = {
    "Ollama (ollama/ollama#6013)": (404, b"404 page not found"),
    "FastAPI: vLLM, SGLang": (404, b'{"detail":"Not Found"}'),
    "OpenAI": (404, b'{"error":{"message":"Invalid URL (POST /chat/completions)","type":"invalid_request_error","param":null,"code":null}}'),
    "llama.cpp": (404, b'{"error":{"code":404,"message":"File Not Found","type":"not_found_error"}}'),
    "Anthropic": (404, b'{"type":"error","error":{"type":"not_found_error","message":"Not Found"}}'),
    "nginx": (404, b"<html>\r\n<head><title>404 Not Found</title></head><body>our models page</body></html>"),
    "Express": (404, b"<!DOCTYPE html><html><body><pre>Cannot POST /chat/completions</pre></body></html>"),
    "a page after a byte order mark": (404, b"\xef\xbb\xbf <!DOCTYPE html><title>model</title>"),
    "TGI": (404, b""),
    "a page that accepts GET": (405, b'{"detail":"Method Not Allowed"}'),
    "another sidecar": (404, b'{"error":{"message":"Nothing is served at \'/chat/completions\'; did you mean \'/v1/chat/completions\'?","type":"invalid_request_error","param":null,"code":"not_found"}}'),
}  # fmt: skip
MISSING_MODELS = {
    "OpenAI": (404, b'{"error":{"message":"The model `m1` does not exist or you do not have access to it.","type":"invalid_request_error","param":null,"code":"model_not_found"}}'),
    "OpenAI, a completion model": (404, b'{"error":{"message":"This is not a chat model and thus not supported in the v1/chat/completions endpoint.","type":"invalid_request_error","param":"model","code":null}}'),
    "vLLM": (404, b'{"object":"error","message":"The model `m1` does not exist.","type":"NotFoundError","param":null,"code":404}'),
    "Ollama": (404, b'{"error":{"message":"model \\"m1\\" not found, try pulling it first","type":"api_error","param":null,"code":null}}'),
    "Azure": (404, b'{"error":{"code":"DeploymentNotFound","message":"The API deployment for this resource does not exist."}}'),
    "OpenRouter": (404, b'{"error":{"message":"No endpoints found for m1.","code":404}}'),
    "OpenRouter, data policy": (404, b'{"error":{"message":"No endpoints found matching your data policy","code":404}}'),
    "Gemini": (404, b'[{"error":{"code":404,"message":"models/m1 is not found for API version v1main","status":"NOT_FOUND"}}]'),
    "NVIDIA": (404, b'{"status":404,"title":"Not Found","detail":"Function \'f-1\': Not found for account \'a-1\'"}'),
    "Fireworks": (404, b'{"error":{"object":"error","type":"invalid_request_error","code":"NOT_FOUND","message":"Model not found, inaccessible, and/or not deployed"}}'),
    "a name alone": (404, b'{"error":"unknown: M1"}'),
    "another status": (400, b"404 page not found"),
    "a refused key": (403, b'{"message":"Missing Authentication Token"}'),
    "a failure": (500, b'{"detail":"Not Found"}'),
}  # fmt: skip
"""Written from memory of the servers' errors, apart from those with a source."""


@pytest.mark.parametrize("case", MISSING_ROUTES)
def test_missing_route_is_recognised(case: str) -> None:
    """A page, an empty or general body under 404 or 405 means that the server has nothing at this path."""
    assert lacks_route(*MISSING_ROUTES[case], "m1")


@pytest.mark.parametrize("case", MISSING_MODELS)
def test_missing_model_is_no_missing_route(case: str) -> None:
    """An error about a model, a deployment or a function, or under another status, says nothing about the path."""
    assert not lacks_route(*MISSING_MODELS[case], "m1")


def plays(status: int, body: bytes) -> Script:
    async def script(connection: Connection) -> None:
        await connection.answer(status, body)

    return script


@pytest.mark.parametrize(
    ("status", "body", "answered"),
    [(404, b"404 page not found", "404"), (405, b"", "405"), (200, LM_STUDIO, "200 with an error")],
)
@pytest.mark.parametrize("stream", [True, False])
async def test_url_is_logged_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, status: int, body: bytes, answered: str, *, stream: bool
) -> None:
    """The first such answer to a chat request leaves one line with the URL, without parameters of the query."""
    async with upstream(plays(status, body)) as up:
        base = up.url.removesuffix("/v1")
        text = (
            table(base, "name = 'local'", "query = { key = 'secret-1' }") + '[[policy]]\nuse = "rate"\nrequests = 9\n'
        )
        with caplog.at_level(logging.WARNING, logger="sidecar"):
            async with sidecar(settings_of(tmp_path, None, text)) as served:
                for _ in range(3):
                    await served.post(V1, {"model": "m1", **HI, "stream": stream})

    lines = [record.getMessage() for record in caplog.records if "base_url" in record.getMessage()]
    assert lines == [f"upstream 'local': POST {base}/chat/completions answered {answered}; does base_url lack '/v1'?"]
    assert "secret-1" not in caplog.text


async def test_url_with_a_version_is_to_be_checked(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A base URL that has a version is named without the guess; the list of models has a line of its own."""
    async with upstream(plays(404, b"404 page not found")) as up:
        with caplog.at_level(logging.WARNING, logger="sidecar"):
            async with sidecar(settings_of(tmp_path, up.url, model=None)) as served:
                for _ in range(2):
                    await served.post("/api/chat", CHAT)
                    await served.post(V1, {"model": "m1", **HI})

    lines = [record.getMessage() for record in caplog.records if "base_url" in record.getMessage()]
    assert lines == [
        f"upstream 'upstream-1': GET {up.url}/models answered 404; check base_url",
        f"upstream 'upstream-1': POST {up.url}/chat/completions answered 404; check base_url",
    ]


async def test_missing_model_leaves_no_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A model that the upstream does not have, a 404 for one model, and working upstreams leave no such line."""
    missing = plays(*MISSING_MODELS["vLLM"])
    async with upstream(missing) as first, upstream(lists) as second:
        text = table(first.url.removesuffix("/v1")) + table(second.url) + FALLBACK.rstrip() + '\non = ["status:404"]\n'
        with caplog.at_level(logging.WARNING, logger="sidecar"):
            async with sidecar(settings_of(tmp_path, None, text)) as served:
                status, _, _ = await served.post(V1, {"model": "m1", **HI})
                first.play(plays(404, b'{"detail":"Not Found"}'))
                one, _, _ = await served.get("/v1/models/m1")

    assert (status, one, len(second.requests)) == (200, 200, 2)
    assert "base_url" not in caplog.text
