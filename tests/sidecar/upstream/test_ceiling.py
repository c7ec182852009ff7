"""Ceilings of policies that an upstream refuses: adapted in at most three repeats, and remembered."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from serving import Sidecar, settings_of, sidecar, with_policies
from token_refusals import CEILING_REFUSALS, OPENAI_TOO_LARGE, CeilingRefusal
from wire import Connection, Script, Upstream, upstream

from policies.api.call import Call
from policies.api.policy import Policy
from policies.testing import make_call
from sidecar.upstream.dialect import CEILING_LESSON_SECONDS, CREDIT_LESSON_SECONDS, Dialect, RequestStyle
from sidecar.upstream.errors.fitted_ceiling import FittedCeiling

pytestmark = pytest.mark.anyio

V1 = "/v1/chat/completions"
ONCE = '[[policy]]\nuse = "retry"\nattempts = 1\n'
FIELDS = ("max_tokens", "max_completion_tokens")


def clamps(output: int) -> str:
    """Return the chain that sets or lowers each ceiling to *output*, and never retries."""
    return f'[[policy]]\nuse = "max_tokens"\noutput = {output}\n{ONCE}'


def asks(content: str = "hi", **fields: Any) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": content}], **fields}


def refusal(text: str, **fields: Any) -> bytes:
    return json.dumps({"error": {"message": text, **fields}}).encode()


async def answers(connection: Connection) -> None:
    if connection.body.get("stream"):
        await connection.stream("fine")
        return
    choice = {"index": 0, "message": {"role": "assistant", "content": "fine"}, "finish_reason": "stop"}
    await connection.answer(200, json.dumps({"choices": [choice], "usage": {"prompt_tokens": 5}}).encode())


def ceiling_of(connection: Connection) -> int | None:
    return next((value for field in FIELDS if (value := connection.body.get(field)) is not None), None)


def ceilings(up: Upstream) -> list[int | None]:
    """Return the ceilings of all requests so far, in order."""
    return [ceiling_of(request) for request in up.requests]


def up_to(most: int, says: Callable[[int], str], status: int = 400, **fields: Any) -> Script:
    """Return a server that refuses a ceiling above *most*, in the words *says* of the refused number."""

    async def script(connection: Connection) -> None:
        sent = ceiling_of(connection)
        if sent is not None and sent > most:
            await connection.answer(status, refusal(says(sent), **fields))
        else:
            await answers(connection)

    return script


def openai(sent: int) -> str:
    return f"max_tokens is too large: {sent}. This model supports at most 4096 completion tokens, whereas you provided {sent}."


def vllm(context: int, prompt: int | None = None) -> Script:
    """Return vLLM with a *context*, which counts *prompt* tokens for each prompt, or four bytes a token and a frame of 20."""
    fixed = prompt

    async def script(connection: Connection) -> None:
        sent = ceiling_of(connection) or 0
        prompt = fixed or len(connection.body["messages"][0]["content"]) // 4 + 20
        if sent > context:
            words = f"max_tokens={sent} cannot be greater than max_model_len=max_total_tokens={context}. Please request fewer output tokens. (parameter=max_tokens, value={sent})"
        elif sent + prompt > context:
            words = f"This model's maximum context length is {context} tokens. However, you requested {sent} output tokens and your prompt contains {prompt} input tokens, for a total of {sent + prompt} tokens. Please reduce the length of the input prompt or the number of requested output tokens."
        else:
            await answers(connection)
            return
        await connection.answer(400, refusal(words, type="BadRequestError", code=400))

    return script


class Saving(Policy, frozen=True):
    """Set a ceiling that the request does not need."""

    tokens: int = 1000

    async def admit(self, call: Call) -> None:
        call.max_tokens = self.tokens
        call.ceiling_may_be_dropped = True


async def status_of(served: Sidecar, body: dict[str, Any]) -> int:
    status, _, _ = await served.post(V1, body)
    return status


@pytest.mark.parametrize("row", CEILING_REFUSALS, ids=lambda each: each.server)
@pytest.mark.parametrize("stream", [True, False])
async def test_refused_ceiling_is_lowered_to_the_named_number(
    tmp_path: Path,
    row: CeilingRefusal,
    stream: bool,  # noqa: FBT001  # a column
) -> None:
    """The request is repeated with the number that the refusal names; the client gets the answer and sees no refusal."""

    async def refuses(connection: Connection) -> None:
        await connection.answer(row.status, refusal(row.text, **row.fields))

    async with upstream(refuses, answers) as up, sidecar(settings_of(tmp_path, up.url, clamps(row.sent))) as served:
        status = await status_of(served, asks(stream=stream))

    sent, repeated = ceilings(up)
    assert (status, sent) == (200, row.sent)
    if row.of_context:
        assert repeated is not None
        assert row.ceiling - 64 < repeated < row.ceiling, "the prompt of 2 bytes needs its part of the context"
    else:
        assert repeated == row.ceiling


@pytest.mark.parametrize("row", [each for each in CEILING_REFUSALS if each.status != 402], ids=lambda each: each.server)
async def test_model_maximum_is_remembered(tmp_path: Path, row: CeilingRefusal) -> None:
    """The model's own maximum, or its context, is kept: the next call needs one request. What depends on a prompt is not."""
    asked = 0

    async def refuses_first(connection: Connection) -> None:
        nonlocal asked
        asked += 1
        if asked == 1:
            await connection.answer(row.status, refusal(row.text, **row.fields))
        else:
            await answers(connection)

    async with upstream(refuses_first) as up, sidecar(settings_of(tmp_path, up.url, clamps(row.sent))) as served:
        statuses = [await status_of(served, asks()) for _ in range(2)]

    _, _, next_one = ceilings(up)
    assert statuses == [200, 200]
    if row.lasting:
        assert next_one == row.ceiling
    else:
        known = min(row.sent, row.context or row.sent)
        assert next_one is not None
        assert known - 64 < next_one <= known, "what the model's context leaves after a prompt of 2 bytes"


async def test_context_that_is_named_fits_later_prompts(tmp_path: Path) -> None:
    """Of a context that vLLM names, the estimated prompt is taken off; later calls fit their own prompts, without a repeat."""
    async with upstream(vllm(4096)) as up, sidecar(settings_of(tmp_path, up.url, clamps(16384))) as served:
        first = await status_of(served, asks())
        learnt = len(up.requests)
        second = await status_of(served, asks("a longer prompt " * 100))

    assert (first, second) == (200, 200)
    assert (learnt, len(up.requests)) == (2, 3)


async def test_long_prompt_gets_the_room_that_the_server_counts(tmp_path: Path) -> None:
    """A prompt that the estimate makes too long for the context keeps its ceiling until the server counts it."""
    async with upstream(vllm(4096, 4000)) as up, sidecar(settings_of(tmp_path, up.url, clamps(3000))) as served:
        statuses = [await status_of(served, asks("x" * 20_000)) for _ in range(2)]

    assert statuses == [200, 200]
    assert ceilings(up) == [3000, 96, 3000, 96]


@pytest.mark.parametrize(
    ("tokens", "status", "requests"),
    [(500, 200, 1), (2_000, 200, 2), (3_500, 200, 4), (5_000, 400, 4), (9_000, 400, 1)],
)
async def test_prompt_that_the_server_stops_to_count(tmp_path: Path, tokens: int, status: int, requests: int) -> None:
    """Where a server reads one token more than fits beside the answer, the estimate or half of the ceiling is tried."""
    context = 4096

    async def script(connection: Connection) -> None:
        sent = ceiling_of(connection) or 0
        if tokens + sent <= context:
            await answers(connection)
            return
        most = context - sent
        words = f"You passed {most + 1} input tokens and requested {sent} output tokens. However, the model's context length is only {context} tokens, resulting in a maximum input length of {most} tokens. Please reduce the length of the input prompt. (parameter=input_tokens, value={most + 1})"
        await connection.answer(400, refusal(words, type="BadRequestError", code=400))

    async with upstream(script) as up, sidecar(settings_of(tmp_path, up.url, clamps(3000))) as served:
        assert await status_of(served, asks("word" * tokens)) == status

    assert len(up.requests) == requests


async def test_prompt_that_is_too_long_alone_is_not_repeated(tmp_path: Path) -> None:
    """Where the prompt alone exceeds the context no ceiling helps: the client gets the refusal of the only request."""
    async with upstream(vllm(4096, 5000)) as up, sidecar(settings_of(tmp_path, up.url, clamps(3000))) as served:
        status, _, body = await served.post(V1, asks())

    assert (status, len(up.requests)) == (400, 1)
    assert b"maximum context length is 4096" in body


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
@pytest.mark.parametrize("stream", [True, False])
async def test_ceiling_of_the_client_is_not_adapted(tmp_path: Path, field: str, stream: bool) -> None:  # noqa: FBT001  # a column
    """A client's own ceiling that no policy lowered gets its 400 after one request."""
    script = up_to(4096, openai, param=field)
    async with upstream(script) as up, sidecar(settings_of(tmp_path, up.url, clamps(100_000))) as served:
        status, _, body = await served.post(V1, asks(stream=stream) | {field: 50_000})

    assert (status, len(up.requests)) == (400, 1)
    assert b"at most 4096 completion tokens" in body


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens", "n_predict"])
async def test_lowered_ceiling_of_the_client_is_adapted(tmp_path: Path, field: str) -> None:
    """A client's ceiling that a policy lowered counts as the policy's: it is adapted in the field of the client."""
    async with upstream(up_to(4096, openai)) as up, sidecar(settings_of(tmp_path, up.url, clamps(16384))) as served:
        statuses = [await status_of(served, asks() | {field: 50_000}) for _ in range(2)]
        plain = await status_of(served, asks() | {field: 100})

    assert (*statuses, plain) == (200, 200, 200)
    assert [request.body[field] for request in up.requests] == [16384, 4096, 4096, 100]
    assert {request.body.get("max_tokens") for request in up.requests} == {16384, 4096, 100}


async def test_client_that_lowers_itself_is_not_raised(tmp_path: Path) -> None:
    """A lower ceiling than the learnt one stays."""
    async with upstream(up_to(4096, openai)) as up, sidecar(settings_of(tmp_path, up.url, clamps(16384))) as served:
        for body in (asks(), asks(max_tokens=10), asks()):
            assert await status_of(served, body) == 200

    assert ceilings(up) == [16384, 4096, 10, 4096]


async def test_unnamed_limit_is_found_by_halves(tmp_path: Path) -> None:
    """A refusal without a number halves the ceiling; the accepted half is remembered."""
    script = up_to(5000, lambda sent: f"max_tokens {sent} is too large")
    async with upstream(script) as up, sidecar(settings_of(tmp_path, up.url, clamps(16384))) as served:
        statuses = [await status_of(served, asks()) for _ in range(2)]

    assert statuses == [200, 200]
    assert ceilings(up) == [16384, 8192, 4096, 4096]


@pytest.mark.parametrize("status", [400, 413, 422, 500])
async def test_at_most_three_repeats(tmp_path: Path, status: int) -> None:
    """A server that refuses every ceiling is asked four times; the client gets its last refusal."""

    async def refuses(connection: Connection) -> None:
        await connection.answer(status, refusal("max_tokens is too large"))

    async with upstream(refuses) as up, sidecar(settings_of(tmp_path, up.url, clamps(1600))) as served:
        assert await status_of(served, asks()) == status

    assert ceilings(up) == [1600, 800, 400, 200]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("max_tokens is too large", [1000, 500, None]),
        ("Unrecognized request argument supplied: max_tokens", [1000, None]),
        (OPENAI_TOO_LARGE.replace("4096", "256"), [1000, 256, 128, None]),
    ],
)
async def test_ceiling_is_dropped_where_policies_allow(tmp_path: Path, words: str, expected: list[int | None]) -> None:
    """After a half, or at once for a field that the server does not know, the request is sent without a ceiling."""

    async def refuses(connection: Connection) -> None:
        if ceiling_of(connection) is None:
            await answers(connection)
        else:
            await connection.answer(400, refusal(words))

    async with upstream(refuses) as up:
        settings = with_policies(settings_of(tmp_path, up.url, ONCE), Saving(), alone=True)
        async with sidecar(settings) as served:
            assert await status_of(served, asks()) == 200
            first = ceilings(up)
            assert await status_of(served, asks()) == 200

    assert first == expected
    assert ceilings(up)[len(expected) :] == [None], "the lesson is kept"


async def test_ceiling_is_not_dropped_elsewhere(tmp_path: Path) -> None:
    """Without the permission of the policies, a field that the server does not know is a refusal after one request."""

    async def refuses(connection: Connection) -> None:
        await connection.answer(400, refusal("Unrecognized request argument supplied: max_tokens"))

    async with upstream(refuses) as up, sidecar(settings_of(tmp_path, up.url, clamps(1000))) as served:
        assert await status_of(served, asks()) == 400

    assert ceilings(up) == [1000]


async def test_ceiling_of_the_client_is_never_dropped(tmp_path: Path) -> None:
    """A lowered ceiling of the client stays a ceiling, though the policy would do without it."""

    async def refuses(connection: Connection) -> None:
        await connection.answer(400, refusal("max_tokens is too large"))

    async with upstream(refuses) as up:
        settings = with_policies(settings_of(tmp_path, up.url, ONCE), Saving(), alone=True)
        async with sidecar(settings) as served:
            assert await status_of(served, asks(max_tokens=5000)) == 400

    assert ceilings(up) == [1000, 500, 250, 125]


async def test_usage_name_and_number_fit_into_three_repeats(tmp_path: Path) -> None:
    """A server that refuses usage, the field's name and its number is adapted in three repeats; then none is needed."""

    async def refuses(connection: Connection) -> None:
        body = connection.body
        if "stream_options" in body:
            await connection.answer(400, refusal("Unrecognized request argument supplied: stream_options"))
        elif "max_tokens" in body:
            words = "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."
            await connection.answer(400, refusal(words, param="max_tokens", code="unsupported_parameter"))
        elif body["max_completion_tokens"] > 4096:
            await connection.answer(400, refusal(openai(body["max_completion_tokens"])))
        else:
            await answers(connection)

    async with upstream(refuses) as up, sidecar(settings_of(tmp_path, up.url, clamps(16384))) as served:
        statuses = [await status_of(served, asks(stream=True)) for _ in range(2)]

    assert statuses == [200, 200]
    assert len(up.requests) == 5
    assert up.requests[-1].body["max_completion_tokens"] == 4096


async def test_affordable_ceiling_is_remembered_for_a_minute(tmp_path: Path) -> None:
    """What an account can afford is kept for the next calls of a minute; one that affords nothing is not repeated."""

    def says(sent: int) -> str:
        return f"This request requires more credits, or fewer max_tokens. You requested up to {sent} tokens, but can only afford 3919. To increase, visit https://openrouter.ai/settings/credits and upgrade to a paid account"

    rich, poor = up_to(3919, says, 402), up_to(0, lambda sent: says(sent).replace("3919", "0"), 402)
    async with upstream(rich) as up, sidecar(settings_of(tmp_path, up.url, clamps(16384))) as served:
        statuses = [await status_of(served, asks()) for _ in range(2)]
        up.play(poor)
        last = await status_of(served, asks())

    assert (statuses, last) == ([200, 200], 402)
    assert ceilings(up) == [16384, 3919, 3919, 3919]


async def test_what_one_clients_account_affords_is_not_kept_for_others(tmp_path: Path) -> None:
    """Where clients send their own keys, what the account of one can afford lowers no ceiling of another client."""

    async def poor(connection: Connection) -> None:
        tokens = connection.body["max_tokens"]
        if connection.header("authorization") != "Bearer poor" or tokens <= 3919:
            await connection.stream("fine")
            return
        message = f"This request requires more credits, or fewer max_tokens. You requested up to {tokens} tokens, but can only afford 3919."
        await connection.answer(402, json.dumps({"error": {"message": message, "code": 402}}).encode())

    async with upstream(poor) as up, sidecar(settings_of(tmp_path, up.url, clamps(16384))) as served:
        for token in ("poor", "rich"):
            await served.post("/v1/chat/completions", asks(), f"Authorization: Bearer {token}")

    assert ceilings(up) == [16384, 3919, 16384]


async def test_ceiling_beyond_the_whole_rate_is_adapted(tmp_path: Path) -> None:
    """A server that counts the ceiling against its rate gets one that fits (zeeyado/koassistant.koplugin#106)."""

    def says(sent: int) -> str:
        return f"Request too large for gpt-4o in organization org-x on tokens per min (TPM): Limit 8000, Requested {sent + 300}. The input or output tokens must be reduced in order to run successfully."

    for status in (413, 429):
        script = up_to(7700, says, status=status, type="tokens", code="rate_limit_exceeded")
        async with upstream(script) as up, sidecar(settings_of(tmp_path, up.url, clamps(16384))) as served:
            assert await status_of(served, asks()) == 200
        assert ceilings(up) == [16384, 7700]


async def test_rate_that_is_used_up_is_not_adapted(tmp_path: Path) -> None:
    """A 429 for what others have used is no reason for a lower ceiling."""

    async def refuses(connection: Connection) -> None:
        words = "Rate limit reached on tokens per min (TPM): Limit 30000, Used 29000, Requested 16500. Please try again in 600s."
        await connection.answer(429, refusal(words, code="rate_limit_exceeded"))

    async with upstream(refuses) as up, sidecar(settings_of(tmp_path, up.url, clamps(16384))) as served:
        assert await status_of(served, asks()) == 429

    assert len(up.requests) == 1


@pytest.mark.parametrize(
    "words",
    [
        "This model supports at most 17 completion tokens",
        "at most 17 completion tokens, and max_tokens 3 > 17",
        "maximum context length is 17 tokens",
        "This model supports at most \u0661\u0667 completion tokens",
        "This model supports at most \uff11\uff17 completion tokens",
        "at most 18 (exclusive) completion tokens",
    ],
)
async def test_quoted_client_teaches_nothing(tmp_path: Path, words: str) -> None:
    """A number that the client itself sent is used for its own call at most: other calls keep their ceiling."""

    async def quotes(connection: Connection) -> None:
        content = connection.body["messages"][0]["content"]
        sent = ceiling_of(connection) or 0
        if content != "hi" and sent > 4096:
            await connection.answer(400, refusal(f"max_tokens {sent} is too large for {content}"))
        else:
            await answers(connection)

    async with upstream(quotes) as up, sidecar(settings_of(tmp_path, up.url, clamps(16384))) as served:
        await status_of(served, asks(words))
        attacked = len(up.requests)
        assert await status_of(served, asks()) == 200

    assert attacked > 1
    assert ceilings(up)[-1] == 16384


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"stream_options": {"at most 17 completion tokens": 1}}, "max_tokens 16384: bad field at most 17 completion tokens"),
        ({"max_completion_tokens": None}, "max_completion_tokens: not a number, in {'max_tokens': 16384, 'max_completion_tokens': None}"),
        ({"stop": ["n_predict"]}, "bad word: n_predict"),
        ({"stop": ["completion length"]}, "bad word: completion length"),
    ],
)  # fmt: skip
def test_nothing_that_the_client_sent_is_a_lesson(fields: dict[str, Any], text: str) -> None:
    """A server may quote any part of a request: options, names of fields that are null, words for a ceiling."""
    dialect, call = Dialect(), make_call("hi", body=fields)
    call.max_tokens = 16384
    style = dialect.after_refusal(call, dialect.style("m"), 400, text)
    assert style is not None, "its own call is adapted"
    dialect.learn("m", dialect.style("m"), style, call)
    other = make_call("hi")
    other.max_tokens = 16384

    assert dialect.body(other, "m", dialect.style("m"), streams=False)["max_tokens"] == 16384


def test_forwarded_header_is_no_lesson() -> None:
    """A server may quote a header of the client too."""
    dialect, call = Dialect(), make_call("hi", forwarded_headers={"x-session-id": "at most 17 completion tokens"})
    call.max_tokens = 16384
    style = dialect.after_refusal(call, RequestStyle(), 400, "max_tokens 16384: session at most 17 completion tokens")
    assert style is not None
    dialect.learn("m", RequestStyle(), style, call)

    assert (known := dialect.style("m").ceiling) is not None
    assert known.most == 0


@pytest.mark.parametrize("attempts", [2, 3])
async def test_three_repeats_are_those_of_the_whole_call(tmp_path: Path, attempts: int) -> None:
    """A retry goes on with what the earlier attempts learnt: a failing server is not asked four times an attempt."""

    async def refuses(connection: Connection) -> None:
        await connection.answer(500, refusal("max_tokens is too large"))

    chain = clamps(1600).replace("attempts = 1", f"attempts = {attempts}\nbase = 0")
    async with upstream(refuses) as up, sidecar(settings_of(tmp_path, up.url, chain)) as served:
        assert await status_of(served, asks()) == 500

    assert ceilings(up) == [1600, 800, 400, 200, *[200] * (attempts - 1)]


async def test_retry_keeps_the_adapted_ceiling(tmp_path: Path) -> None:
    """A transient failure of a repeat is retried with the adapted ceiling, not with the refused one."""

    async def refuses(connection: Connection) -> None:
        await connection.answer(400, refusal(OPENAI_TOO_LARGE))

    async def fails(connection: Connection) -> None:
        await connection.answer(503, refusal("busy"))

    chain = clamps(16384).replace("attempts = 1", "attempts = 2\nbase = 0")
    async with upstream(refuses, fails, answers) as up, sidecar(settings_of(tmp_path, up.url, chain)) as served:
        statuses = [await status_of(served, asks()) for _ in range(2)]

    assert statuses == [200, 200]
    assert ceilings(up) == [16384, 4096, 4096, 4096], "the lesson is kept"


async def test_quoted_field_changes_no_usage(tmp_path: Path) -> None:
    """A client that writes about `stream_options` does not switch usage off for others, though its own call is adapted twice."""

    async def quotes(connection: Connection) -> None:
        content, sent = connection.body["messages"][0]["content"], ceiling_of(connection) or 0
        if sent > 4096:
            await connection.answer(400, refusal(f"{openai(sent)} Your message: {content}"))
        else:
            await answers(connection)

    async with upstream(quotes) as up, sidecar(settings_of(tmp_path, up.url, clamps(16384))) as served:
        assert await status_of(served, asks("stream_options", stream=True)) == 200
        assert await status_of(served, asks(stream=True)) == 200

    assert up.requests[-1].body["stream_options"] == {"include_usage": True}


def test_failed_server_teaches_no_half() -> None:
    """A half that followed a 500 is not kept: the server may have failed for another reason."""
    dialect, call = Dialect(), make_call("hi")
    call.max_tokens = 1000
    first = dialect.style("m")
    for status, learnt in ((500, None), (400, 500)):
        style = dialect.after_refusal(call, first, status, "max_tokens is too large")
        assert style is not None
        dialect.learn("m", first, style, call)
        known = dialect.style("m").ceiling
        assert (None if known is None else known.most) == learnt


def test_lesson_about_a_ceiling_expires() -> None:
    """A model's maximum is remembered for an hour, because a server may be restarted with another one; other lessons stay."""
    now = 0.0
    dialect, call = Dialect(monotonic=lambda: now), make_call("hi")
    call.max_tokens = 16384
    dialect.learn("m", RequestStyle(), RequestStyle(plain_usage=True, ceiling=FittedCeiling(most=4096)), call)

    def sent() -> Any:
        return dialect.body(call, "m", dialect.style("m"), streams=True)["max_tokens"]

    assert sent() == 4096
    now = CEILING_LESSON_SECONDS
    assert sent() == 16384
    assert dialect.style("m") == RequestStyle(plain_usage=True)


def test_lesson_about_credit_expires_after_a_minute() -> None:
    """What an account can pay changes, so the ceiling that follows a 402 is forgotten after a minute."""
    now = 0.0
    dialect, call = Dialect(monotonic=lambda: now), make_call("hi")
    call.max_tokens = 16384
    text = "You requested up to 16384 tokens, but can only afford 3919. Send fewer max_tokens."
    style = dialect.after_refusal(call, RequestStyle(), 402, text)
    assert style is not None
    dialect.learn("m", RequestStyle(), style, call)

    def sent() -> Any:
        return dialect.body(call, "m", dialect.style("m"), streams=True)["max_tokens"]

    assert sent() == 3919
    now = CREDIT_LESSON_SECONDS
    assert sent() == 16384


def test_adapted_ceiling_is_noted() -> None:
    """The record of the call says which ceiling was sent instead."""
    dialect, call = Dialect(), make_call("hi")
    call.max_tokens = 16384
    style = dialect.after_refusal(call, RequestStyle(), 400, OPENAI_TOO_LARGE)
    assert style is not None
    dialect.learn("m", RequestStyle(), style, call)

    assert call.notes == ["sent a ceiling of 4096 tokens, because the upstream refused 16384"]


@pytest.mark.parametrize(
    ("fields", "ceiling", "lowered"),
    [({}, 10, False), ({"max_tokens": 20}, 10, True), ({"max_tokens": 10}, 10, False), ({"max_tokens": 10, "n_predict": 30}, 10, False), ({"max_completion_tokens": 30, "n_predict": 20}, 10, True)],
)  # fmt: skip
def test_lowered_ceiling_is_known(fields: dict[str, int], ceiling: int, lowered: bool) -> None:  # noqa: FBT001  # a column
    """A ceiling counts as lowered only if the lowest of the client's fields was higher."""
    call = make_call("hi", body=fields)
    call.max_tokens = ceiling

    assert call.ceiling_was_lowered is lowered
    assert call.max_tokens == ceiling


@pytest.mark.parametrize(("made_by_client", "learnt"), [(False, 4096), (True, 0)])
def test_number_in_our_own_request_id_is_a_lesson(*, made_by_client: bool, learnt: int) -> None:
    """A limit that stands in the request id by chance is kept, unless the client has chosen the id."""
    dialect, name = Dialect(), "aa4096bb"
    call = make_call("hi", id="other" if made_by_client else name, forwarded_headers={"x-request-id": name})
    call.max_tokens = 16384
    style = dialect.after_refusal(call, RequestStyle(), 400, OPENAI_TOO_LARGE)
    assert style is not None
    dialect.learn("m", RequestStyle(), style, call)
    known = dialect.style("m").ceiling
    assert (0 if known is None else known.most) == learnt
