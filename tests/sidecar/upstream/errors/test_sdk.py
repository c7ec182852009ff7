"""Exceptions of the OpenAI SDK are available on demand, and the SDK is imported only then."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from policies.api.failure import Cause
from policies.api.upstream import UpstreamError
from sidecar.upstream.errors.sdk import api_error, connection_error, status_error, timeout_error
from sidecar.upstream.errors.secret_values import Secrets

UPSTREAM_REQUEST = httpx.Request("POST", "http://upstream/v1/chat/completions")
ERROR_FIELDS = {"code": "slow_down", "type": "requests", "param": "n"}
FAILURES_SCRIPT = """
import sys
import httpx
import sidecar.server.process
from policies.api.failure_kinds import among
from sidecar.downstream.upstream_failures import error_for_upstream
from sidecar.upstream.errors.classify import from_exception, from_status
request = httpx.Request("POST", "http://upstream/v1")
for error in (
    from_status(429, httpx.Headers(), b'{"error": {"code": "slow_down"}}', request, now=0.0),
    from_exception(httpx.ConnectError("no"), request, sent=False),
):
    error_for_upstream(error), error.reason, repr(error)
    failure = error.failure()
    among(["status:425", "code:x"], failure), repr(failure)
print("openai" in sys.modules, type(error.error).__name__, "openai" in sys.modules)
"""
OWN_POLICIES = """
from policies import Policy, Trim
class Mine(Trim, frozen=True): pass
class Rates(Policy, frozen=True):
    def retry(self, call, failure): return None
"""


START_SCRIPT = """
import asyncio, sys
from pathlib import Path
from sidecar.config.loader import load
from sidecar.config.settings import Flags
from sidecar.server.gateway import Gateway

async def start():
    settings = load(Path("sidecar.toml"), environ={}, flags=Flags(upstream="http://127.0.0.1:9/v1"))
    print("openai" in sys.modules)
    gateway = Gateway(settings)
    print("openai" in sys.modules)
    await gateway.close()

asyncio.run(start())
"""


def python(code: str, folder: Path) -> list[str]:
    """Return the words that *code* prints in a new process."""
    command = [sys.executable, "-W", "error", "-c", code]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout.split()


def test_failures_do_not_import_the_sdk(tmp_path: Path) -> None:
    """Neither the server nor a failure imports the SDK; reading `error` does."""
    assert python(FAILURES_SCRIPT, tmp_path) == ["False", "APIConnectionError", "True"]


@pytest.mark.parametrize(("use", "loaded"), [("trim", "False"), ("own:Mine", "True"), ("own:Rates", "True")])
def test_loaded_before_the_first_call(tmp_path: Path, use: str, loaded: str) -> None:
    """With a policy of a third party, the SDK is imported at start, so that no call waits for it."""
    (tmp_path / "own.py").write_text(OWN_POLICIES)
    options = "" if use == "own:Rates" else "\nmax_messages = 2"
    (tmp_path / "sidecar.toml").write_text(f'[[policy]]\nuse = "{use}"{options}\n')
    assert python(START_SCRIPT, tmp_path) == ["False", loaded]


@pytest.mark.parametrize("status", [302, 400, 401, 403, 404, 409, 418, 422, 429, 500, 503])
def test_status_errors_agree(status: int) -> None:
    """The fields of a status error before the exception exists equal the exception's."""
    cause = status_error(status, "No.", httpx.Headers({"x-y": "z"}), ERROR_FIELDS, UPSTREAM_REQUEST)
    error = agreed(cause)
    assert isinstance(error, openai.APIStatusError)
    assert (error.status_code, error.response.headers["x-y"]) == (cause.status_code, "z")


def test_exception_has_no_header_with_a_secret() -> None:
    """A policy that reads the headers of the exception finds none whose value holds a secret, escaped or not."""
    headers = httpx.Headers([("x-y", "z"), ("set-cookie", "key=opaque%2Dkey-0123"), ("x-debug", "opaque-key-0123")])
    holds_secret = Secrets(["opaque-key-0123"]).may_be_in
    cause = status_error(400, "No.", headers, {}, UPSTREAM_REQUEST, holds_secret=holds_secret)

    assert isinstance(cause.error, openai.APIStatusError)
    assert list(cause.error.response.headers.items()) == [("x-y", "z")]


@pytest.mark.parametrize(
    "cause",
    [
        api_error("No.", ERROR_FIELDS, UPSTREAM_REQUEST),
        api_error("No.", {}, UPSTREAM_REQUEST),
        connection_error("No.", UPSTREAM_REQUEST, OSError("reset")),
        timeout_error(UPSTREAM_REQUEST),
    ],
    ids=str,
)
def test_other_errors_agree(cause: Cause) -> None:
    """The same holds for all other errors."""
    error = agreed(cause)
    assert isinstance(error, openai.APIError)
    assert error.request.url == UPSTREAM_REQUEST.url


def agreed(cause: Cause) -> Exception:
    """Return the exception that a policy gets for *cause*, after checking that both have the same fields."""
    failure = UpstreamError(cause, "server").failure()
    error = failure.exception()
    assert isinstance(error, openai.APIError)
    assert (type(error).__name__, error.message, error.__cause__) == (cause.name, cause.message, cause.__cause__)
    assert (error.code, error.type, error.param) == (cause.code, cause.type, cause.param)
    assert (failure.exception(), failure.cause) == (error, cause)
    assert (
        vars(Cause.of(error)).items()
        >= {"name": cause.name, "code": cause.code, "status_code": cause.status_code}.items()
    )
    return error


class Foreign(Exception):
    """An exception of a third party with fields like the SDK's."""

    message, status_code = "our host is 10.0.0.7", 418

    @property
    def code(self) -> str:
        raise ValueError


def test_foreign_exceptions_are_named_only() -> None:
    """Messages of SDK exceptions may reach a client; of any other exception, only the class name may."""
    cause = Cause.of(Foreign())
    from_sdk = Cause.of(openai.APIError("m", openai_request(), body=None))

    assert (cause.name, cause.message, cause.status_code, cause.code) == ("Foreign", "", None, None)
    assert (from_sdk.name, from_sdk.message) == ("APIError", "m")


def openai_request() -> Any:
    return UPSTREAM_REQUEST
