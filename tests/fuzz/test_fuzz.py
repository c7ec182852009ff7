"""A fixed number of mutated requests and answers, and tests that the fuzzer itself can fail.

`make fuzz` runs it without a limit.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random

import fuzz
import msgspec
import pytest
from byte_mutations import mutate_bytes, split
from client_wire import ClientCase, check_client_case
from complete_answers import Verdict, read_answer
from fuzz import WIRES, Found, make_case, run
from fuzz_seeds import answers, request_parts
from fuzzed import STREAMED, Fuzzed, fuzzed
from json_mutations import mutate_json, parse, render
from recorded_bytes import with_length
from scripts import whole_answer
from shrinking import AnyCase, shrunk
from upstream_wire import UpstreamCase, check_upstream_case, request_of
from wire import HEAD, chunk, sse, token

pytestmark = pytest.mark.anyio

SEED = 17
CASES = {"client": 4_000, "upstream": 1_500}
"""Together about a minute on a busy machine with two cores."""
STOP = sse({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
END = b"0\r\n\r\n"


@pytest.mark.parametrize("wire", WIRES)
async def test_mutated_messages_break_no_rule(wire: str) -> None:
    """No mutated request or answer breaks a rule of `client_wire` or `upstream_wire`."""
    report = await run(wire, SEED, CASES[wire])

    assert report.cases == CASES[wire]
    assert not report.found, "\n".join(map(str, report.found))


BAD_CHUNK = b"POST /api/chat HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n"
MANY_CHOICES = sse({"choices": [{"index": 0, "delta": {}, "x": [0] * 30}] * 1_000})
FOUND: tuple[tuple[str, AnyCase], ...] = (
    ("the id of a 400 is in its record", ClientCase([BAD_CHUNK])),
    ("a status without a name has its space", UpstreamCase("plain", [with_length(b"{}", b"529 X")], "")),
    (
        "a number out of range in a field that is not used is no fault of the sidecar",
        UpstreamCase("chat", [HEAD + chunk(sse({"choices": []}).replace(b"[]", b'[{"delta":{},"index":0}],"x":1e400') + token("a") + STOP), END], ""),
    ),
    ("an event of many choices is no stall", UpstreamCase("chat", [HEAD + chunk(MANY_CHOICES) + chunk(token("a") + STOP) + END], "")),
)  # fmt: skip


@pytest.mark.parametrize("case", [case for _, case in FOUND], ids=[name for name, _ in FOUND])
async def test_found_fault_is_fixed(case: AnyCase) -> None:
    """A case that once failed breaks no rule any more."""
    async with fuzzed() as target:
        assert await fuzz.check(case, target) == []


@pytest.mark.parametrize("wire", WIRES)
def test_case_depends_on_its_seed_and_number_alone(wire: str) -> None:
    """The same seed and number make the same case, in any order; others make other cases."""
    forward = [make_case(wire, SEED, number) for number in range(100)]
    backward = [make_case(wire, SEED, number) for number in reversed(range(100))]

    assert forward == backward[::-1]
    assert len({b"".join(case.pieces) for case in forward}) > 90
    assert [make_case(wire, SEED + 1, number) for number in range(100)] != forward


def test_pieces_are_the_bytes() -> None:
    """A split loses no byte, and mutations of a request in JSON that change nothing keep its bytes."""
    chance = Random(SEED)
    for seed in answers()[:200]:
        data = mutate_bytes(seed.data, chance)
        assert b"".join(split(data, chance)) == data
    for parts in request_parts():
        if parts.body:
            assert parse(render(parse(parts.body))) == parse(parts.body)
    assert mutate_json(b"no JSON", chance) == b"no JSON"


READINGS = (
    ("a stream", STREAMED, "stream", False, Verdict.COMPLETE),
    ("a stream for Chat Nest", STREAMED, "chat", False, Verdict.COMPLETE),
    ("a whole answer", with_length(whole_answer("ab")), "plain", False, Verdict.COMPLETE),
    ("a whole answer for a stream", with_length(whole_answer("ab")), "stream", False, Verdict.COMPLETE),
    ("a finish without [DONE]", HEAD + chunk(token("a") + STOP) + END, "stream", False, Verdict.COMPLETE),
    ("no finish", HEAD + chunk(token("a")) + END, "stream", False, Verdict.BROKEN),
    ("a cut", HEAD + chunk(token("a")), "stream", True, Verdict.BROKEN),
    ("a cut in an event", HEAD + chunk(token("a") + token("b")[:30]), "chat", True, Verdict.BROKEN),
    ("a cut in the head", STREAMED[:40], "stream", True, Verdict.BROKEN),
    ("a cut whole answer", with_length(whole_answer("ab"))[:-5], "plain", True, Verdict.BROKEN),
    ("another status", with_length(whole_answer("ab"), b"503 X"), "plain", False, Verdict.BROKEN),
    ("nothing", b"", "stream", True, Verdict.BROKEN),
    ("a text that looks like an end", HEAD + chunk(token("data: [DONE]")) + END, "stream", False, Verdict.BROKEN),
    ("an error behind the finish", HEAD + chunk(token("a") + STOP + sse({"error": {}})) + END, "stream", False, Verdict.UNCLEAR),
    ("two lengths", STREAMED.replace(b"\r\n\r\n", b"\r\ncontent-length: 1\r\n\r\n", 1), "stream", False, Verdict.UNCLEAR),
)  # fmt: skip


@pytest.mark.parametrize(
    ("data", "schema", "closed", "verdict"), [row[1:] for row in READINGS], ids=[row[0] for row in READINGS]
)
def test_oracle_reads_answers(data: bytes, schema: str, closed: bool, verdict: Verdict) -> None:  # noqa: FBT001  # a column
    """The oracle calls an answer complete or broken only where every reader must agree."""
    assert read_answer(data, schema, closed=closed).verdict is verdict


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    """Run the tests of this module in one event loop, that of the shared process."""
    return "asyncio"


@pytest.fixture(scope="module")
async def shared() -> AsyncIterator[Fuzzed]:
    """Yield one sidecar process for the tests of the rules."""
    async with fuzzed() as target:
        yield target


@asynccontextmanager
async def impostor(target: Fuzzed, answer: bytes) -> AsyncIterator[None]:
    """Run a server that sends *answer* to each connection, in place of the sidecar of *target*."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        writer.write_eof()
        await reader.read()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    own, target.port = target.port, server.sockets[0].getsockname()[1]
    try:
        yield
    finally:
        target.port = own
        server.close()


HEALTH = b"GET /healthz HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n"
JSON_ERROR = b'{"error": {"message": "m", "type": "t", "param": null, "code": "%b"}}'
WRONG_ANSWERS = (
    (with_length(b'{"status": "ok"}'), "responses without a record"),
    (with_length(JSON_ERROR % b"internal_error", b"500 X"), "undocumented refusal: 500"),
    (with_length(JSON_ERROR % b"odd", b"400 X"), "undocumented refusal: 400"),
    (with_length(JSON_ERROR % b"not_found", b"418 X"), "undocumented refusal: 418"),
    (with_length(b"<html>"), "no JSON"),
    (b"HTTP/1.1 200 OK\nx: y\n\n", "invalid response"),
    (b"", "closed without an answer"),
    (HEAD + chunk(token("a")) + END, "without a proper end"),
    (with_length(b"{}") + b"HTTP/1.1 200", "invalid response"),
)


@pytest.mark.parametrize(("answer", "fault"), WRONG_ANSWERS, ids=[fault for _, fault in WRONG_ANSWERS])
async def test_rules_of_the_client_wire_can_fail(shared: Fuzzed, answer: bytes, fault: str) -> None:
    """Each wrong response to a request is a fault."""
    async with impostor(shared, answer):
        faults = await check_client_case(ClientCase([HEALTH]), shared)

    assert any(fault in each for each in faults), faults


CHAT_HEAD = HEAD + chunk(b"event: start\ndata: \n\n" + b'event: token\ndata: "a"\n\n')
LOOKS_COMPLETE = HEAD + chunk(token("a") + b"data: [DONE]\n\n") + END
WRONG_ENDS = (
    ("stream", HEAD + chunk(token("a")), LOOKS_COMPLETE, "a broken answer looks complete"),
    ("stream", STREAMED, LOOKS_COMPLETE, "another text"),
    ("stream", STREAMED, HEAD + chunk(token("a")) + END, "a stream without [DONE]"),
    ("stream", STREAMED, HEAD + chunk(token("a") + b"data: [DONE]\n\n" * 2) + END, "something behind its end"),
    ("stream", STREAMED, HEAD + chunk(token("a") + sse({"error": {"code": "x"}}) + b"data: [DONE]\n\n") + END, "a complete answer looks broken"),
    ("chat", STREAMED, CHAT_HEAD + END, "not one end"),
    ("chat", STREAMED, CHAT_HEAD + chunk(b"event: done\ndata: \n\n" * 2) + END, "not one end"),
    ("chat", HEAD + chunk(token("a")), CHAT_HEAD + chunk(b"event: done\ndata: \n\n") + END, "a broken answer looks complete"),
    ("plain", with_length(whole_answer("ab")), with_length(b"[]"), "no JSON object"),
    ("plain", with_length(b"x"), with_length(JSON_ERROR % b"internal_error", b"502 X"), "improper answer"),
)  # fmt: skip


@pytest.mark.parametrize(
    ("schema", "sent", "answer", "fault"), WRONG_ENDS, ids=[f"{row[0]}: {row[3]}" for row in WRONG_ENDS]
)
async def test_rules_of_the_upstream_wire_can_fail(
    shared: Fuzzed, schema: str, sent: bytes, answer: bytes, fault: str
) -> None:
    """Each wrong reaction to an answer of upstream is a fault, and so is a wrong answer to the next call."""
    async with impostor(shared, answer):
        faults = await check_upstream_case(UpstreamCase(schema, [sent], "fin"), shared)

    assert any(fault in each for each in faults), faults
    assert any("the next call got another answer" in each for each in faults)


async def test_ordinary_calls_break_no_rule(shared: Fuzzed) -> None:
    """Ordinary requests and answers break no rule, whatever their schema."""
    for schema, data in (("stream", STREAMED), ("chat", STREAMED), ("plain", with_length(whole_answer("ab")))):
        assert await check_client_case(ClientCase([request_of(schema)]), shared) == []
        assert await check_upstream_case(UpstreamCase(schema, [data[:50], data[50:]], ""), shared) == []
    assert await fuzz.check_ordinary(shared) == []


async def test_case_that_fails_becomes_smaller() -> None:
    """A case is reduced to the bytes that make it fail, in one piece."""

    async def fails(case: AnyCase) -> bool:
        return b"X" in b"".join(case.pieces)

    small = await shrunk(ClientCase([b"a" * 500, b"bXc", b"d" * 500]), fails)

    assert small == ClientCase([b"X"])


async def test_saved_case_is_replayed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file of a case has all that is needed to send it again."""
    for case in (ClientCase([HEALTH]), UpstreamCase("stream", [STREAMED], "")):
        path = tmp_path / "case.json"
        path.write_bytes(msgspec.json.encode(Found(SEED, 0, ["fault"], case)))
        assert await fuzz.replay(path) == 0
        assert "no fault" in capsys.readouterr().out
