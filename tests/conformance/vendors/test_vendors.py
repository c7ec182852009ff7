"""Recorded answers of vendors' servers over real sockets: what clients of both schemas receive, and what is charged.

The samples are in the TOML files of this folder; README.md says how to add one.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest
from places import VENDORS
from recording import V1, Recorded, recorded
from serving import CHAT, events
from vendor_samples import (
    CEILING_ASKED,
    CEILING_FIELDS,
    SOURCES,
    Expected,
    ExpectedError,
    Sample,
    load_samples,
    plays_sample,
    read_samples,
)
from wire import Upstream, eventually, upstream

from policies import Record

pytestmark = pytest.mark.anyio

SAMPLES = load_samples()
ANSWERS = [sample for sample in SAMPLES if sample.kind != "ceiling"]
CEILINGS = [sample for sample in SAMPLES if sample.kind == "ceiling"]
RETRY = '[[policy]]\nuse = "retry"\nattempts = 3\nbase = 0\ncap = 0\npatience = 0\n'
BUDGET = '[[policy]]\nuse = "budget"\ntokens = 1_000_000_000\n'
ESTIMATE = RETRY + BUDGET
BOUND = f'{RETRY}{BUDGET}reserve = "bound"\nanswer = {CEILING_ASKED}\n'


class Call(NamedTuple):
    """One call of a client, and what followed from it."""

    status: int
    headers: dict[str, str]
    body: bytes
    record: Record
    spent: int
    requests: list[dict[str, Any]]


class Running(NamedTuple):
    """A sidecar that keeps its records, and the upstream behind it."""

    up: Upstream
    it: Recorded


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    """Run the tests of this module in one event loop, that of the shared sidecar."""
    return "asyncio"


@pytest.fixture(scope="module")
async def shared(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Running]:
    """Yield a sidecar for all samples that make one request: to start one takes longer than a call.

    The others get one of their own, because retries share a budget and lessons stay.
    """
    async with upstream() as up:
        breaks = f"[[upstream]]\nbase_url = '{up.url}'\nmodel = 'm-chat'\nbreaker = {{ calls = 0 }}\n"
        async with recorded(tmp_path_factory.mktemp("vendors"), None, breaks + ESTIMATE) as it:
            yield Running(up, it)


async def call(running: Running, schema: str, more: dict[str, Any]) -> Call:
    """Make a call in *schema*; on `/v1` with the fields *more*, and with a model for each schema."""
    up, it = running
    asked, recorded_before = len(up.requests), len(it.records)
    spent = sum(each.spent for each in await it.served.gateway.policy_services.store.accounts())
    body = CHAT if schema == "chat" else {"model": f"m-{schema}", **CHAT, "stream": schema == "stream", **more}
    status, headers, answer = await it.served.post("/api/chat" if schema == "chat" else V1, body)
    await eventually(lambda: len(it.records) > recorded_before)
    account = await it.served.account()
    assert account.reserved == 0
    bodies = [request.body for request in up.requests[asked:]]
    return Call(status, headers, answer, it.records[-1], account.spent - spent, bodies)


def test_table_is_complete() -> None:
    """The table has at least 80 samples, each with a unique name and a source, of all kinds."""
    assert len({str(sample) for sample in SAMPLES}) == len(SAMPLES) >= 80
    assert {sample.kind for sample in SAMPLES} == {"stream", "whole", "error", "ceiling"}
    for sample in SAMPLES:
        assert sample.source.startswith(SOURCES), sample
        assert (sample.status >= 400) == (sample.kind in ("error", "ceiling")), sample


def test_example_in_the_readme_is_a_sample() -> None:
    """The README's example can be appended to a file as it is; a misspelt field is refused."""
    (example,) = re.findall(r"```toml\n(.*?)```", (VENDORS / "README.md").read_text("utf-8"), re.DOTALL)
    (sample,) = read_samples('server = "Example"\n' + example)
    assert str(sample) == "Example: prompt too long"
    with pytest.raises(msgspec.ValidationError, match="unknown field `knd`"):
        read_samples('server = "Example"\n' + example.replace('kind = "error"', 'kind = "error"\nknd = 1'))


@pytest.mark.parametrize("sample", ANSWERS, ids=str)
async def test_answer_reaches_clients_and_is_charged(
    tmp_path: Path, sample: Sample, shared: Running, subtests: pytest.Subtests
) -> None:
    """In each schema, clients receive the sample's text and end, and its usage is charged."""
    if sample.expect.requests == 1:
        shared.up.play(plays_sample(sample))
        await check_answer(shared, sample, subtests)
    else:
        async with upstream(plays_sample(sample)) as up, recorded(tmp_path, up, ESTIMATE) as it:
            await check_answer(Running(up, it), sample, subtests)


@pytest.mark.parametrize("sample", CEILINGS, ids=str)
async def test_refused_ceiling_is_adapted(tmp_path: Path, sample: Sample, subtests: pytest.Subtests) -> None:
    """What the sidecar wrote into a call and a server refuses is adapted; the next call needs one request."""
    expected = sample.expect
    async with upstream(plays_sample(sample)) as up, recorded(tmp_path, up, BOUND) as it:
        for schema in sample.asked_as:
            with subtests.test(schema):
                first = await call(Running(up, it), schema, sample.request)
                assert text_of(first, schema) == "ok"
                assert sent_ceiling(first.requests[0]) == CEILING_ASKED
                if expected.requests_at_most:
                    assert 2 <= len(first.requests) <= expected.requests_at_most
                else:
                    assert len(first.requests) == expected.requests
                second = await call(Running(up, it), schema, sample.request)
                assert text_of(second, schema) == "ok"
                assert len(second.requests) == 1


async def check_answer(running: Running, sample: Sample, subtests: pytest.Subtests) -> None:
    """Make a call in each schema of *sample*, and check what followed from it."""
    expected = sample.expect
    for schema in sample.asked_as:
        with subtests.test(schema):
            made = await call(running, schema, sample.request)
            if schema == "chat":
                check_chat(made, expected)
            elif expected.status != 200:
                check_failure(made, expected)
            elif schema == "stream":
                check_stream(made, sample)
            else:
                check_whole(made, sample)
            check_charge(made, expected)
            assert len(made.requests) == expected.requests
            if expected.kind:
                assert made.record.error_kind == expected.kind
            for secret in expected.error.hides if expected.error else ():
                assert secret.encode() not in made.body


def check_stream(made: Call, sample: Sample) -> None:
    """Check the stream of an OpenAI client: its events, its text, and its end, which is an error if one is expected."""
    expected, chunks = sample.expect, list(chunks_of(made.body))
    assert (made.status, made.headers["content-type"].split(";")[0]) == (200, "text/event-stream")
    assert made.body.endswith(b"data: [DONE]\n\n")
    assert text_of(made, "stream") == expected.text
    errors = [each["error"] for each in chunks if each.get("error")]
    if expected.error is not None:
        (error,) = errors
        check_error(error, expected.error)
        return
    assert not errors
    finishes = [choice["finish_reason"] for choice in choices_of(made.body) if choice.get("finish_reason")]
    assert (finishes or [""])[-1] == expected.finish
    for payload in payloads_of(sample.body.encode()):
        if payload.startswith(b"{") and json.loads(payload).get("choices"):
            assert payload in made.body


def check_whole(made: Call, sample: Sample) -> None:
    """Check an answer without `stream`: the values of upstream's JSON, also where they are not JSON's (NaN)."""
    expected = sample.expect
    assert (made.status, made.headers["content-type"]) == (200, "application/json")
    assert repr(json.loads(made.body)) == repr(json.loads(sample.body))
    assert text_of(made, "plain") == expected.text
    finishes = [choice["finish_reason"] for choice in json.loads(made.body)["choices"]]
    assert (finishes or [""])[-1] == expected.finish


def check_failure(made: Call, expected: Expected) -> None:
    """Check an error response on `/v1`, and its advice to repeat the call or not."""
    assert made.status == expected.status
    assert expected.error is not None
    check_error(json.loads(made.body)["error"], expected.error)
    assert made.headers.get("x-should-retry") == ("false" if expected.final else None)
    if expected.retry_after is not None:
        assert made.headers["retry-after"] == str(expected.retry_after)


def check_error(error: dict[str, Any], expected: ExpectedError) -> None:
    """Check an error object: upstream's own message, code, type and further fields."""
    for text in expected.says:
        assert text in error["message"]
    if expected.code:
        assert str(error["code"]) == expected.code
    if expected.type:
        assert error["type"] == expected.type
    assert part_of(expected.fields, error) == expected.fields


def check_chat(made: Call, expected: Expected) -> None:
    """Check a Chat Nest stream: `start`, the text, and exactly one of `done` and `error`."""
    assert made.status == 200
    seen = events(made.body)
    assert text_of(made, "chat") == expected.text
    end = "done" if expected.chat_end == "done" else "error"
    assert [name for name, _ in seen if name not in ("token", "ping")] == ["start", end]
    if end == "error":
        error = json.loads(seen[-1][1])
        assert error["message"]
        assert expected.chat_end in ("error", error["code"])


def check_charge(made: Call, expected: Expected) -> None:
    """Check the record's tokens and what the budget was charged; a failure before output costs nothing."""
    record = made.record
    if expected.status != 200:
        assert made.spent == 0
        return
    if expected.output is not None:
        assert record.output_tokens == expected.output
    if expected.input is not None:
        assert (record.input_tokens, record.cached_tokens) == (expected.input, expected.cached)
    if expected.input is not None and expected.output is not None:
        assert made.spent == expected.input + expected.output
    elif expected.output is not None:
        assert made.spent > expected.output  # and the estimate of the prompt


def text_of(made: Call, schema: str) -> str:
    """Return the text of an answer as a client of *schema* reads it."""
    if schema == "chat":
        return "".join(json.loads(data) for name, data in events(made.body) if name == "token")
    parts = [choice.get("delta" if schema == "stream" else "message") or {} for choice in choices_of(made.body, schema)]
    return "".join(plain_text(part.get("content")) + (part.get("refusal") or "") for part in parts)


def plain_text(content: Any) -> str:
    """Return *content* as text: a string, or the text parts of a list; parts of other types are no text."""
    if isinstance(content, list):
        return "".join(part.get("text", "") for part in content if part.get("type") == "text")
    return content or ""


def choices_of(body: bytes, schema: str = "stream") -> list[dict[str, Any]]:
    """Return all choices in *body*, in order."""
    answers = chunks_of(body) if schema == "stream" else [json.loads(body)]
    return [choice for answer in answers for choice in answer.get("choices") or ()]


def chunks_of(body: bytes) -> Iterator[dict[str, Any]]:
    """Return the JSON objects of a stream."""
    return (json.loads(payload) for payload in payloads_of(body) if payload.startswith(b"{"))


def payloads_of(body: bytes) -> list[bytes]:
    """Return the data of a stream's lines."""
    return [line[5:].strip() for line in body.splitlines() if line.startswith(b"data:")]


def part_of(expected: Any, found: Any) -> Any:
    """Return *found* without the keys that *expected* does not have, at any depth."""
    if isinstance(expected, dict) and isinstance(found, dict):
        return {key: part_of(value, found.get(key)) for key, value in expected.items()}
    return found


def sent_ceiling(request: dict[str, Any]) -> int | None:
    """Return the ceiling in *request*."""
    return next((request[name] for name in CEILING_FIELDS if request.get(name)), None)
