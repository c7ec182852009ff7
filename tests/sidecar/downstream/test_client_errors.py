"""The table of errors: what a server said → class, exception, and what clients are told."""

from __future__ import annotations

import json
from typing import Any

import httpx
import openai
import pytest

from policies.api.rejection import Rejection
from policies.api.upstream import UpstreamError
from sidecar.downstream.client_errors import (
    chat_body,
    chat_event,
    chat_status,
    draining,
    fault_of_rejection,
    fault_of_upstream,
    openai_body,
    openai_event,
)
from sidecar.upstream.errors.classify import empty, from_exception, from_object, from_status, interrupted
from sidecar.upstream.errors.redact import MAX_TEXT_LENGTH, PAGE_MESSAGE, redact

REQUEST = httpx.Request("POST", "http://up.example/v1/chat/completions")
NOW = 1_800_000_000.0


def said(status: int, body: Any = b"", headers: dict[str, str] | None = None) -> UpstreamError:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return from_status(status, httpx.Headers(headers or {}), raw, REQUEST, now=NOW)


def err(**fields: Any) -> dict[str, Any]:
    return {"error": {"message": "m", **fields}}


IN_FLIGHT = err(code=402, metadata={"limit_source": "openrouter_in_flight_budget"})


@pytest.mark.parametrize(
    ("status", "body", "headers", "kind", "raised"),
    [
        (400, err(type="invalid_request_error", code="context_length_exceeded"), {}, "context", openai.BadRequestError),
        (400, err(type="exceed_context_size_error", code=400, n_ctx=512), {}, "context", openai.BadRequestError),
        (400, err(type="BadRequestError", code=400, message="This model's maximum context length is 512 tokens"), {}, "context", openai.BadRequestError),
        (400, err(type="invalid_request_error"), {}, "request", openai.BadRequestError),
        (400, err(code="content_filter"), {}, "request", openai.BadRequestError),
        (401, err(code="invalid_api_key"), {}, "auth", openai.AuthenticationError),
        (402, err(), {}, "quota", openai.APIStatusError),
        (402, IN_FLIGHT, {"retry-after": "3"}, "rate", openai.APIStatusError),
        (402, IN_FLIGHT, {}, "quota", openai.APIStatusError),
        (403, err(), {}, "auth", openai.PermissionDeniedError),
        (404, err(type="NotFoundError", code=404, param="model"), {}, "request", openai.NotFoundError),
        (404, {"error": {"code": "DeploymentNotFound", "message": "m"}}, {}, "request", openai.NotFoundError),
        (404, b"<html>no</html>", {}, "request", openai.NotFoundError),
        (408, b"", {}, "timeout", openai.APIStatusError),
        (409, err(), {}, "overloaded", openai.ConflictError),
        (413, b"", {}, "request", openai.APIStatusError),
        (401, err(message="loading model"), {}, "auth", openai.AuthenticationError),
        (400, err(message="input: 'loading model'", code=400), {}, "request", openai.BadRequestError),
        (429, err(code="rate_limit_exceeded", type="insufficient_quota"), {}, "quota", openai.RateLimitError),
        (501, err(code=501, type="not_supported_error"), {}, "request", openai.InternalServerError),
        (400, err(code="²³¹"), {}, "request", openai.BadRequestError),
        (201, b"data: {}", {}, "server", openai.APIStatusError),
        (422, {"detail": [{"msg": "bad"}]}, {}, "request", openai.UnprocessableEntityError),
        (429, err(type="requests", code="rate_limit_exceeded"), {}, "rate", openai.RateLimitError),
        (429, err(type="insufficient_quota", code="insufficient_quota"), {}, "quota", openai.RateLimitError),
        (429, err(type="insufficient_quota"), {}, "quota", openai.RateLimitError),
        (429, err(code="429"), {}, "rate", openai.RateLimitError),
        (429, b"slow down", {}, "rate", openai.RateLimitError),
        (429, err(code="slow_down"), {}, "overloaded", openai.RateLimitError),
        (500, err(type="server_error"), {}, "server", openai.InternalServerError),
        (500, err(type="InternalServerError", code=500), {}, "server", openai.InternalServerError),
        (500, {"error": "api_error text"}, {}, "server", openai.InternalServerError),
        (502, b"<html>bad gateway</html>", {}, "server", openai.InternalServerError),
        (503, err(type="unavailable_error", code=503, message="Loading model"), {}, "overloaded", openai.InternalServerError),
        (503, {"error": "server busy, please try again. maximum pending requests exceeded"}, {}, "overloaded", openai.InternalServerError),
        (503, err(code="server_is_overloaded"), {}, "overloaded", openai.InternalServerError),
        (504, b"", {}, "timeout", openai.InternalServerError),
        (529, err(type="overloaded_error"), {}, "overloaded", openai.InternalServerError),
        (302, b"", {"location": "http://x"}, "request", openai.APIStatusError),
    ],
)  # fmt: skip
def test_status(status: int, body: Any, headers: dict[str, str], kind: str, raised: type[Exception]) -> None:
    """A refusal is classed by its body before its headers before its status, as the SDK's own exception; it did no work."""
    error = said(status, body, headers)

    assert (error.kind, type(error.error)) == (kind, raised)
    assert isinstance(error.error, openai.APIStatusError)
    assert error.error.status_code == status
    assert not error.worked


SECRET = "sk-our-own-key-123456"


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"the answer: PRIVATE", "The upstream answered with status 422."),
        (b'data: {"choices": [{"delta": {"content": "PRIVATE"}}]}', "The upstream answered with status 422."),
        (b'{"detail": [{"loc": ["body", "n"], "msg": "must be a number", "input": "PRIVATE"}]}', "body.n: must be a number"),
        (b'{"error": {"message": "no such model"}}', "no such model"),
    ],
)  # fmt: skip
def test_only_an_error_object_speaks(body: bytes, words: str) -> None:
    """What is no error object, and what one quotes of its input, is passed on to nobody."""
    assert said(422, body).error.args[0] == words


@pytest.mark.parametrize("value", [SECRET, f"x {SECRET}", "http://10.0.0.7/a", "/srv/ops/server.py", "x" * 65, ["x"]])
def test_names_are_names(value: object) -> None:
    """A code, a type or a param that is more than a plain name, or holds a key, is left out."""
    body = json.dumps(err(code=value, type=value, param=value)).encode()
    error = from_status(400, httpx.Headers(), body, REQUEST, secrets=[SECRET], now=NOW).error

    assert isinstance(error, openai.APIError)
    assert (error.code, error.type, error.param) == (None, None, None)


def test_names_stay() -> None:
    """Plain names stay: programs match them."""
    error = said(
        400, err(code="context_length_exceeded", type="invalid_request_error", param="messages[0].content")
    ).error

    assert isinstance(error, openai.APIError)
    assert (error.code, error.type) == ("context_length_exceeded", "invalid_request_error")
    assert error.param == "messages[0].content"


@pytest.mark.parametrize(
    ("thing", "kind"),
    [
        ({"message": "m", "code": 502}, "server"),
        ({"message": "m", "code": 429}, "rate"),
        ({"message": "m", "code": "429"}, "rate"),
        ({"message": "m", "type": "BadRequestError", "code": 400}, "request"),
        ({"message": "m", "code": "insufficient_quota"}, "quota"),
        ({"message": "maximum context length is 5"}, "context"),
        ({}, "server"),
        ("text", "server"),
        (["x"], "server"),
        (None, "server"),
        (7, "server"),
    ],
)
def test_object(thing: object, kind: str) -> None:
    """An error object under a 200 counts like the status that it names; anything else is a broken server."""
    error = from_object(thing, REQUEST)

    assert error.kind == kind
    assert isinstance(error.error, openai.APIError)
    assert error.error.message


def caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "kind", "worked"),
    [
        (caused(httpx.ConnectTimeout("x"), TimeoutError()), "connect_timeout", False),
        (caused(httpx.ConnectError("x"), OSError("x")), "connect", False),
        (httpx.ConnectError("x"), "connect", False),
        (httpx.ConnectTimeout("x"), "connect_timeout", False),
        (httpx.ReadTimeout("x"), "head_timeout", True),
        (httpx.ReadError("x"), "connect", True),
        (OSError("x"), "connect", False),
        (TimeoutError(), "head_timeout", True),
        (ValueError("not HTTP"), "connect", True),
    ],
)
def test_exception(error: Exception, kind: str, worked: bool) -> None:  # noqa: FBT001  # a column of the table
    """A transport's failure is a connection's or a time-out; only one that may have been read costs its prompt."""
    found = from_exception(error, REQUEST, sent=True)

    assert (found.kind, found.worked) == (kind, worked)
    assert isinstance(found.error, openai.APITimeoutError if kind.endswith("timeout") else openai.APIConnectionError)


@pytest.mark.parametrize(
    "text",
    [
        "key sk-proj-abc123def456 is bad",
        "Incorrect API key provided: sk-12***********wxyz.",
        "see https://internal.example.com/path?x=1",
        "cannot reach db.internal:5432",
        "host 10.1.2.3:80 refused",
        "[::1]:8000 refused",
        "Authorization: Bearer abcdefghijkl",
        "api_key=abcd1234efgh",
        "in /usr/lib/python3/site-packages/vllm/engine.py",
        'Traceback (most recent call last):\n  File "/x/y.py", line 3, in f',
        "boom\n    at run (server.js:10:5)",
        "C:\\Users\\me\\app.py",
        "hush-hush",
    ],
)  # fmt: skip
def test_redacted(text: str) -> None:
    """Keys, hosts, paths and traces do not reach a client."""
    clean = redact(text, ["hush-hush"])
    for secret in ("sk-proj", "wxyz", "example.com", "internal", "10.1.2.3", "::1", "abcdefghijkl", "abcd1234", "/usr", "y.py", "server.js", "Users", "hush"):  # fmt: skip
        assert secret not in clean


@pytest.mark.parametrize(
    "text",
    [
        "This model's maximum context length is 4096 tokens. However, you requested 5000 tokens (1000 in the messages, 4000 in the completion).",
        "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.",
        "The model `gpt-9` does not exist",
    ],
)  # fmt: skip
def test_plain_words_stay(text: str) -> None:
    """An ordinary sentence is for the person who asks."""
    assert redact(text) == text


def test_bounded() -> None:
    """However long, a text is cut, and a page is a sentence."""
    assert len(redact("word " * 10_000)) == MAX_TEXT_LENGTH
    assert redact("<!DOCTYPE html><p>secret") == PAGE_MESSAGE


@pytest.mark.parametrize(
    ("error", "status", "code", "retryable"),
    [
        (from_exception(httpx.ConnectError("x"), REQUEST, sent=True), 502, "upstream_unavailable", True),
        (from_exception(httpx.ReadTimeout("x"), REQUEST, sent=True), 504, "upstream_timeout", True),
        (empty(REQUEST, None), 502, "upstream_error", True),
        (interrupted(REQUEST, "cut"), 502, "stream_interrupted", True),
        (from_object({"message": "m", "code": 500}, REQUEST), 502, "upstream_error", True),
        (said(429, err(code="rate_limit_exceeded"), {"retry-after": "7"}), 429, "upstream_error", True),
        (said(429, err(code="insufficient_quota")), 429, "insufficient_quota", False),
        (said(400, err(code="context_length_exceeded")), 400, "context_length_exceeded", False),
        (said(500, err()), 500, "upstream_error", True),
        (said(599, err()), 599, "upstream_error", True),
        (said(600, err()), 502, "upstream_error", True),
        (said(999, err()), 502, "upstream_error", True),
    ],
)
def test_told(error: UpstreamError, status: int, code: str, retryable: bool) -> None:  # noqa: FBT001  # a column
    """Clients are told a failure in their own schema, and that our retries are spent."""
    fault = fault_of_upstream(error)
    envelope = json.loads(openai_body(fault))["error"]
    event = json.loads(chat_event(fault).decode().split("data: ")[1])

    assert (fault.status, envelope["code"], event["code"], event["retryable"]) == (status, code, code, retryable)
    assert set(envelope) == {"message", "type", "param", "code"}
    assert envelope["message"]
    assert (b"x-should-retry", b"false") in fault.headers
    assert json.loads(openai_event(fault).decode().removeprefix("data: ")) == {"error": envelope}


@pytest.mark.parametrize(
    ("headers", "told"),
    [
        ({"retry-after": "7"}, [(b"retry-after", b"7")]),
        ({"retry-after-ms": "250"}, [(b"retry-after", b"1")]),
        ({"retry-after": "600"}, [(b"retry-after", b"600")]),
        ({}, []),
    ],
)
def test_wait_of_upstream(headers: dict[str, str], told: list[tuple[bytes, bytes]]) -> None:
    """A busy upstream's wait is passed on as it is, in whole seconds; none is made up, and none makes SDKs try again."""
    for status in (429, 503, 529):
        fault = fault_of_upstream(said(status, err(message="Loading model"), headers))
        assert fault.headers == [*told, (b"x-should-retry", b"false")]


def test_rejections() -> None:
    """A policy's no carries its own code and details, and its waits rounded up."""
    fault = fault_of_rejection(Rejection(429, "busy", "later", retry_after=1.2001, details={"policy": "q"}))

    assert json.loads(chat_body(fault)) == {"error": "later", "code": "busy", "policy": "q"}
    assert fault.headers == [(b"retry-after", b"2"), (b"retry-after-ms", b"1201")]
    assert fault_of_rejection(Rejection(403, "no", "no")).headers == [(b"x-should-retry", b"false")]
    assert chat_status(fault_of_rejection(Rejection(400, "request_too_large", "x"))) == 429
    assert draining().headers[0] == (b"retry-after", b"1")
