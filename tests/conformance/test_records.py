"""Every request creates exactly one record, also a refused or aborted one."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from recording import HI, SERVERS, V1, recorded, says_ab
from scripts import mid_stream, truncated
from serving import CHAT
from wire import HEAD, TIMEOUT_SECONDS, Client, Connection, Script, eventually, sse, token, upstream

from policies import Call, Event, Lease, Policy
from sidecar.observers.access_log import AccessLineFormat

pytestmark = pytest.mark.anyio

PRICED = '[prices."*"]\ninput = 1.0\noutput = 2.0\n[[policy]]\nuse = "budget"\nusd = 5.0\n'


def refuses(status: int, message: str) -> Script:
    async def script(connection: Connection) -> None:
        await connection.answer(status, json.dumps({"error": {"message": message}}).encode())

    return script


@SERVERS
async def test_record_of_a_stream_is_complete(tmp_path: Path, protocol: type[asyncio.Protocol]) -> None:
    """The record of a stream has the request, the call, the tokens, the cost and the times."""
    async with upstream(says_ab) as up, recorded(tmp_path, up, PRICED, protocol=protocol) as it:
        await it.served.post(V1, HI, "x-request-id: mine", f"traceparent: 00-{'a' * 32}-{'b' * 16}-01")
        record = await it.one()

    assert (record.request_id, record.method, record.route, record.status) == ("mine", "POST", V1, 200)
    assert (record.ending, record.code, record.tenant, record.stream) == ("done", "", "default", True)
    assert (record.model_asked, record.model_served, record.upstream, record.attempts) == ("m", "m", "upstream-1", 1)
    assert (record.input_tokens, record.output_tokens, record.tokens_exact) == (9, 3, True)
    assert record.cost_usd == pytest.approx(15e-6)
    assert record.first_output_seconds is not None
    assert 0 < record.first_output_seconds <= record.total_seconds
    assert (record.ip, record.trace_parent) == ("127.0.0.1", f"00-{'a' * 32}-{'b' * 16}-01")
    assert record.started_at > 1_700_000_000


async def test_refusal_by_a_limit_is_recorded(tmp_path: Path) -> None:
    """A refusal by a limit names the policy, its code and no attempt."""
    text = '[[policy]]\nuse = "rate"\nrequests = 1\nwindow = 60\n'
    async with upstream(says_ab) as up, recorded(tmp_path, up, text) as it:
        await it.served.post(V1, HI)
        await it.served.post(V1, HI)
        await eventually(lambda: len(it.records) == 2)
        record = it.records[1]

    assert (record.status, record.code, record.ending) == (429, "rate_limit_exceeded", "rejected")
    assert (record.rejected_by, record.attempts, record.tenant) == ("rate", 0, "default")


@SERVERS
@pytest.mark.parametrize("leave", [Client.close, Client.reset], ids=["FIN", "RST"])
async def test_disconnect_is_recorded(
    tmp_path: Path, leave: Callable[[Client], None], protocol: type[asyncio.Protocol]
) -> None:
    """A call whose client disconnects in mid-stream is recorded as cancelled, with the tokens read until then."""
    async with upstream(mid_stream) as up, recorded(tmp_path, up, protocol=protocol) as it:
        client = await it.served.client()
        await client.post(V1, HI)
        await client.until(b'"a"')
        leave(client)
        await asyncio.wait_for(up.requests[0].gone.wait(), TIMEOUT_SECONDS)
        record = await it.one()

    assert (record.status, record.ending, record.code, record.output_tokens) == (200, "cancelled", "", 1)


async def test_disconnect_before_a_status_is_recorded_as_499(tmp_path: Path) -> None:
    """A call whose client disconnects before a status is recorded with 499."""

    async def silent(connection: Connection) -> None:
        await connection.hang()

    async with upstream(silent) as up, recorded(tmp_path, up) as it:
        client = await it.served.client()
        await client.post(V1, HI)
        await eventually(lambda: bool(up.requests))
        client.reset()
        record = await it.one()

    assert (record.status, record.ending, record.attempts) == (499, "cancelled", 1)


async def test_incomplete_request_is_recorded(tmp_path: Path) -> None:
    """A request whose client disconnects before it is complete is recorded."""
    async with upstream() as up, recorded(tmp_path, up) as it:
        client = await it.served.client()
        client.writer.write(
            f"POST {V1} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 99\r\n\r\n{{".encode()
        )
        await client.writer.drain()
        await asyncio.sleep(0)
        client.close()
        record = await it.one()

    assert (record.status, record.ending) == (499, "cancelled")


async def test_failed_attempts_are_recorded(tmp_path: Path) -> None:
    """The record lists the attempts that another one followed."""
    text = '[[policy]]\nuse = "retry"\nbase = 0\ncap = 0\n'
    async with upstream(refuses(503, "busy"), says_ab) as up, recorded(tmp_path, up, text) as it:
        await it.served.post(V1, HI)
        record = await it.one()

    (failed,) = record.failed_attempts
    assert (record.attempts, record.status, failed.upstream, failed.status) == (2, 200, "upstream-1", 503)
    assert record.upstream_after_seconds is not None
    assert record.upstream_after_seconds >= failed.seconds


async def test_failed_call_has_upstreams_redacted_text(tmp_path: Path) -> None:
    """The record of a failed call has the failure class and upstream's redacted text."""
    secret = "http://10.1.2.3:8000/v1"
    async with upstream(refuses(400, f"bad field, see {secret}")) as up, recorded(tmp_path, up) as it:
        await it.served.post(V1, HI)
        record = await it.one()

    assert (record.status, record.ending, record.error_kind, record.code) == (
        400,
        "failed",
        "request",
        "upstream_error",
    )
    assert "bad field" in record.upstream_error
    assert "10.1.2.3" not in record.upstream_error


async def test_truncated_stream_is_recorded_as_failed(tmp_path: Path) -> None:
    """A stream that is truncated after output is recorded as failed, under the status that was sent."""
    async with upstream(truncated) as up, recorded(tmp_path, up) as it:
        await it.served.post("/api/chat", CHAT)
        record = await it.one()

    assert (record.status, record.ending, record.code, record.output_tokens) == (200, "failed", "stream_interrupted", 1)


async def test_deadline_is_recorded_as_failed(tmp_path: Path) -> None:
    """A call that its deadline ends is recorded as failed, not as cancelled by its client."""
    async with upstream(mid_stream) as up, recorded(tmp_path, up, "[server]\nchat_deadline = 0.2\n") as it:
        await it.served.post("/api/chat", CHAT)
        record = await it.one()

    assert (record.ending, record.code) == ("failed", "upstream_timeout")


class Leaks(Policy, frozen=True):
    """Fails with the prompt in its message."""

    async def admit(self, call: Call) -> Lease | None:
        call.note("looked at the prompt")
        raise ValueError(call.text)


class BadLease(Lease):
    def on_event(self, event: Event) -> Event | None:
        raise ValueError(event.text)

    def __repr__(self) -> str:
        return "hunter2"


class LeaksLater(Policy, frozen=True):
    """Its lease fails with the text of the answer in its message."""

    async def admit(self, call: Call) -> Lease:
        return BadLease()


@pytest.mark.parametrize("policy", [Leaks(name="p"), LeaksLater(name="p")])
async def test_failing_policy_is_recorded_without_the_prompt(
    tmp_path: Path, policy: Policy, caplog: pytest.LogCaptureFixture
) -> None:
    """A failing policy is recorded as an internal error; neither record nor log has the prompt."""
    async with upstream(says_ab) as up, recorded(tmp_path, up, policies=(policy,)) as it:
        await it.served.post(V1, HI)
        record = await it.one()

    assert (record.code, record.ending) == ("internal_error", "failed")
    assert "hunter2" not in repr(record)
    assert "hunter2" not in caplog.text
    assert "ValueError" in caplog.text


CLIENT_KEY = "internalkey-9f8e7d6c5b"


async def refuses_the_key(connection: Connection) -> None:
    await connection.answer(401, json.dumps({"error": {"message": f"bad key: {key_of(connection)}."}}).encode())


async def names_the_key_as_code(connection: Connection) -> None:
    error = {"message": f"bad key {key_of(connection)}", "code": key_of(connection), "type": key_of(connection)}
    await connection.answer(401, json.dumps({"error": error}).encode())


async def revokes_the_key(connection: Connection) -> None:
    await connection.send(HEAD)
    await connection.chunk(token("a"))
    await connection.chunk(sse({"error": {"message": f"key {key_of(connection)} was revoked"}}))
    await connection.hang()


def key_of(connection: Connection) -> str:
    return (connection.header("authorization") or "").split()[-1]


REFUSALS = (refuses_the_key, names_the_key_as_code)
KEY_ECHOES = [(path, script) for path in (V1, "/api/chat") for script in (*REFUSALS, revokes_the_key)]
KEY_ECHOES += [("/v1/models", script) for script in REFUSALS]


@SERVERS
@pytest.mark.parametrize(("path", "script"), KEY_ECHOES)
@pytest.mark.parametrize("scheme", ["Bearer ", ""])
async def test_clients_key_is_in_no_record(
    tmp_path: Path,
    path: str,
    script: Script,
    scheme: str,
    caplog: pytest.LogCaptureFixture,
    protocol: type[asyncio.Protocol],
) -> None:
    """A client's key that upstream repeats in an error is in no record, no log line and no answer."""
    caplog.set_level("DEBUG", logger="sidecar")
    async with upstream(script) as up, recorded(tmp_path, up, protocol=protocol) as it:
        header = f"authorization: {scheme}{CLIENT_KEY}"
        if path == "/v1/models":
            _, _, answer = await it.served.get(path, header)
        else:
            _, _, answer = await it.served.post(path, CHAT if path == "/api/chat" else HI, header)
        record = await it.one()
        sent = key_of(up.requests[0])

    lines = [AccessLineFormat(form).encode(record, "error").decode() for form in ("text", "json")]
    assert (sent, record.ending) == (CLIENT_KEY, "failed")
    assert CLIENT_KEY not in answer.decode() + repr(record) + "".join(lines) + caplog.text
