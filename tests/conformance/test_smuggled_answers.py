"""Ambiguous answers of an upstream: no byte of them reaches the next client, and their connection serves no further call."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from typing import NamedTuple

import pytest
from recorded_bytes import RecordingUpstream, ordinary, recording_upstream
from scripts import whole_answer
from serving import Sidecar, settings_of, sidecar
from smuggled_answers import ANSWERS, FIRST, POISON, SECOND, UNASKED, AnswerRow, Client, Kept
from strict_http import Message, read_responses
from wire import eventually

pytestmark = pytest.mark.anyio

V1 = b"/v1/chat/completions"
SETTINGS = '[[policy]]\nuse = "budget"\ntokens = 1_000_000_000\n[[policy]]\nuse = "retry"\nattempts = 1\n'
FAILURES = (429, *range(500, 600))
BODY = b'{"model":"m","messages":[{"role":"user","content":"hi"}]}'
CALL = b"POST %b HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\ncontent-type: application/json\r\n" % V1
CALL += b"content-length: %d\r\n\r\n%b" % (len(BODY), BODY)


class Running(NamedTuple):
    """A sidecar, and the upstream that records what it sends."""

    up: RecordingUpstream
    served: Sidecar


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    """Run the tests of this module in one event loop, that of the shared sidecar."""
    return "asyncio"


@pytest.fixture(scope="module")
async def running(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Running]:
    """Yield one sidecar for all rows, without a circuit breaker."""
    async with recording_upstream() as up:
        text = f"[[upstream]]\nbase_url = '{up.url}'\nmodel = 'm'\nbreaker = {{ calls = 0 }}\n" + SETTINGS
        async with sidecar(settings_of(tmp_path_factory.mktemp("answers"), None, text)) as served:
            yield Running(up, served)


async def call(running: Running) -> tuple[Message, bytes]:
    """Make one call on a connection of its own; return the only response, and all bytes."""
    client = await running.served.client()
    client.writer.write(CALL)
    raw = await client.until_end()
    client.close()
    await eventually(lambda: len(running.served.gateway.active_calls) == 0)
    (response,) = read_responses(raw)
    return response, raw


def test_table_is_large() -> None:
    """The table of answers has at least 60 rows, each with a unique name and a source."""
    assert len({row.name for row in ANSWERS}) == len(ANSWERS) >= 60
    assert all(row.source for row in ANSWERS)


@pytest.mark.parametrize("row", ANSWERS, ids=[row.name for row in ANSWERS])
async def test_answer_never_reaches_another_client(running: Running, row: AnswerRow) -> None:
    """The first client gets an answer or an error, the next one exactly its own answer, over a connection that is certain."""
    up, _ = running
    up.clear()
    answers: Iterator[bytes] = iter([row.data])

    def answer(message: Message) -> Sequence[bytes]:
        return [data] if (data := next(answers, None)) is not None else ordinary(message)

    up.answer, up.end = answer, "fin" if row.ends else ""
    first, raw = await call(running)
    second, next_raw = await call(running)

    assert (second.status, second.body) == (200, whole_answer("ordinary"))
    assert POISON not in next_raw
    assert up.faults == []
    assert len(up.requests) == 2
    if row.kept is Kept.DROPPED:
        assert up.used[0] != up.used[1]
    elif row.kept is Kept.KEPT:
        assert up.used[0] == up.used[1]
    if row.client is Client.ANSWER:
        assert (first.status, first.body) == (200, FIRST)
    elif row.client is Client.FAILURE:
        assert first.status in FAILURES
    else:
        assert first.status == 200 or first.status in FAILURES
    if first.status == 200:
        assert SECOND not in raw
    assert b"internal_error" not in raw
    assert b"set-cookie" not in raw
    assert sum(each.reserved for each in await running.served.gateway.policy_services.store.accounts()) == 0


@pytest.mark.parametrize("data", [data for _, data in UNASKED], ids=[name for name, _ in UNASKED])
async def test_bytes_on_an_idle_connection_close_it(running: Running, data: bytes) -> None:
    """Bytes that arrive on a kept connection while no request waits belong to no call: the connection is closed."""
    up, _ = running
    up.clear()
    await call(running)
    up.send(up.used[0], data)
    await eventually(lambda: up.used[0] in up.ended)
    second, raw = await call(running)

    assert (second.status, second.body) == (200, whole_answer("ordinary"))
    assert POISON not in raw
    assert up.used[0] != up.used[1]


async def test_bytes_before_the_first_request_reach_one_client(running: Running) -> None:
    """An upstream that speaks first confuses its own call at most: the next client gets its own answer."""
    up, _ = running
    up.clear()
    up.drop_all()
    up.greeting = SECOND
    try:
        await call(running)
    finally:
        up.greeting = b""
    second, raw = await call(running)

    assert (second.status, second.body) == (200, whole_answer("ordinary"))
    assert POISON not in raw
    assert up.used[0] != up.used[-1]
