"""Prompts of completions and embeddings: text, token ids, lists of them; what they reserve and cost."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from operation_samples import OPENAI_USAGE, SAMPLES
from serving import settings_of, sidecar
from wire import Connection, upstream

from policies.testing import make_call
from sidecar.wire.operations.completions import COMPLETION_REQUEST

pytestmark = pytest.mark.anyio

COMPLETIONS_PATH, EMBEDDINGS_PATH = "/v1/completions", "/v1/embeddings"
BUDGET = '[[policy]]\nuse = "budget"\ntokens = {tokens}\nanswer = 100\n'


def answer_of(texts: list[str]) -> dict[str, Any]:
    choices = [{"index": at, "text": text, "logprobs": None, "finish_reason": "stop"} for at, text in enumerate(texts)]
    return {"id": "c", "object": "text_completion", "model": "m", "choices": choices, "usage": OPENAI_USAGE}


async def embeds(connection: Connection) -> None:
    await connection.answer(200, json.dumps(SAMPLES["embeddings"].whole).encode())


async def embeds_without_usage(connection: Connection) -> None:
    answer = {name: value for name, value in SAMPLES["embeddings"].whole.items() if name != "usage"}
    await connection.answer(200, json.dumps(answer).encode())


@pytest.mark.parametrize(
    ("prompt", "answers"),
    [
        ("one", 1),
        (["one", "two"], 2),
        ([1, 2, 3], 1),
        ([[1, 2], [3]], 2),
        (None, 1),
        ([{"prompt_string": "one"}, {"prompt_string": "two"}], 2),
    ],
)
@pytest.mark.parametrize("more", [{}, {"n": 2}, {"n": 2, "best_of": 3}])
async def test_each_prompt_reserves_its_answers(
    tmp_path: Path, prompt: object, answers: int, more: dict[str, int]
) -> None:
    """`n` or `best_of` answers are reserved for each prompt of a list, up to the ceiling each."""
    held: list[int] = []
    many = answers * max(1, *more.values()) if more else answers

    async def script(connection: Connection) -> None:
        accounts = await served.gateway.policy_services.store.accounts()
        held.extend(each.reserved for each in accounts)
        await connection.answer(200, json.dumps(answer_of(["a"] * answers * more.get("n", 1))).encode())

    text = BUDGET.format(tokens=100_000)
    async with upstream(script) as up, sidecar(settings_of(tmp_path, up.url, text)) as served:
        body = {"model": "m", "prompt": prompt, "max_tokens": 50, **more}
        status, _, _ = await served.post(COMPLETIONS_PATH, body)
    assert status == 200
    assert 50 * many <= held[0] <= 50 * many + 40


@pytest.mark.parametrize("prompt", [7, [], True, ["a", None], [[1, "a"]], ["a"] * 10_001, [["a"]], {"a": 1}], ids=repr)
async def test_prompt_of_another_form(tmp_path: Path, prompt: object) -> None:
    """A prompt that cannot be counted is 400 with its field; objects and mixed lists, which llama.cpp reads, pass."""
    async with upstream(embeds) as up, sidecar(settings_of(tmp_path, up.url)) as served:
        for path, field in ((COMPLETIONS_PATH, "prompt"), (EMBEDDINGS_PATH, "input")):
            status, _, answer = await served.post(path, {"model": "m", field: prompt})
            error = json.loads(answer).get("error")
            if isinstance(prompt, dict):
                assert status != 400
                continue
            assert status == 400
            assert error["param"].startswith(field)


@pytest.mark.parametrize("body", [{"prompt": ["a"] * 600, "n": 2}, {"prompt": [[1]] * 9, "best_of": 128}])
async def test_too_many_answers_are_refused(tmp_path: Path, body: dict[str, Any]) -> None:
    """More than 1,024 answers in one request are 400: no reader counts as many choices."""
    async with upstream(embeds) as up, sidecar(settings_of(tmp_path, up.url)) as served:
        status, _, answer = await served.post(COMPLETIONS_PATH, {"model": "m", **body})
    assert (status, len(up.requests)) == (400, 0)
    assert "1024 in one request" in json.loads(answer)["error"]["message"]


@pytest.mark.parametrize("value", [[1] * 300, [[1] * 100] * 3])
async def test_token_ids_are_counted_exactly(tmp_path: Path, value: object) -> None:
    """Token ids are charged one token each where upstream reports nothing."""
    text = BUDGET.format(tokens=100_000)
    async with upstream(embeds_without_usage) as up, sidecar(settings_of(tmp_path, up.url, text)) as served:
        await served.post(EMBEDDINGS_PATH, {"model": "m", "input": value})
        account = await served.account()
    assert (account.spent, account.reserved) == (300, 0)


async def test_batch_of_300000_token_ids_passes(tmp_path: Path) -> None:
    """A batch as LangChain sends it, of more ids than a body may have values, passes unchanged and is counted."""
    batch = [[number] * 300 for number in range(1_000)]
    text = BUDGET.format(tokens=400_000)
    async with upstream(embeds_without_usage) as up, sidecar(settings_of(tmp_path, up.url, text)) as served:
        status, _, _ = await served.post(EMBEDDINGS_PATH, {"model": "m", "input": batch})
        account = await served.account()
        status_over, _, _ = await served.post(EMBEDDINGS_PATH, {"model": "m", "input": batch})
    assert (status, status_over) == (200, 429)
    assert up.requests[0].body["input"] == batch
    assert account.spent == 300_000


async def test_bound_holds_for_token_ids(tmp_path: Path) -> None:
    """With `reserve = "bound"` ids count one each, and text by its bytes."""
    text = '[[policy]]\nuse = "budget"\ntokens = 310\nreserve = "bound"\n'
    async with upstream(embeds) as up, sidecar(settings_of(tmp_path, up.url, text)) as served:
        fits = await served.post(EMBEDDINGS_PATH, {"model": "m", "input": [1] * 300})
        text_fits_not = await served.post(EMBEDDINGS_PATH, {"model": "m", "input": "x" * 320})
    assert (fits[0], text_fits_not[0]) == (200, 429)


async def test_embeddings_are_charged_their_prompt_alone(tmp_path: Path) -> None:
    """Upstream's `total_tokens` beyond the prompt is no output, and no ceiling is written into the request."""

    async def script(connection: Connection) -> None:
        usage = {"prompt_tokens": 4, "total_tokens": 4, "completion_tokens": 0}
        await connection.answer(200, json.dumps({**SAMPLES["embeddings"].whole, "usage": usage}).encode())

    text = '[[policy]]\nuse = "max_tokens"\noutput = 5\n' + BUDGET.format(tokens=1000)
    body = {"model": "m", "input": ["a", "b"], "encoding_format": "base64", "dimensions": 8}
    async with upstream(script) as up, sidecar(settings_of(tmp_path, up.url, text)) as served:
        await served.post(EMBEDDINGS_PATH, body)
        account = await served.account()
    assert up.requests[0].body == body
    assert account.spent == 4


async def test_dollars_count_inputs(tmp_path: Path) -> None:
    """A budget in dollars charges embeddings by the input price."""
    text = '[[policy]]\nuse = "budget"\nusd = 0.01\n[policy.prices."*"]\ninput = 1000\noutput = 5000\n'
    async with upstream(embeds) as up, sidecar(settings_of(tmp_path, up.url, text)) as served:
        assert (await served.post(EMBEDDINGS_PATH, {"model": "m", "input": "abc"}))[0] == 200
        account = await served.account()
    assert account.spent == 4_000  # micro-dollars: 4 tokens of 0.001 dollars


@pytest.mark.parametrize(
    ("body", "needed"),
    [({"input": ["a" * 40, "b" * 400]}, 100), ({"input": [[1] * 60, [2] * 99]}, 99), ({"input": "c" * 500}, 125)],
)
async def test_each_input_and_the_sum_are_limited(tmp_path: Path, body: dict[str, Any], needed: int) -> None:
    """`max_tokens.input` limits each input, `request` all of them together."""
    text = '[[policy]]\nuse = "max_tokens"\noutput = 5\nrequest = 500\ninput = 98\n'
    async with upstream(embeds) as up, sidecar(settings_of(tmp_path, up.url, text)) as served:
        status, _, answer = await served.post(EMBEDDINGS_PATH, {"model": "m", **body})
        many = await served.post(EMBEDDINGS_PATH, {"model": "m", "input": ["a" * 300] * 7})
        fits = await served.post(EMBEDDINGS_PATH, {"model": "m", "input": ["a" * 300] * 6})
    error = json.loads(answer)["error"]
    assert (status, error["code"], error["needed"]) == (400, "request_too_large", needed)
    assert (many[0], json.loads(many[2])["error"]["needed"], fits[0]) == (400, 527, 200)


async def test_longest_input_of_a_large_batch_is_counted_exactly(tmp_path: Path) -> None:
    """Inputs of exactly `max_tokens.input` ids pass in a batch of more ids than a body may have values."""
    text = '[[policy]]\nuse = "max_tokens"\noutput = 5\ninput = 300\n'
    async with upstream(embeds) as up, sidecar(settings_of(tmp_path, up.url, text)) as served:
        fits, _, _ = await served.post(EMBEDDINGS_PATH, {"model": "m", "input": [[1] * 300] * 300})
        over, _, answer = await served.post(EMBEDDINGS_PATH, {"model": "m", "input": [[1] * 300] * 300 + [[1] * 301]})
    assert (fits, over, json.loads(answer)["error"]["needed"]) == (200, 400, 301)


@pytest.mark.parametrize(
    "prompt", [{"prompt_string": "x" * 400}, [{"prompt_string": "x" * 400, "text": ""}], [{"a": "x" * 400}]]
)
async def test_text_of_objects_counts(tmp_path: Path, prompt: object) -> None:
    """The text of a prompt that is an object, as llama.cpp reads it, counts in `max_tokens.request`."""
    text = '[[policy]]\nuse = "max_tokens"\noutput = 5\nrequest = 99\n'
    async with upstream(embeds) as up, sidecar(settings_of(tmp_path, up.url, text)) as served:
        status, _, answer = await served.post(COMPLETIONS_PATH, {"model": "m", "prompt": prompt})
    assert (status, len(up.requests)) == (400, 0)
    assert json.loads(answer)["error"]["code"] == "request_too_large"


def test_policies_read_and_replace_the_text_of_objects() -> None:
    """`text` and `replace_text` include the text of prompts that are objects."""
    body = {"prompt": [{"prompt_string": "secret one"}, "secret two"]}
    call = make_call(body=body, operation=COMPLETION_REQUEST)
    call.replace_text(lambda text: text.replace("secret", "***"))
    assert call.text == "*** one *** two"
    assert call.body["prompt"] == [{"prompt_string": "*** one"}, "*** two"]


@pytest.mark.parametrize("reserve", ["estimate", "bound"])
async def test_suffix_is_reserved_for_each_prompt(tmp_path: Path, reserve: str) -> None:
    """A server reads `suffix` once for each prompt of a list, so that its size counts as often."""
    held: list[int] = []

    async def script(connection: Connection) -> None:
        accounts = await served.gateway.policy_services.store.accounts()
        held.extend(each.reserved for each in accounts)
        await connection.answer(200, json.dumps(answer_of(["a"] * 50)).encode())

    text = BUDGET.format(tokens=100_000) + f'reserve = "{reserve}"\n'
    async with upstream(script) as up, sidecar(settings_of(tmp_path, up.url, text)) as served:
        body = {"model": "m", "prompt": ["a"] * 50, "suffix": "b" * 700, "max_tokens": 1}
        await served.post(COMPLETIONS_PATH, body)
    least = 50 * 700 if reserve == "bound" else 50 * 200
    assert least <= held[0] <= least + 500


async def test_echo_does_not_turn_a_true_report_false(tmp_path: Path) -> None:
    """With `echo` the answer repeats the prompt; upstream's report of fewer output tokens is believed."""
    prompt = "word " * 200

    async def script(connection: Connection) -> None:
        usage = {"prompt_tokens": 201, "completion_tokens": 1, "total_tokens": 202}
        await connection.answer(200, json.dumps({**answer_of([prompt + "end"]), "usage": usage}).encode())

    text = BUDGET.format(tokens=100_000)
    async with upstream(script) as up, sidecar(settings_of(tmp_path, up.url, text)) as served:
        await served.post(COMPLETIONS_PATH, {"model": "m", "prompt": prompt, "echo": True, "max_tokens": 1})
        account = await served.account()
    assert account.spent == 202


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        ({"object": "list", "data": [], "usage": {"prompt_tokens": 4}}, 502),
        ({"error": {"message": "no", "code": "rate_limit_exceeded"}}, 429),
        ({"object": "list"}, 502),
        ({"data": [{"embedding": [1]}], "usage": {"prompt_tokens": 10**400}}, 200),
        ([1], 502),
    ],
)
async def test_answer_that_is_no_embedding(tmp_path: Path, answer: object, status: int) -> None:
    """An answer without data under status 200 is a failure of the upstream, never an empty success; a bad report is none."""

    async def script(connection: Connection) -> None:
        await connection.answer(200, json.dumps(answer).encode())

    async with upstream(script) as up, sidecar(settings_of(tmp_path, up.url, BUDGET.format(tokens=1000))) as served:
        found, _, _ = await served.post(EMBEDDINGS_PATH, {"model": "m", "input": "x"})
    assert found == status


@pytest.mark.parametrize("prompt", [["word " * 100] * 10, [[1] * 100] * 10])
async def test_report_of_one_prompt_does_not_stand_for_all(tmp_path: Path, prompt: object) -> None:
    """llama.cpp reports the usage of one choice for a list of prompts; the other prompts are charged too."""

    async def script(connection: Connection) -> None:
        usage = {"prompt_tokens": 100, "completion_tokens": 1, "total_tokens": 101}
        await connection.answer(200, json.dumps({**answer_of(["a"] * 10), "usage": usage}).encode())

    async with upstream(script) as up, sidecar(settings_of(tmp_path, up.url, BUDGET.format(tokens=9_000))) as served:
        await served.post(COMPLETIONS_PATH, {"model": "m", "prompt": prompt, "max_tokens": 1})
        account = await served.account()
    assert 1_000 <= account.spent <= 1_600
