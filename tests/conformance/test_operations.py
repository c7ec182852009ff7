"""One suite for all APIs: what holds for one route holds for each (a hook that is missing on one route is LiteLLM's fault)."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from api_keys import key
from operation_samples import PIECES, SAMPLES, OperationSample
from scripts import head_only, silent
from serving import settings_of, sidecar, with_policies
from wire import HEAD, Client, Connection, Script, upstream

from policies import Call, Event, Lease, Policy, Stop
from policies.api.call import LIMIT_FIELDS
from sidecar.server.app import DATA_ROUTES
from sidecar.wire.operations.operation import Operation
from sidecar.wire.operations.registry import GOVERNED_OPERATIONS

pytestmark = pytest.mark.anyio

ALL = pytest.mark.parametrize("operation", GOVERNED_OPERATIONS, ids=lambda each: each.request.name)
STREAMING = pytest.mark.parametrize(
    "operation", [each for each in GOVERNED_OPERATIONS if each.request.can_stream], ids=lambda each: each.request.name
)
LEAVE = pytest.mark.parametrize("leave", [Client.close, Client.reset], ids=["FIN", "RST"])
BUDGET = '[[policy]]\nuse = "budget"\ntokens = 100_000\nanswer = 100\n'
RETRIED = BUDGET + '[[policy]]\nuse = "retry"\nattempts = 3\n'


def sample_of(operation: Operation) -> OperationSample:
    return SAMPLES[operation.request.name]


def plays(*pieces: bytes, closes: bool = False, resets: bool = False) -> Script:
    """Return a script that streams *pieces* and then ends the body, closes the connection or resets it."""

    async def script(connection: Connection) -> None:
        await connection.send(HEAD)
        for piece in filter(None, pieces):
            await connection.chunk(piece)
        if resets:
            connection.reset()
        elif closes:
            connection.close()
        else:
            await connection.send(b"0\r\n\r\n")

    return script


def stays_open(*pieces: bytes) -> Script:
    """Return a script that streams *pieces* and nothing more until the other side closes."""

    async def script(connection: Connection) -> None:
        await connection.send(HEAD)
        for piece in pieces:
            await connection.chunk(piece)
        await connection.hang()

    return script


def replies(status: int, body: dict[str, Any], *headers: str) -> Script:
    async def script(connection: Connection) -> None:
        await connection.answer(status, json.dumps(body).encode(), *headers)

    return script


def streamed(sample: OperationSample) -> dict[str, Any]:
    return sample.body | {"stream": True}


def test_each_route_has_samples() -> None:
    """Each API that passes the chain is a route and has a sample, so that this suite runs for it."""
    assert {each.request.name for each in GOVERNED_OPERATIONS} == SAMPLES.keys() & {
        each.request.name for each in GOVERNED_OPERATIONS
    }
    assert {each.path for each in GOVERNED_OPERATIONS} <= DATA_ROUTES.keys()
    for operation in GOVERNED_OPERATIONS:
        sample = sample_of(operation)
        assert sample.streams == operation.request.can_stream
        assert sample.ceiling == operation.request.ceiling_field
        assert operation.check(dict(sample.body)) > 0


@STREAMING
async def test_complete_stream_passes_unchanged(tmp_path: Path, operation: Operation) -> None:
    """A client gets the events as they were sent; the call is charged what upstream reported."""
    sample = sample_of(operation)
    asked = streamed(sample)
    if operation.asks_for_usage:
        asked["stream_options"] = {"include_usage": True}
    sent = sample.stream() + sample.closing
    async with upstream(plays(sent)) as up, sidecar(settings_of(tmp_path, up.url, BUDGET)) as served:
        status, headers, body = await served.post(operation.path, asked)
        account = await served.account()
        line = up.requests[0].head.split(b"\r\n", 1)[0]
    assert (status, headers["content-type"], body) == (200, "text/event-stream", sent)
    assert sample.complete(body)
    assert line == f"POST /v1{operation.upstream_path} HTTP/1.1".encode()
    assert (account.spent, account.reserved) == (7, 0)


@STREAMING
@pytest.mark.parametrize("size", [1, 7, 100])
async def test_split_changes_no_byte(tmp_path: Path, operation: Operation, size: int) -> None:
    """Any split of the bytes of upstream gives the same stream."""
    sample = sample_of(operation)
    asked = streamed(sample) | ({"stream_options": {"include_usage": True}} if operation.asks_for_usage else {})
    sent = sample.stream() + sample.closing
    parts = [sent[at : at + size] for at in range(0, len(sent), size)]
    async with upstream(plays(*parts)) as up, sidecar(settings_of(tmp_path, up.url, BUDGET)) as served:
        _, _, body = await served.post(operation.path, asked)
    assert body == sent


@ALL
async def test_whole_answer_passes_unchanged(tmp_path: Path, operation: Operation) -> None:
    """A call without `stream` gets the bytes of the answer, and is charged its usage."""
    sample = sample_of(operation)
    raw = json.dumps(sample.whole, indent=1).encode()

    async def script(connection: Connection) -> None:
        await connection.answer(200, raw)

    async with upstream(script) as up, sidecar(settings_of(tmp_path, up.url, BUDGET)) as served:
        status, headers, body = await served.post(operation.path, sample.body)
        account = await served.account()
    assert (status, headers["content-type"], body) == (200, "application/json", raw)
    assert (account.spent, account.reserved) == (7 if sample.ceiling else 4, 0)


@STREAMING
async def test_whole_answer_to_a_stream_becomes_events(tmp_path: Path, operation: Operation) -> None:
    """A server that ignores `stream` answers with one object; the client gets it as a complete stream."""
    sample = sample_of(operation)
    async with (
        upstream(replies(200, sample.whole)) as up,
        sidecar(settings_of(tmp_path, up.url, BUDGET)) as served,
    ):
        status, _, body = await served.post(operation.path, streamed(sample))
        account = await served.account()
    assert status == 200
    assert sample.complete(body), body
    assert "".join(PIECES).encode() in body
    assert (account.spent, account.reserved) == (7, 0)


@LEAVE
@STREAMING
@pytest.mark.parametrize("phase", ["head", "opening", "output"])
async def test_disconnect_closes_upstream(
    tmp_path: Path, operation: Operation, phase: str, leave: Callable[[Client], None]
) -> None:
    """A client that leaves in any phase of a stream closes the upstream connection; what was read is charged."""
    sample = sample_of(operation)
    script = {
        "head": silent,
        "opening": stays_open(sample.opening) if sample.opening else head_only,
        "output": stays_open(sample.stream(2)),
    }[phase]
    async with upstream(script) as up, sidecar(settings_of(tmp_path, up.url, RETRIED)) as served:
        client = await served.client()
        await client.post(operation.path, streamed(sample))
        await asyncio.wait_for(up.arrived.wait(), 5)
        if phase == "output":
            await client.until(PIECES[1].encode())
        leave(client)
        await asyncio.wait_for(up.requests[0].gone.wait(), 5)
        account = await served.account()
    assert len(up.requests) == 1
    assert account.reserved == 0
    prompt = account.spent - (2 if phase == "output" else 0)
    assert 3 <= prompt <= 12


@LEAVE
@ALL
async def test_disconnect_from_a_plain_call_closes_upstream(
    tmp_path: Path, operation: Operation, leave: Callable[[Client], None]
) -> None:
    """A client that leaves a call without `stream` pays what was reserved; upstream is closed."""
    sample = sample_of(operation)
    async with upstream(silent) as up, sidecar(settings_of(tmp_path, up.url, BUDGET)) as served:
        client = await served.client()
        await client.post(operation.path, sample.body)
        await asyncio.wait_for(up.arrived.wait(), 5)
        leave(client)
        await asyncio.wait_for(up.requests[0].gone.wait(), 5)
        account = await served.account()
    assert account.reserved == 0
    assert (100 < account.spent < 120) if sample.ceiling else (0 < account.spent < 20)


@STREAMING
@pytest.mark.parametrize("ending", ["end", "close", "reset"])
async def test_cut_stream_is_an_error(tmp_path: Path, operation: Operation, ending: str) -> None:
    """A stream that ends after output and before its end mark ends with an error that SDKs raise."""
    sample = sample_of(operation)
    script = plays(sample.stream(2), closes=ending == "close", resets=ending == "reset")
    async with upstream(script) as up, sidecar(settings_of(tmp_path, up.url, RETRIED)) as served:
        status, _, body = await served.post(operation.path, streamed(sample))
        account = await served.account()
    assert status == 200
    assert body.startswith(sample.stream(2))
    assert sample.failed(body), body
    assert not sample.complete(body)
    assert len(up.requests) == 1
    assert account.reserved == 0


@STREAMING
@pytest.mark.parametrize("ending", ["close", "reset"])
async def test_cut_before_output_is_repeated(tmp_path: Path, operation: Operation, ending: str) -> None:
    """An attempt that breaks before its first output is repeated; the client sees the second one alone."""
    sample = sample_of(operation)
    asked = streamed(sample) | ({"stream_options": {"include_usage": True}} if operation.asks_for_usage else {})
    broken = plays(sample.opening or b": hello\n\n", closes=ending == "close", resets=ending == "reset")
    sent = sample.stream() + sample.closing
    async with upstream(broken, plays(sent)) as up, sidecar(settings_of(tmp_path, up.url, RETRIED)) as served:
        status, _, body = await served.post(operation.path, asked)
    assert (status, body) == (200, sent)
    assert len(up.requests) == 2


@STREAMING
async def test_error_event_after_output_ends_the_stream(tmp_path: Path, operation: Operation) -> None:
    """An error of the server in a stream with output reaches the client as one that SDKs raise; nothing follows."""
    sample = sample_of(operation)
    script = plays(sample.stream(2), sample.error_event, sample.closing)
    async with upstream(script) as up, sidecar(settings_of(tmp_path, up.url, RETRIED)) as served:
        _, _, body = await served.post(operation.path, streamed(sample))
    assert body.startswith(sample.stream(2))
    assert sample.failed(body), body
    assert PIECES[2].encode() not in body
    assert len(up.requests) == 1


@STREAMING
async def test_error_event_before_output_is_repeated(tmp_path: Path, operation: Operation) -> None:
    """An error of the server before output is repeated; if it stays, the client gets a true status."""
    sample = sample_of(operation)
    failing, complete = plays(sample.opening, sample.error_event), plays(sample.stream() + sample.closing)
    async with upstream(failing, complete) as up, sidecar(settings_of(tmp_path, up.url, RETRIED)) as served:
        status, _, body = await served.post(operation.path, streamed(sample))
        assert (status, len(up.requests)) == (200, 2)
        assert sample.complete(body)
        up.play(failing)
        status, headers, body = await served.post(operation.path, streamed(sample))
    message, _ = sample.envelope(json.loads(body))
    assert status in (500, 502)
    assert headers["x-should-retry"] == "false"
    assert "the server failed" in message


@STREAMING
async def test_malformed_event_is_an_error(tmp_path: Path, operation: Operation) -> None:
    """An event that is not JSON ends a stream with an error."""
    sample = sample_of(operation)
    script = plays(sample.stream(1), b'data: {"oops\n\n', sample.closing)
    async with upstream(script) as up, sidecar(settings_of(tmp_path, up.url, RETRIED)) as served:
        _, _, body = await served.post(operation.path, streamed(sample))
    assert sample.failed(body), body
    assert not sample.complete(body)


@STREAMING
async def test_stalled_stream_is_an_error(tmp_path: Path, operation: Operation) -> None:
    """A stream that stops sending ends with an error after the idle timeout; upstream is closed."""
    sample = sample_of(operation)
    async with upstream(stays_open(sample.stream(1))) as up:
        settings = settings_of(tmp_path, up.url, RETRIED)
        impatient = msgspec.structs.replace(settings.upstreams[0], idle=0.2)
        async with sidecar(msgspec.structs.replace(settings, upstreams=(impatient,))) as served:
            _, _, body = await served.post(operation.path, streamed(sample))
            await asyncio.wait_for(up.requests[0].gone.wait(), 5)
    assert sample.failed(body), body


@ALL
@pytest.mark.parametrize("stream", [True, False])
async def test_refusals_of_upstream_pass_in_the_form_of_the_api(
    tmp_path: Path, operation: Operation, *, stream: bool
) -> None:
    """A final refusal keeps its status and text; 503 is repeated to the end, then passed."""
    sample = sample_of(operation)
    body = streamed(sample) if stream and sample.streams else sample.body
    error = json.loads(json.dumps(sample.error_body).replace("server_error", "invalid_request_error"))
    async with upstream(replies(400, error)) as up, sidecar(settings_of(tmp_path, up.url, RETRIED)) as served:
        status, _, answer = await served.post(operation.path, body)
        assert (status, len(up.requests)) == (400, 1)
        assert sample.envelope(json.loads(answer))[0] == "the server failed"
        up.play(replies(503, sample.error_body, "retry-after-ms: 1"))
        status, headers, answer = await served.post(operation.path, body)
        account = await served.account()
    assert (status, len(up.requests), headers["x-should-retry"]) == (503, 4, "false")
    assert sample.envelope(json.loads(answer))[0] == "the server failed"
    assert (account.spent, account.reserved) == (0, 0)


@ALL
async def test_missing_route_is_named(tmp_path: Path, operation: Operation) -> None:
    """An upstream without the route gives a 404 that says so."""
    sample = sample_of(operation)
    async with (
        upstream(replies(404, {"detail": "Not Found"})) as up,
        sidecar(settings_of(tmp_path, up.url, RETRIED)) as served,
    ):
        status, _, answer = await served.post(operation.path, sample.body)
    assert status == 404
    assert operation.upstream_path in sample.envelope(json.loads(answer))[0]


@STREAMING
@pytest.mark.parametrize(("asked", "sent"), [(None, 5), (-1, 5), (0, 5), (3, 3), (9, 5), ("9", 5), (7.5, 5)])
async def test_ceiling_is_clamped(tmp_path: Path, operation: Operation, asked: object, sent: int) -> None:
    """`max_tokens` sets or lowers the ceiling in the field of the API."""
    sample = sample_of(operation)
    text = '[[policy]]\nuse = "max_tokens"\noutput = 5\n' + BUDGET
    async with (
        upstream(replies(200, sample.whole)) as up,
        sidecar(settings_of(tmp_path, up.url, text)) as served,
    ):
        status, _, _ = await served.post(operation.path, sample.body | {sample.ceiling: asked})
    assert status == 200
    assert up.requests[0].body[sample.ceiling] == sent


@ALL
async def test_exhausted_budget_refuses(tmp_path: Path, operation: Operation) -> None:
    """A budget without room refuses each API with 429 in its form; nothing reaches upstream."""
    sample = sample_of(operation)
    text = '[[policy]]\nuse = "budget"\ntokens = 1\n'
    async with upstream(silent) as up, sidecar(settings_of(tmp_path, up.url, text)) as served:
        status, headers, answer = await served.post(operation.path, sample.body)
    assert (status, len(up.requests)) == (429, 0)
    assert headers["x-should-retry"] == "false"
    message, code = sample.envelope(json.loads(answer))
    assert code == "budget_exceeded"
    assert "budget" in message.lower()


@ALL
async def test_used_up_rate_refuses(tmp_path: Path, operation: Operation) -> None:
    """A rate limit counts the calls of each API."""
    sample = sample_of(operation)
    text = '[[policy]]\nuse = "rate"\nrequests = 1\nwindow = 3600\n'
    async with (
        upstream(replies(200, sample.whole)) as up,
        sidecar(settings_of(tmp_path, up.url, text)) as served,
    ):
        assert (await served.post(operation.path, sample.body))[0] == 200
        status, headers, answer = await served.post(operation.path, sample.body)
    assert (status, len(up.requests)) == (429, 1)
    assert int(headers["retry-after"]) > 0
    assert sample.envelope(json.loads(answer))[1] == "rate_limit_exceeded"


@STREAMING
async def test_stream_ends_at_the_limit(tmp_path: Path, operation: Operation) -> None:
    """A stream without a ceiling ends as at a ceiling where the budget has no room; upstream is closed."""
    sample = sample_of(operation)

    async def endless(connection: Connection) -> None:
        assert sample.piece is not None
        await connection.send(HEAD)
        await connection.chunk(sample.opening or b": hello\n\n")
        at = 3
        while True:
            piece = sample.piece(0).replace(b'"sequence_number": 3', b'"sequence_number": %d' % at)
            at += 1
            await connection.chunk(piece)
            await asyncio.sleep(0.001)

    text = '[[policy]]\nuse = "budget"\ntokens = 200\nanswer = 40\nfloor = 4\n'
    async with upstream(endless) as up, sidecar(settings_of(tmp_path, up.url, text)) as served:
        status, _, body = await served.post(operation.path, streamed(sample))
        await asyncio.wait_for(up.requests[0].gone.wait(), 5)
        account = await served.account()
        sent = up.requests[0].body
    assert status == 200
    assert sample.cut(body), body[-2000:]
    assert sample.ceiling not in sent
    assert 180 <= account.spent <= 300
    assert account.reserved == 0


@STREAMING
async def test_usage_of_zero_is_not_free(tmp_path: Path, operation: Operation) -> None:
    """A report of zero tokens is replaced by what was read."""
    sample = sample_of(operation)
    zero = sample.closing
    for number in (b"3", b"4", b"7"):
        for field in (b"prompt_tokens", b"completion_tokens", b"total_tokens", b"input_tokens", b"output_tokens"):
            zero = zero.replace(b'"%b": %b' % (field, number), b'"%b": 0' % field)
    assert zero != sample.closing
    opening = sample.stream().replace(b'"input_tokens": 4', b'"input_tokens": 0')
    async with upstream(plays(opening + zero)) as up, sidecar(settings_of(tmp_path, up.url, BUDGET)) as served:
        await served.post(operation.path, streamed(sample))
        account = await served.account()
    assert 6 <= account.spent <= 15


class Upper(Policy, frozen=True):
    """Writes the answer in upper case, and holds back one piece."""

    async def admit(self, call: Call) -> Lease:  # the form of the hook
        return _UpperLease()


class _UpperLease(Lease):
    def on_event(self, event: Event) -> Event:
        return event.with_text(event.text.upper()) if event.text else event


@ALL
@pytest.mark.parametrize("stream", [True, False])
async def test_policy_changes_all_of_the_text(tmp_path: Path, operation: Operation, *, stream: bool) -> None:
    """Where a policy changes the text, the original is nowhere in the answer, in no API."""
    sample = sample_of(operation)
    if not sample.streams:
        return
    sent = sample.stream() + sample.closing
    script = plays(sent) if stream else replies(200, sample.whole)
    async with upstream(script) as up:
        settings = with_policies(settings_of(tmp_path, up.url, BUDGET), Upper(name="upper"))
        async with sidecar(settings) as served:
            status, _, body = await served.post(operation.path, sample.body | {"stream": stream})
    assert status == 200
    for piece in PIECES:
        assert not re.search(rb"\b%b\b" % piece.strip().encode(), body), body  # names of events have "one" in "done"
        assert piece.strip().upper().encode() in body
    assert not stream or sample.complete(body), body


class StopAtTwo(Policy, frozen=True):
    """Ends the answer at the second piece."""

    async def admit(self, call: Call) -> Lease:  # the form of the hook
        return _StopLease()


class _StopLease(Lease):
    def on_event(self, event: Event) -> Event:
        if PIECES[1] in event.text:
            raise Stop
        return event


@STREAMING
async def test_policy_stops_a_stream(tmp_path: Path, operation: Operation) -> None:
    """A policy that stops an answer gives the client a stream with an end, not an error; upstream is closed."""
    sample = sample_of(operation)
    async with upstream(stays_open(sample.stream(2))) as up:
        settings = with_policies(settings_of(tmp_path, up.url, BUDGET), StopAtTwo(name="stop"))
        async with sidecar(settings) as served:
            status, _, body = await served.post(operation.path, streamed(sample))
            await asyncio.wait_for(up.requests[0].gone.wait(), 5)
    assert status == 200
    assert PIECES[0].encode() in body
    assert PIECES[1].strip().encode() not in body
    assert not sample.failed(body), body
    assert body.endswith(operation.stream_end)


@ALL
async def test_keys_and_models_hold(tmp_path: Path, operation: Operation) -> None:
    """Each API needs a key where keys exist, and refuses a model that the key may not use, in its own form."""
    sample = sample_of(operation)
    keys = key("sk-one", "acme", 'models = ["m"]')
    async with (
        upstream(replies(200, sample.whole)) as up,
        sidecar(settings_of(tmp_path, up.url, BUDGET + keys)) as served,
    ):
        bearer = "authorization: Bearer sk-one"
        missing = await served.post(operation.path, sample.body)
        other = await served.post(operation.path, sample.body | {"model": "dear"}, bearer)
        hidden = await served.post(operation.path, sample.body | {"route": "dear"}, bearer)
        allowed = await served.post(operation.path, sample.body, bearer)
    assert [missing[0], other[0], hidden[0], allowed[0]] == [401, 403, 403, 200]
    assert sample.envelope(json.loads(missing[2]))[1] == "unauthorized"
    assert sample.envelope(json.loads(other[2]))[1] == "forbidden"
    assert len(up.requests) == 1


BAD_BODIES: dict[str, bytes] = {
    "empty": b"",
    "not JSON": b"{",
    "a list": b"[]",
    "a string": b'"x"',
    "NaN": b'{"model": NaN}',
    "deep": b'{"a":' * 200 + b"1" + b"}" * 200,
    "many values": b'{"a":[' + b"1," * 60_000 + b"1]}",
    "model of another type": b'{"model": 5}',
    "bad UTF-8": b'{"model": "\xff"}',
}


@ALL
@pytest.mark.parametrize("name", BAD_BODIES)
async def test_bad_body_is_refused_in_the_form_of_the_api(tmp_path: Path, operation: Operation, name: str) -> None:
    """A body that no policy can govern is 400 in the envelope of the API; nothing reaches upstream."""
    sample = sample_of(operation)
    raw = BAD_BODIES[name]
    if name == "model of another type":
        raw = json.dumps(sample.body | {"model": 5}).encode()
    async with upstream(silent) as up, sidecar(settings_of(tmp_path, up.url, BUDGET)) as served:
        status, _, answer = await served.post(operation.path, raw)
    assert (status, len(up.requests)) == (400, 0)
    assert sample.envelope(json.loads(answer))[1] == "invalid_request"


@ALL
async def test_misspelt_field_is_refused(tmp_path: Path, operation: Operation) -> None:
    """A governed field in another case is refused: Go servers read it, others do not."""
    sample = sample_of(operation)
    governed = [*sample.body, *([sample.ceiling, "stream"] if sample.ceiling else [])]
    async with upstream(silent) as up, sidecar(settings_of(tmp_path, up.url, BUDGET)) as served:
        for field in governed:
            status, _, answer = await served.post(operation.path, sample.body | {field.title(): 1})
            assert status == 400, field
            assert field in sample.envelope(json.loads(answer))[0]
    assert not up.requests


@ALL
async def test_other_methods_types_and_sizes_are_refused(tmp_path: Path, operation: Operation) -> None:
    """405, 415 and 413 have the envelope of the API."""
    sample = sample_of(operation)
    text = "[server]\nmax_body = 10_000\n" + BUDGET
    async with upstream(silent) as up, sidecar(settings_of(tmp_path, up.url, text)) as served:
        refused = [
            await served.get(operation.path),
            await served.post(operation.path, sample.body, "content-type: text/plain"),
            await served.post(operation.path, b'{"a": "' + b"x" * 10_000 + b'"}'),
        ]
    assert [each[0] for each in refused] == [405, 415, 413]
    codes = [sample.envelope(json.loads(each[2]))[1] for each in refused]
    assert codes == ["method_not_allowed", "unsupported_media_type", "body_too_large"]
    assert not up.requests


@ALL
async def test_internal_error_has_the_form_of_the_api(tmp_path: Path, operation: Operation) -> None:
    """A policy that raises gives 500 in the envelope of the API, without the text of the exception."""

    class Broken(Policy, frozen=True):
        async def admit(self, call: Call) -> None:
            raise RuntimeError(call.text)

    sample = sample_of(operation)
    async with upstream(silent) as up:
        settings = with_policies(settings_of(tmp_path, up.url, BUDGET), Broken(name="broken"))
        async with sidecar(settings) as served:
            status, _, answer = await served.post(operation.path, sample.body)
    assert (status, len(up.requests)) == (500, 0)
    assert sample.envelope(json.loads(answer)) == ("AI request failed", "internal_error")


@ALL
async def test_policies_see_the_prompt(tmp_path: Path, operation: Operation) -> None:
    """`call.text`, `replace_text`, `model` and `has_completion` mean the same in each API."""
    seen: list[tuple[str, str, bool]] = []

    class Reads(Policy, frozen=True):
        async def admit(self, call: Call) -> None:
            seen.append((call.text, call.model, call.has_completion))
            call.replace_text(str.upper)

    sample = sample_of(operation)
    async with upstream(replies(200, sample.whole)) as up:
        settings = with_policies(settings_of(tmp_path, up.url, BUDGET), Reads(name="reads"))
        async with sidecar(settings) as served:
            status, _, _ = await served.post(operation.path, sample.body)
    assert status == 200
    assert seen == [("Say three words", "m", True)]
    assert b"SAY THREE WORDS" in up.requests[0].raw_body


@pytest.mark.parametrize("field", LIMIT_FIELDS)
@pytest.mark.parametrize("asked", [5_000, 20])
@STREAMING
async def test_ceiling_is_sent_in_the_field_that_servers_obey(
    tmp_path: Path, operation: Operation, asked: int, field: str
) -> None:
    """A ceiling under another name is also sent in the API's own field: a server that ignores the name is limited too."""
    sample = sample_of(operation)
    text = '[[policy]]\nuse = "max_tokens"\noutput = 300\n'
    async with upstream(replies(200, sample.whole)) as up, sidecar(settings_of(tmp_path, up.url, text)) as served:
        await served.post(operation.path, sample.body | {field: asked})
        sent = up.requests[0].body
    assert (sent[field], sent[operation.request.ceiling_field]) == (min(asked, 300),) * 2
