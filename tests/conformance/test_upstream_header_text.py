"""Headers of an upstream that are not ASCII, or have control characters: they are data, and change no decision."""

from __future__ import annotations

import sys
from pathlib import Path

import httpx
import pytest
from msgspec.structs import replace
from serving import CHAT, settings_of, sidecar
from wire import Connection, Script, upstream

from policies.api.call import Call
from policies.api.failure import Failure
from policies.api.policy import Policy
from sidecar.config.settings import Settings

pytestmark = pytest.mark.anyio

NAMES = (
    b"x-region",
    b"retry-after",
    b"retry-after-ms",
    b"x-request-id",
    b"x-ratelimit-reset-requests",
    b"ratelimit",
    b"x-should-retry",
    b"date",
    b"content-type",
    b"content-encoding",
    b"location",
    b"set-cookie",
    b"openai-processing-ms",
)
VALUES = ("São".encode(), "São".encode("latin-1"), b"a\x01b", b"\x7f", b"\xff\xfe", "٣".encode(), b"1\x0b", b"\x85")
FIELDS = [name + b": " + value for name in NAMES for value in VALUES]
FIELDS += [b"x-region: S\xc3\xa3o\r\nx-region: S\xe3o", b"x-region: S\xc3\xa3o\r\nx-place: S\xe3o"]
BUDGET = '[[policy]]\nuse = "budget"\ntokens = 100_000_000\n'
REFUSED_BY_H11 = b"\x0b"
"""A byte that httpx's own transport takes for white space, and refuses in a value."""
ERROR = b'{"error":{"message":"busy","code":"x"}}'


class ReadsException(Policy, frozen=True):
    """Reads all headers of the SDK's exception, as a policy of a deployment may."""

    def retry(self, call: Call, failure: Failure) -> None:
        """Read the exception."""
        response = getattr(failure.exception(), "response", None)
        if response is not None:
            assert str(response.headers)
            assert response.headers.multi_items()
            assert response.request is not None
            call.state["read"] = True


def make_transport() -> httpx.AsyncBaseTransport:
    """Return a transport of httpx, which the settings name."""
    return httpx.AsyncHTTPTransport()


@pytest.fixture
def httpx_line(monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the setting for the transport of this module."""
    monkeypatch.setitem(sys.modules, "header_transport", sys.modules[__name__])
    return 'transport = "header_transport:make_transport"\n'


def reading_exceptions(settings: Settings) -> Settings:
    """Return *settings* with a first policy that reads each failure's exception."""
    return replace(settings, base=replace(settings.base, policies=(ReadsException(), *settings.base.policies)))


def fields_for(*, own: bool) -> list[bytes]:
    """Return the fields that the transport hands on."""
    return FIELDS if own else [field for field in FIELDS if REFUSED_BY_H11 not in field]


def answers_with(fields: list[bytes], status: int) -> Script:
    """Return a server that sends *status* with the next of *fields* to each request, and closes."""
    at = iter(fields)

    async def script(connection: Connection) -> None:
        head = b"HTTP/1.1 %d S\xe3o\r\n%b\r\ncontent-length: %d\r\n\r\n" % (status, next(at), len(ERROR))
        await connection.send(head + ERROR)

    return script


async def fine(connection: Connection) -> None:
    await connection.stream("hi")


@pytest.mark.parametrize("own", [True, False], ids=["own transport", "httpx"])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/api/chat"])
async def test_fallback_follows_a_refusal_with_any_header(
    tmp_path: Path, httpx_line: str, path: str, *, own: bool
) -> None:
    """A 503 with a header that is not ASCII leads to the fallback, and its attempt costs nothing."""
    fields = fields_for(own=own)
    body = CHAT if path == "/api/chat" else {"model": "m", "stream": True, **CHAT}
    async with upstream(answers_with(fields, 503)) as failing, upstream(fine) as other:
        alone = f"[[upstream]]\nname = 'b'\nbase_url = '{other.url}'\nmodel = 'm'\n"
        async with sidecar(settings_of(tmp_path, None, alone + BUDGET)) as served:
            await served.post(path, body)
            cost = (await served.account()).spent
        text = (
            f"[[upstream]]\nbase_url = '{failing.url}'\nmodel = 'm'\nbreaker = {{ calls = 0 }}\n"
            f'{"" if own else httpx_line}{alone}{BUDGET}[[policy]]\nuse = "fallback"\nto = ["b"]\n'
        )
        async with sidecar(reading_exceptions(settings_of(tmp_path, None, text))) as served:
            answers = [await served.post(path, body) for _ in fields]
            account = await served.account()
        failed, succeeded = len(failing.requests), len(other.requests) - 1

    assert [status for status, _, _ in answers] == [200] * len(fields)
    assert all(b"hi" in raw for _, _, raw in answers)
    assert (failed, succeeded) == (len(fields), len(fields))
    assert (account.spent, account.reserved) == (cost * len(fields), 0)


@pytest.mark.parametrize("own", [True, False], ids=["own transport", "httpx"])
@pytest.mark.parametrize("status", [400, 401, 402, 404, 429, 500, 503, 529])
async def test_refusal_with_any_header_keeps_its_status(
    tmp_path: Path, httpx_line: str, status: int, *, own: bool
) -> None:
    """A refusal with a header that is not ASCII reaches the client under its own status, and costs nothing."""
    fields = fields_for(own=own)
    async with upstream(answers_with(fields, status)) as up:
        text = (
            f"[[upstream]]\nbase_url = '{up.url}'\nmodel = 'm'\nbreaker = {{ calls = 0 }}\n{'' if own else httpx_line}"
            f"{BUDGET}"
        )
        async with sidecar(reading_exceptions(settings_of(tmp_path, None, text))) as served:
            seen = [(await served.post("/v1/chat/completions", {"model": "m", **CHAT}))[0] for _ in fields]
            account = await served.account()

    assert set(seen) == {status}
    assert (account.spent, account.reserved) == (0, 0)
