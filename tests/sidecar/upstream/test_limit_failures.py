"""Limits of upstreams through the whole chain: who is asked next, and what the client is told."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from serving import settings_of, sidecar
from token_refusals import OVERFLOWS, Overflow
from wire import HEAD, Connection, Script, sse, upstream

pytestmark = pytest.mark.anyio

V1 = "/v1/chat/completions"
ASKED = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": True, "max_tokens": 40}
RETRY = '[[policy]]\nuse = "retry"\nbase = 0.001\ncap = 0.001\n'
TOO_LARGE = "Request too large for gpt-4o in organization org-x on tokens per min (TPM): Limit 30000, Requested 31538. The input or output tokens must be reduced in order to run successfully."
DAILY = {
    "error": {
        "code": 429,
        "message": "You exceeded your current quota, please check your plan and billing details.",
        "status": "RESOURCE_EXHAUSTED",
        "details": [
            {
                "@type": "type.googleapis.com/google.rpc.QuotaFailure",
                "violations": [{"quotaId": "GenerateRequestsPerDayPerProjectPerModel-FreeTier", "quotaValue": "20"}],
            },
            {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "0.01s"},
        ],
    }
}
PER_MINUTE = json.loads(json.dumps(DAILY).replace("PerDay", "PerMinute"))


def refuses(status: int, body: object) -> Script:
    async def script(connection: Connection) -> None:
        await connection.answer(status, json.dumps(body).encode())

    return script


def streams_error(error: Mapping[str, Any]) -> Script:
    """Return a server that sends *error* as the first event of a stream."""

    async def script(connection: Connection) -> None:
        await connection.send(HEAD)
        await connection.chunk(sse({"error": dict(error)}))
        await connection.send(b"0\r\n\r\n")

    return script


async def good(connection: Connection) -> None:
    await connection.stream("fine")


def two(first: str, second: str, fallback: str) -> str:
    tables = "".join(f'[[upstream]]\nbase_url = "{url}"\nmodel = "m"\n' for url in (first, second))
    return f'{tables}[[policy]]\nuse = "fallback"\n{fallback}\n{RETRY}'


@pytest.mark.parametrize("overflow", OVERFLOWS, ids=lambda each: each.server)
@pytest.mark.parametrize("in_stream", [False, True])
async def test_overflow_falls_back_for_context(
    tmp_path: Path,
    overflow: Overflow,
    in_stream: bool,  # noqa: FBT001  # a column
) -> None:
    """`fallback on = ["context"]` takes over an overflow of any server, as a refusal and as the first event of a stream."""
    error = {"message": overflow.text, **overflow.fields}
    script = (
        streams_error({"code": overflow.status, **error}) if in_stream else refuses(overflow.status, {"error": error})
    )
    async with upstream(script) as small, upstream(good) as large:
        text = two(small.url, large.url, 'on = ["context"]')
        async with sidecar(settings_of(tmp_path, None, text)) as served:
            status, _, body = await served.post(V1, ASKED)

    assert (status, len(small.requests), len(large.requests)) == (200, 1, 1)
    assert b"fine" in body


@pytest.mark.parametrize(("status", "body"), [(429, {"error": {"message": TOO_LARGE, "type": "tokens", "code": "rate_limit_exceeded"}}), (413, {"error": {"message": TOO_LARGE, "code": "rate_limit_exceeded"}}), (429, DAILY), (429, [DAILY])])  # fmt: skip
async def test_final_limit_is_not_repeated(tmp_path: Path, status: int, body: object) -> None:
    """A request beyond the whole limit, and a quota per day, are not repeated, and the client's SDK is told not to."""
    async with upstream(refuses(status, body)) as up, sidecar(settings_of(tmp_path, up.url, RETRY)) as served:
        got, headers, _ = await served.post(V1, ASKED)

    assert (got, len(up.requests)) == (status, 1)
    assert headers["x-should-retry"] == "false"
    assert "retry-after" not in headers


@pytest.mark.parametrize("fallback", ["", 'on = ["context"]', 'on = ["too_large"]'])
async def test_request_beyond_a_whole_rate_falls_back(tmp_path: Path, fallback: str) -> None:
    """Another upstream may have a larger limit: it is asked by default, and with `context`, whose family this is."""
    body = {"error": {"message": TOO_LARGE, "code": "rate_limit_exceeded"}}
    async with upstream(refuses(429, body)) as small, upstream(good) as large:
        text = two(small.url, large.url, fallback)
        async with sidecar(settings_of(tmp_path, None, text)) as served:
            status, _, _ = await served.post(V1, ASKED)

    assert (status, len(small.requests), len(large.requests)) == (200, 1, 1)


async def test_request_beyond_a_whole_rate_tells_the_client(tmp_path: Path) -> None:
    """The client reads upstream's own words, which say what to reduce."""
    body = {"error": {"message": TOO_LARGE, "type": "tokens", "code": "rate_limit_exceeded"}}
    async with upstream(refuses(429, body)) as up, sidecar(settings_of(tmp_path, up.url, RETRY)) as served:
        _, _, answer = await served.post(V1, ASKED)

    error = json.loads(answer)["error"]
    assert (error["message"], error["type"], error["code"]) == (TOO_LARGE, "tokens", "rate_limit_exceeded")


@pytest.mark.parametrize("body", [PER_MINUTE, [PER_MINUTE], {"error": {"message": "Please try again in 10ms."}}])
async def test_wait_in_the_body_is_waited_for(tmp_path: Path, body: object) -> None:
    """A wait in the error object is obeyed like `Retry-After`."""
    async with upstream(refuses(429, body), good) as up, sidecar(settings_of(tmp_path, up.url, RETRY)) as served:
        status, _, _ = await served.post(V1, ASKED)

    assert (status, len(up.requests)) == (200, 2)


async def test_long_wait_in_the_body_is_passed_on(tmp_path: Path) -> None:
    """A wait beyond `patience` is not waited for, and the client is told how long it is."""
    body = {
        "error": {
            "message": "Rate limit reached on tokens per day (TPD): Limit 100000, Used 99000, Requested 2000. Please try again in 12m3s."
        }
    }
    async with upstream(refuses(429, body)) as up, sidecar(settings_of(tmp_path, up.url, RETRY)) as served:
        status, headers, _ = await served.post(V1, ASKED)

    assert (status, len(up.requests), headers["retry-after"]) == (429, 1, "723")
