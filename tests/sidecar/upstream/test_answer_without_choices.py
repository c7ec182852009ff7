"""Answers without choices: with usage they are charged and forwarded, without it they are malformed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from serving import settings_of, sidecar
from wire import HEAD, Connection, Script, sse, upstream

from policies import Call, Event, Lease, Policy

pytestmark = pytest.mark.anyio

V1 = "/v1/chat/completions"
HI = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
LIMITS = '[[policy]]\nuse = "budget"\ntokens = 100_000\n[[policy]]\nuse = "retry"\nbase = 0\n'
REPORT = {"prompt_tokens": 40, "completion_tokens": 2, "total_tokens": 42}
NO_CHOICES = [{"choices": []}, {"choices": None}, {}]


class Watches(Policy, frozen=True):
    """Looks at events, so that the answer is encoded again."""

    async def admit(self, call: Call) -> Lease:
        return Watching()


class Watching(Lease):
    def on_event(self, event: Event) -> Event:
        return event


def sends(answer: dict[str, Any], *, as_stream: bool) -> Script:
    async def script(connection: Connection) -> None:
        if as_stream:
            await connection.send(HEAD)
            await connection.chunk(sse(answer) + b"data: [DONE]\n\n")
            await connection.send(b"0\r\n\r\n")
        else:
            await connection.answer(200, json.dumps(answer).encode())

    return script


@pytest.mark.parametrize("fields", NO_CHOICES, ids=repr)
@pytest.mark.parametrize("watched", [False, True])
@pytest.mark.parametrize(
    ("asks", "answers"), [(False, False), (True, True), (True, False)], ids=["whole", "stream", "whole to a stream"]
)
async def test_answer_with_usage_alone_is_charged_once(
    tmp_path: Path,
    fields: dict[str, Any],
    watched: bool,  # noqa: FBT001  # a column of the table
    asks: bool,  # noqa: FBT001  # as above
    answers: bool,  # noqa: FBT001  # as above
) -> None:
    """An answer without choices that reports usage is forwarded, charged once and not asked for again."""
    answer = {"id": "1", "object": "chat.completion", **fields, "usage": REPORT}
    text = LIMITS + f'[[policy]]\nuse = "{__name__}:Watches"\n' * watched
    body = HI | {"stream": asks} | ({"stream_options": {"include_usage": True}} if asks else {})
    async with (
        upstream(sends(answer, as_stream=answers)) as up,
        sidecar(settings_of(tmp_path, up.url, text, model=None)) as served,
    ):
        status, _, received = await served.post(V1, body)
        account = await served.account()

    assert (status, len(up.requests)) == (200, 1)
    assert (account.spent, account.reserved) == (42, 0)
    if asks:
        shown, end = received.removesuffix(b"\n\n").removeprefix(b"data: ").split(b"\n\ndata: ")
        assert (json.loads(shown)["usage"], end) == (REPORT, b"[DONE]")
    else:
        assert json.loads(received) == answer


async def test_usage_that_was_not_asked_for_is_not_shown(tmp_path: Path) -> None:
    """A client that did not ask for usage gets the end of an answer without choices, and pays for it once."""
    answer = {"id": "1", "choices": [], "usage": REPORT}
    async with (
        upstream(sends(answer, as_stream=True)) as up,
        sidecar(settings_of(tmp_path, up.url, LIMITS, model=None)) as served,
    ):
        status, _, received = await served.post(V1, HI | {"stream": True})
        account = await served.account()

    assert (status, received, len(up.requests)) == (200, b"data: [DONE]\n\n", 1)
    assert (account.spent, account.reserved) == (42, 0)


@pytest.mark.parametrize("usage", [{}, {"usage": None}, {"usage": {"prompt_tokens": 0, "completion_tokens": 0}}])
@pytest.mark.parametrize("streams", [False, True])
async def test_answer_without_choices_and_usage_is_repeated(
    tmp_path: Path,
    usage: dict[str, Any],
    streams: bool,  # noqa: FBT001  # a column of the table
) -> None:
    """An answer without choices and without usage is no answer: it is asked for again."""
    asked: list[Connection] = []

    async def script(connection: Connection) -> None:
        asked.append(connection)
        if len(asked) == 1:
            await sends({"id": "1", "choices": [], **usage}, as_stream=streams)(connection)
        elif streams:
            await connection.stream("ok")
        else:
            await connection.answer(200, json.dumps({"choices": [{"message": {"content": "ok"}}]}).encode())

    async with upstream(script) as up, sidecar(settings_of(tmp_path, up.url, LIMITS, model=None)) as served:
        status, _, received = await served.post(V1, HI | {"stream": streams})

    assert (status, len(asked), b"ok" in received) == (200, 2, True)
