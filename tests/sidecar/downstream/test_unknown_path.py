"""Paths that are not served: the 404 names the nearest route, or what to use instead, and nothing reaches upstream."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from recording import HI, SERVERS, recorded
from serving import settings_of, sidecar
from wire import upstream

from sidecar.downstream.stored.endpoints import stored_routes
from sidecar.downstream.unknown_path import SERVED_PATHS, advice, origin_of
from sidecar.server.app import DATA_ROUTES
from sidecar.server.shortcut import OPERATION_ROUTES
from sidecar.wire.operations.models import MODEL_ROUTE

pytestmark = pytest.mark.anyio

ANY_HOST = '[server]\nallowed_hosts = ["*"]\n'

ORIGIN = "http://127.0.0.1:8787"
SET_BASE = f" Set the client's base URL to '{ORIGIN}/v1'."
ONE_TOO_MANY = f" The base URL has '/v1' twice: set it to '{ORIGIN}/v1', or '{ORIGIN}' if the client adds '/v1' itself."
V1 = "/v1/chat/completions"


def test_advice_names_the_routes_that_exist() -> None:
    """The routes that are named are those of the application."""
    assert {*SERVED_PATHS, MODEL_ROUTE, *stored_routes()} == {*DATA_ROUTES, *OPERATION_ROUTES}


@pytest.mark.parametrize(
    ("path", "nearest", "more"),
    [
        ("/chat/completions", V1, SET_BASE),
        ("/v1/v1/chat/completions", V1, ONE_TOO_MANY),
        ("/v1/v1/v1/models", "/v1/models", ONE_TOO_MANY),
        ("/V1/Chat/Completions", V1, SET_BASE),
        ("//v1//chat//completions", V1, SET_BASE),
        ("/openai/v1/chat/completions", V1, SET_BASE),
        ("/api/chat/completions", V1, SET_BASE),
        ("/api/v1/chat", V1, SET_BASE),
        ("/proxy/llm/chat/completions/", V1, SET_BASE),
        ("/openai/deployments/gpt-4o/chat/completions", V1, f" Azure's client adds '/deployments': use the plain OpenAI client.{SET_BASE}"),
        ("/models", "/v1/models", SET_BASE),
        ("/responses", "/v1/responses", SET_BASE),
        ("/openai/v1/responses", "/v1/responses", SET_BASE),
        ("/api/v0/models", "/v1/models", SET_BASE),
        ("/models/org/m:8b", MODEL_ROUTE, SET_BASE),
        ("/v1/v1/models/m", MODEL_ROUTE, ONE_TOO_MANY),
        ("/completions", "/v1/completions", SET_BASE),
        ("/v1/v1/embeddings", "/v1/embeddings", ONE_TOO_MANY),
        ("/openai/deployments/d/embeddings", "/v1/embeddings", f" Azure's client adds '/deployments': use the plain OpenAI client.{SET_BASE}"),
        ("/API/Chat", "/api/chat", ""),
        ("/health", "/healthz", ""),
        ("/v1/health", "/healthz", ""),
        ("/ready", "/readyz", ""),
        ("/v1/chat/completion", V1, ""),
        ("/v1/model", "/v1/models", ""),
    ],
)  # fmt: skip
def test_nearest_route_is_named(path: str, nearest: str, more: str) -> None:
    """A path without `/v1`, with it twice, in another case or behind another prefix: the right route and the base URL."""
    assert advice(path, ORIGIN) == f"; did you mean '{nearest}'?{more}"


@pytest.mark.parametrize(
    ("paths", "words"),
    [
        ("/v1/engines/e/completions /v1/edits", ("old API is not served here", V1, "'/v1/completions'")),
        ("/v1/complete /v1/messages/batches /anthropic/v1/messages/batches", ("Of Anthropic's API", "'/v1/messages'", "'/v1/messages/count_tokens'")),
        ("/v1/moderations /v1/audio/speech /v1/audio/transcriptions /v1/images/generations /v1/files /v1/files/f1/content /v1/uploads /v1/batches /v1/assistants /v1/threads/t/messages /v1/vector_stores /v1/fine_tuning/jobs /v1/realtime /v1/realtime/sessions /v1/evals /v1/videos", ("OpenAI's API is not served here", V1)),
        ("/v1/chat/completions/c1 /v1/chat/completions/c1/messages", ("Stored completions are not served here", V1)),
        ("/v1beta/models/gemini:generateContent /v1/v1beta/models/g:streamGenerateContent", ("Gemini's own API is not served here", V1)),
        ("/api/generate /api/tags /api/show /api/ps /api/embed /api/version /completion /infill /tokenize /props /slots /generate /generate_stream /rerank /v1/rerank /get_model_info", ("Ollama, llama.cpp and other servers are not served here", V1, "/v1/models")),
        ("/ /v1 /v1/", ("GET /v1/models", "POST /api/chat", "GET /healthz", f"base URL to '{ORIGIN}/v1'")),
        ("/favicon.ico /nothing/here", ("POST /v1/chat/completions", "GET /v1/models", "GET /readyz")),
    ],
)  # fmt: skip
def test_what_is_not_built_names_what_to_use(paths: str, words: tuple[str, ...]) -> None:
    """A route of OpenAI's API or another one that is not built says so, and what to use instead."""
    for path in paths.split():
        text = advice(path, ORIGIN)
        assert text.startswith(". "), (path, text)
        assert all(word in text for word in words), (path, text)


@SERVERS
@pytest.mark.parametrize("method", ["POST", "GET"])
async def test_unknown_path_is_answered_in_openais_form(
    tmp_path: Path, method: str, protocol: type[asyncio.Protocol]
) -> None:
    """The 404 has OpenAI's form and no retry, its record has no path, and nothing reaches upstream."""
    async with upstream() as up, recorded(tmp_path, up, protocol=protocol) as it:
        if method == "GET":
            status, headers, body = await it.served.get("/v1/v1/models", "host: sidecar.internal:80")
        else:
            status, headers, body = await it.served.post("/chat/completions", HI)
        record = await it.one()

    error = json.loads(body)["error"]
    assert (status, error["code"], error["type"], error["param"]) == (404, "not_found", "invalid_request_error", None)
    named = "/v1/models" if method == "GET" else V1
    assert f"did you mean '{named}'? " in error["message"]
    assert headers["x-should-retry"] == "false"
    assert (record.route, record.status, record.code) == ("unknown", 404, "not_found")
    assert up.requests == []


async def test_base_url_is_the_one_that_the_client_used(tmp_path: Path) -> None:
    """The base URL has the scheme and host of the request; behind a proxy, or with a long `Host`, it is not guessed."""
    async with upstream() as up, sidecar(settings_of(tmp_path, up.url, ANY_HOST)) as served:
        texts = []
        for more in ("host: sidecar.internal:81", f"host: {'a' * 101}", "x-forwarded-proto: https", "via: 1.1 p"):
            _, _, body = await served.post("/chat/completions", HI, more)
            texts.append(json.loads(body)["error"]["message"].partition("? ")[2])

    anywhere = "Set the client's base URL to one that ends in '/v1'."
    assert texts == ["Set the client's base URL to 'http://sidecar.internal:81/v1'.", anywhere, anywhere, anywhere]


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        (b"localhost:8787", "http://localhost:8787"),
        (b"my_sidecar", "http://my_sidecar"),
        (b"[::1]:8787", "http://[::1]:8787"),
        (b"", ""),
        (b"a/b", ""),
        (b"a" * 101, ""),
        (b"h:999999", ""),
        ("h\xe9".encode("latin-1"), ""),
    ],
)
def test_only_a_plain_host_is_repeated(host: bytes, origin: str) -> None:
    """A `Host` header is repeated only if it is a host name or an address, and a port."""
    assert origin_of({"scheme": "http", "headers": [(b"host", host)]}) == origin


@given(st.text("/v1chatompleinsdg.:%{}'\"\u2603", max_size=600))
def test_advice_is_bounded_and_repeats_no_path(path: str) -> None:
    """Whatever the path: the advice is short, and a fixed text apart from the origin."""
    text = advice(path, ORIGIN)
    assert len(text) < 600
    assert text.isascii()


async def test_long_path_is_not_repeated(tmp_path: Path) -> None:
    """At most 100 characters of a path are repeated, also in escapes."""
    async with upstream() as up, sidecar(settings_of(tmp_path, up.url)) as served:
        _, _, body = await served.get("/" + "%00x" * 5000)

    assert len(body) < 1_500
