"""openai's exceptions are there for whoever looks, and cost nobody else anything."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from policies.api.failure import Failure
from policies.api.sdk_error import Cause
from sidecar.upstream.errors.sdk import api_error, connection_error, status_error, timeout_error

REQUEST = httpx.Request("POST", "http://upstream/v1/chat/completions")
SAID = {"code": "slow_down", "type": "requests", "param": "n"}
FAIL = """
import sys
import httpx
import sidecar.server.run
from policies.api.failure import Failure
from policies.api.failure_kinds import among
from sidecar.downstream.client_errors import fault_of_upstream
from sidecar.upstream.errors.classify import from_exception, from_status
request = httpx.Request("POST", "http://upstream/v1")
for error in (
    from_status(429, httpx.Headers(), b'{"error": {"code": "slow_down"}}', request, now=0.0),
    from_exception(httpx.ConnectError("no"), request, sent=False),
):
    fault_of_upstream(error), error.reason, repr(error)
    failure = Failure(1, error.cause, error.kind)
    among(["status:425", "code:x"], failure), repr(failure)
print("openai" in sys.modules, type(error.error).__name__, "openai" in sys.modules)
"""
OWN = """
from policies import Policy, Trim
class Mine(Trim, frozen=True): pass
class Rates(Policy, frozen=True):
    def retry(self, call, failure): return None
"""


START = """
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


def test_not_loaded(tmp_path: Path) -> None:
    """Neither a server nor a failure loads the SDK; whoever looks at the exception does."""
    assert python(FAIL, tmp_path) == ["False", "APIConnectionError", "True"]


@pytest.mark.parametrize(("use", "loaded"), [("trim", "False"), ("own:Mine", "True"), ("own:Rates", "True")])
def test_loaded_before_the_first_call(tmp_path: Path, use: str, loaded: str) -> None:
    """With a policy from outside the product, the SDK is loaded at start, so that no call waits for the import."""
    (tmp_path / "own.py").write_text(OWN)
    options = "" if use == "own:Rates" else "\nmax_messages = 2"
    (tmp_path / "sidecar.toml").write_text(f'[[policy]]\nuse = "{use}"{options}\n')
    assert python(START, tmp_path) == ["False", loaded]


@pytest.mark.parametrize("status", [302, 400, 401, 403, 404, 409, 418, 422, 429, 500, 503])
def test_statuses(status: int) -> None:
    """What is known of a status before the exception is made is what the exception says."""
    cause = status_error(status, "No.", httpx.Headers({"x-y": "z"}), SAID, REQUEST)
    error = agreed(cause)
    assert isinstance(error, openai.APIStatusError)
    assert (error.status_code, error.response.headers["x-y"]) == (cause.status_code, "z")


@pytest.mark.parametrize(
    "cause",
    [
        api_error("No.", SAID, REQUEST),
        api_error("No.", {}, REQUEST),
        connection_error("No.", REQUEST, OSError("reset")),
        timeout_error(REQUEST),
    ],
    ids=str,
)
def test_others(cause: Cause) -> None:
    """So it is with all others."""
    error = agreed(cause)
    assert isinstance(error, openai.APIError)
    assert error.request.url == REQUEST.url


def agreed(cause: Cause) -> Exception:
    """Return the exception that a policy sees of *cause*, which says the same."""
    failure = Failure(1, cause, "server")
    error = failure.error
    assert isinstance(error, openai.APIError)
    assert (type(error).__name__, error.message, error.__cause__) == (cause.name, cause.message, cause.__cause__)
    assert (error.code, error.type, error.param) == (cause.code, cause.type, cause.param)
    assert (failure.error, failure.cause) == (error, cause)
    assert (
        vars(Cause.of(error)).items()
        >= {"name": cause.name, "code": cause.code, "status_code": cause.status_code}.items()
    )
    return error


class Foreign(Exception):
    """Somebody else's, with fields that look like openai's."""

    message, status_code = "our host is 10.0.0.7", 418

    @property
    def code(self) -> str:
        raise ValueError


def test_words_of_others() -> None:
    """Only what openai's exceptions say may reach a client; another's is named, and no more."""
    cause = Cause.of(Foreign())
    told = Cause.of(openai.APIError("m", openai_request(), body=None))

    assert (cause.name, cause.message, cause.status_code, cause.code) == ("Foreign", "", None, None)
    assert (told.name, told.message) == ("APIError", "m")


def openai_request() -> Any:
    return REQUEST
