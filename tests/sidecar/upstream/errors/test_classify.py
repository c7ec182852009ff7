"""Classification of upstream's failures: kind, exception of the SDK, and whether upstream did work."""

from __future__ import annotations

import json
from typing import Any

import httpx
import openai
import pytest
from upstream_errors import NOW, REQUEST, classified, error_body

from sidecar.upstream.errors.classify import from_exception, from_object, from_status, interrupted
from sidecar.upstream.errors.secret_values import Secrets

IN_FLIGHT = error_body(code=402, metadata={"limit_source": "openrouter_in_flight_budget"})


@pytest.mark.parametrize(
    ("status", "body", "headers", "kind", "raised"),
    [
        (400, error_body(type="invalid_request_error", code="context_length_exceeded"), {}, "context", openai.BadRequestError),
        (400, error_body(type="exceed_context_size_error", code=400, n_ctx=512), {}, "context", openai.BadRequestError),
        (400, error_body(type="BadRequestError", code=400, message="This model's maximum context length is 512 tokens"), {}, "context", openai.BadRequestError),
        (400, error_body(type="invalid_request_error"), {}, "request", openai.BadRequestError),
        (400, error_body(code="content_filter"), {}, "request", openai.BadRequestError),
        (401, error_body(code="invalid_api_key"), {}, "auth", openai.AuthenticationError),
        (402, error_body(), {}, "quota", openai.APIStatusError),
        (402, IN_FLIGHT, {"retry-after": "3"}, "rate", openai.APIStatusError),
        (402, IN_FLIGHT, {}, "quota", openai.APIStatusError),
        (403, error_body(), {}, "auth", openai.PermissionDeniedError),
        (404, error_body(type="NotFoundError", code=404, param="model"), {}, "request", openai.NotFoundError),
        (404, {"error": {"code": "DeploymentNotFound", "message": "m"}}, {}, "request", openai.NotFoundError),
        (404, b"<html>no</html>", {}, "request", openai.NotFoundError),
        (408, b"", {}, "timeout", openai.APIStatusError),
        (409, error_body(), {}, "overloaded", openai.ConflictError),
        (413, b"", {}, "request", openai.APIStatusError),
        (401, error_body(message="loading model"), {}, "auth", openai.AuthenticationError),
        (400, error_body(message="input: 'loading model'", code=400), {}, "request", openai.BadRequestError),
        (429, error_body(code="rate_limit_exceeded", type="insufficient_quota"), {}, "quota", openai.RateLimitError),
        (501, error_body(code=501, type="not_supported_error"), {}, "request", openai.InternalServerError),
        (400, error_body(code="²³¹"), {}, "request", openai.BadRequestError),
        (201, b"data: {}", {}, "server", openai.APIStatusError),
        (422, {"detail": [{"msg": "bad"}]}, {}, "request", openai.UnprocessableEntityError),
        (429, error_body(type="requests", code="rate_limit_exceeded"), {}, "rate", openai.RateLimitError),
        (429, error_body(type="insufficient_quota", code="insufficient_quota"), {}, "quota", openai.RateLimitError),
        (429, error_body(type="insufficient_quota"), {}, "quota", openai.RateLimitError),
        (429, error_body(code="429"), {}, "rate", openai.RateLimitError),
        (429, b"slow down", {}, "rate", openai.RateLimitError),
        (429, error_body(code="slow_down"), {}, "overloaded", openai.RateLimitError),
        (500, error_body(type="server_error"), {}, "server", openai.InternalServerError),
        (500, error_body(type="InternalServerError", code=500), {}, "server", openai.InternalServerError),
        (500, {"error": "api_error text"}, {}, "server", openai.InternalServerError),
        (502, b"<html>bad gateway</html>", {}, "server", openai.InternalServerError),
        (503, error_body(type="unavailable_error", code=503, message="Loading model"), {}, "overloaded", openai.InternalServerError),
        (503, {"error": "server busy, please try again. maximum pending requests exceeded"}, {}, "overloaded", openai.InternalServerError),
        (503, error_body(code="server_is_overloaded"), {}, "overloaded", openai.InternalServerError),
        (504, b"", {}, "timeout", openai.InternalServerError),
        (529, error_body(type="overloaded_error"), {}, "overloaded", openai.InternalServerError),
        (302, b"", {"location": "http://x"}, "request", openai.APIStatusError),
    ],
)  # fmt: skip
def test_status_is_classified_by_body_headers_and_status(
    status: int, body: Any, headers: dict[str, str], kind: str, raised: type[Exception]
) -> None:
    """An error response is classified by its body, then its headers, then its status, as the SDK's exception; it did no work."""
    error = classified(status, body, headers)

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
def test_only_the_message_of_an_error_object_is_quoted(body: bytes, words: str) -> None:
    """A body that is not an error object, and the input that an error object quotes, are not quoted to clients."""
    assert classified(422, body).error.args[0] == words


@pytest.mark.parametrize("value", [SECRET, f"x {SECRET}", "http://10.0.0.7/a", "/srv/ops/server.py", "x" * 129, ["x"]])
def test_suspicious_code_type_or_param_is_dropped(value: object) -> None:
    """A code, type or param that is not a plain name, or that holds a key, is dropped."""
    body = json.dumps(error_body(code=value, type=value, param=value)).encode()
    error = from_status(400, httpx.Headers(), body, REQUEST, secrets=Secrets([SECRET]), now=NOW).error

    assert isinstance(error, openai.APIError)
    assert (error.code, error.type, error.param) == (None, None, None)


def test_plain_code_type_and_param_are_kept() -> None:
    """A plain code, type and param are kept, because programs compare them."""
    error = classified(
        400, error_body(code="context_length_exceeded", type="invalid_request_error", param="messages[0].content")
    ).error

    assert isinstance(error, openai.APIError)
    assert (error.code, error.type) == ("context_length_exceeded", "invalid_request_error")
    assert error.param == "messages[0].content"


@pytest.mark.parametrize(
    ("value", "kind"),
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
def test_error_object_under_a_200_is_classified(value: object, kind: str) -> None:
    """An error object under a 200 is classified by the status in it; any other value is a server error."""
    error = from_object(value, REQUEST)

    assert error.kind == kind
    assert isinstance(error.error, openai.APIError)
    assert error.error.message


def caused(error: Exception, cause: Exception) -> Exception:
    """Return *error* with *cause* as its cause."""
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
def test_transport_exception_is_classified(error: Exception, kind: str, worked: bool) -> None:  # noqa: FBT001  # a column of the table
    """An exception of a transport is a connection error or a timeout; it did work only if the request may have been read."""
    found = from_exception(error, REQUEST, sent=True)

    assert (found.kind, found.worked) == (kind, worked)
    assert isinstance(found.error, openai.APITimeoutError if kind.endswith("timeout") else openai.APIConnectionError)


def test_reason_of_a_cut_names_no_host_and_no_key() -> None:
    """The text of a transport's exception, which the record of the call has, is redacted like an upstream's text."""
    reason = f"peer gpu7.corp.internal:8000 closed; sent Bearer {SECRET}"
    message = interrupted(REQUEST, reason, Secrets([SECRET])).cause.message

    assert message.startswith("peer [redacted]")
    assert not [word for word in ("gpu7", "8000", SECRET) if word in message]
    assert interrupted(REQUEST, "").cause.message == "The upstream cut its answer."
