"""Routing by model over real sockets: engines with models of their own, a killed one, conversations, and shared load."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from api_keys import key
from engines import Engine, kill, running
from recording import recorded
from serving import Sidecar, settings_of, sidecar, with_policies
from upstream_tables import table
from wire import Connection, eventually

from policies import Call, Policy
from sidecar.upstream.routing import model_listing
from sidecar.upstream.routing.model_routing import ModelRouting

pytestmark = pytest.mark.anyio

V1 = "/v1/chat/completions"
RETRY = '[[policy]]\nuse = "retry"\nbase = 0\ncap = 0\n'
UNLIMITED = '[[policy]]\nuse = "rate"\nrequests = 1_000_000\n'
HI = [{"role": "user", "content": "hi"}]


@asynccontextmanager
async def routed(
    folder: Path, *engines: Engine, lines: tuple[tuple[str, ...], ...] = (), text: str = RETRY, wait: bool = True
) -> AsyncIterator[Sidecar]:
    """Run *engines* and a sidecar in front of them, whose tables have the further *lines*; *wait* for their lists."""
    async with AsyncExitStack() as stack:
        for engine in engines:
            await stack.enter_async_context(running(engine))
        tables = [
            table(engine.up.url, *more) for engine, more in zip(engines, lines or ((),) * len(engines), strict=True)
        ]
        served = await stack.enter_async_context(sidecar(settings_of(folder, None, "".join(tables) + text)))
        if wait and len(engines) > 1:
            await eventually(lambda: all(each.is_current for each in routing_of(served).listings))
        yield served


def routing_of(served: Sidecar) -> ModelRouting:
    routing = served.gateway.upstream.routing
    assert routing is not None
    return routing


async def chat(served: Sidecar, model: str, messages: list[Any] = HI, *headers: str, **body: Any) -> tuple[int, Any]:
    status, _, answer = await served.post(V1, {"model": model, "messages": messages, **body}, *headers)
    return status, answer if body.get("stream") else json.loads(answer)


async def test_call_goes_to_the_engine_that_lists_its_model(tmp_path: Path) -> None:
    """Two engines with one model each: each gets the calls for its own model, and no others."""
    first, second = Engine("a"), Engine("b")
    async with routed(tmp_path, first, second) as served:
        statuses = [(await chat(served, model, stream=stream))[0] for model in "abba" for stream in (True, False)]

    assert statuses == [200] * 8
    assert (first.asked, second.asked) == (["a"] * 4, ["b"] * 4)


async def test_serves_replaces_the_list(tmp_path: Path) -> None:
    """With `serves` no list is read: its patterns decide, for the client's name and for the upstream's own."""
    first, second = Engine("small", "llama-3"), Engine("qwen-1", "other")
    lines = (("serves = ['small']",), ("serves = ['QWEN-*']", "models = { chat = 'qwen-1' }"))
    async with routed(tmp_path, first, second, lines=lines) as served:
        for model in ("small", "qwen-1", "chat"):
            assert (await chat(served, model))[0] == 200
        unknown = await chat(served, "llama-3")

    assert (first.asked, second.asked, unknown[0]) == (["small"], ["qwen-1", "qwen-1"], 404)
    assert first.up.probes == second.up.probes == []


async def test_unknown_model_is_refused_with_the_nearest_names(tmp_path: Path) -> None:
    """A model that no engine has is 404 `model_not_found` with the nearest names that the key may use; nothing is sent."""
    first, second = Engine("llama-3.1-8b", "qwen-2.5"), Engine("llama-3.3-70b")
    text = RETRY + key("k", "a", "models = ['llama-3.1*', 'lama*']") + key("all", "b")
    async with routed(tmp_path, first, second, text=text) as served:
        status, body = await chat(served, "llama-3.2-8b", HI, "authorization: Bearer all")
        _, limited = await chat(served, "lama-3", HI, "authorization: Bearer k")
        record = await chat(served, "zzz", HI, "authorization: Bearer all")

    assert status == 404
    assert {name: body["error"][name] for name in ("type", "param", "code")} == {
        "type": "invalid_request_error", "param": "model", "code": "model_not_found"
    }  # fmt: skip
    assert body["error"]["message"] == (
        "The model 'llama-3.2-8b' is not served by any upstream. Did you mean 'llama-3.1-8b', 'llama-3.3-70b'?"
    )
    assert limited["error"]["message"].endswith("Did you mean 'llama-3.1-8b'?")
    assert record[1]["error"]["message"] == "The model 'zzz' is not served by any upstream."
    assert first.count == second.count == 0


async def test_unknown_model_has_one_refresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that an engine has loaded since is found by one refresh of the lists, before the call is refused."""
    monkeypatch.setattr(model_listing, "KEEP_UNKNOWN_SECONDS", 0.0)
    first, second = Engine("a"), Engine("b")
    async with routed(tmp_path, first, second) as served:
        second.models = ["c"]
        assert (await chat(served, "c"))[0] == 200
        assert (await chat(served, "b"))[0] == 404

    assert (first.count, second.asked, len(first.up.probes)) == (0, ["c"], 3)


async def test_made_up_models_do_not_refresh_at_will(tmp_path: Path) -> None:
    """Calls for made-up models cause no further reads of a list that was just read."""
    first, second = Engine("a"), Engine("b")
    async with routed(tmp_path, first, second) as served:
        assert [(await chat(served, f"x{at}"))[0] for at in range(20)] == [404] * 20

    assert (len(first.up.probes), len(second.up.probes)) == (1, 1)


async def test_first_upstream_gets_unknown_models_while_a_list_is_missing(tmp_path: Path) -> None:
    """As long as one upstream cannot list its models, the first one gets calls for unknown models, and answers itself."""
    first, second = Engine("a"), Engine("b")
    second.lists = False
    async with routed(tmp_path, first, second, wait=False) as served:
        statuses = [(await chat(served, model))[0] for model in ("a", "b", "b")]

    assert (statuses, first.asked, second.count) == ([200, 404, 404], ["a", "b", "b"], 0)
    assert len(second.up.probes) == 1


async def test_list_that_appears_late_routes_later_calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine that lists its models only after a while gets its calls from then on; one that breaks later keeps them."""
    monkeypatch.setattr(model_listing, "KEEP_FAILURE_SECONDS", 0.0)
    monkeypatch.setattr(model_listing, "KEEP_SECONDS", 0.0)
    first, second = Engine("a"), Engine("b")
    second.lists = False
    async with routed(tmp_path, first, second, wait=False) as served:
        before = await chat(served, "b")
        second.lists = True
        after = await chat(served, "b")
        second.lists = False
        broken = [(await chat(served, "b"))[0] for _ in range(3)]

    assert (before[0], after[0], broken) == (404, 200, [200] * 3)
    assert (first.asked, second.asked) == (["b"], ["b"] * 4)


async def test_start_does_not_wait_for_lists(tmp_path: Path) -> None:
    """The sidecar serves while an upstream does not answer the request for its list, which ends at shutdown."""
    first, second = Engine("a"), Engine("b")

    async def hangs(connection: Connection) -> None:
        await connection.hang()

    async with routed(tmp_path, first, second, wait=False) as served:
        second.up.lists = hangs
        assert (await chat(served, "a"))[0] == 200
        hanging = list(second.up.probes)
    await asyncio.gather(*(each.gone.wait() for each in hanging))


async def test_single_upstream_is_never_probed(tmp_path: Path) -> None:
    """A single upstream gets every call, without a request for its list and whatever it `serves`."""
    engine = Engine("a", "b")
    async with routed(tmp_path, engine, lines=(("serves = ['a']",),)) as served:
        statuses = [(await chat(served, model))[0] for model in ("a", "b", "unknown")]

    assert (statuses, engine.asked, engine.up.probes) == ([200, 200, 404], ["a", "b", "unknown"], [])


@pytest.mark.parametrize(("listed", "asked", "sent"), [("m:latest", "m", "m"), ("m", "m:latest", "m"), ("M", "m", "m")])
async def test_latest_is_the_name_without_a_tag(tmp_path: Path, listed: str, asked: str, sent: str) -> None:
    """`x` and `x:latest` are one model; a server that lists `x` alone gets `x`. Another case is found too, and sent as it is."""
    first, second = Engine("a"), Engine(listed, sent)
    second.models = [listed]
    async with routed(tmp_path, first, second) as served:
        second.models = [sent]
        status, answer = await chat(served, asked)

    assert (status, second.asked, first.count) == (200, [sent], 0)
    assert answer["model"] == asked


async def test_tag_evades_no_rule_before_the_list_is_read(tmp_path: Path) -> None:
    """A rule for `m` covers calls for `m:latest`, although it is known only later that an engine lists `m` alone."""
    first, second = Engine("a"), Engine("m")
    second.lists = False
    text = RETRY + '[[policy]]\nuse = "rate"\nrequests = 1\nonly = { model = "m" }\n'
    async with routed(tmp_path, first, second, text=text, wait=False) as served:
        await eventually(lambda: bool(second.up.probes))
        statuses = [(await chat(served, "m:latest"))[0] for _ in range(2)]

    assert statuses == [404, 429]


async def test_killed_engine_is_replaced(tmp_path: Path) -> None:
    """When one of two engines with the same model is killed, the retry policy's next attempt goes to the other one."""
    first, second = Engine("m"), Engine("m")
    async with routed(tmp_path, first, second) as served:
        await kill(first)
        statuses = [(await chat(served, "m", [{"role": "user", "content": f"{at}"}]))[0] for at in range(20)]

    assert (statuses, second.count) == ([200] * 20, 20)


async def test_models_of_a_killed_engine_fail_alone(tmp_path: Path) -> None:
    """A killed engine's own model fails, with a retryable status and not by another engine's 404; other models are served."""
    first, second = Engine("a"), Engine("b")
    chain = '[[policy]]\nuse = "fallback"\n' + RETRY
    async with routed(tmp_path, first, second, text=chain) as served:
        await kill(second)
        lost, other = await chat(served, "b"), await chat(served, "a")

    assert (lost[0], lost[1]["error"]["code"], other[0]) == (502, "upstream_unavailable", 200)
    assert first.asked == ["a"]


async def test_alias_for_all_names_outlives_another_engine(tmp_path: Path) -> None:
    """`"*"` in `models` gets the names that the last list of another engine has not, also while that one is down."""
    first, second = Engine("a"), Engine("m")
    async with routed(tmp_path, first, second, lines=((), ("models = { '*' = 'm' }",))) as served:
        before = await chat(served, "gpt-4")
        await kill(first)
        for listing in routing_of(served).listings:
            listing.is_current = False
        after = [(await chat(served, "gpt-4"))[0] for _ in range(3)]

    assert (before[0], after) == (200, [200] * 3)


async def test_fallback_serves_calls_that_name_no_model(tmp_path: Path) -> None:
    """While the first upstream's default model is unknown, `fallback` sends calls without a model to the next upstream."""
    first, second = Engine("a"), Engine("b")
    chain = '[[policy]]\nuse = "fallback"\n' + RETRY
    async with routed(tmp_path, first, second, text=chain) as served:
        await kill(first)
        status, _, body = await served.post("/api/chat", {"messages": HI})

    assert (status, b"event: done" in body, second.asked) == (200, True, ["b"])


async def test_rate_limited_upstream_is_replaced_at_once(tmp_path: Path) -> None:
    """A wait that one upstream asks for does not delay the attempt at the other one, nor prevent it."""
    first, second = Engine("m"), Engine("m")

    async def limited(connection: Connection) -> None:
        await connection.answer(429, b'{"error": {"message": "slow down"}}', "retry-after: 3600")

    async with routed(tmp_path, first, second) as served:
        first.before = limited
        first.models = []
        statuses = [(await chat(served, "m", [{"role": "user", "content": f"{at}"}]))[0] for at in range(10)]

    assert statuses == [200] * 10
    assert first.count >= 1


async def test_open_circuit_is_passed_over(tmp_path: Path) -> None:
    """An upstream whose circuit is open gets no attempts, although it would be preferred; the others serve the calls."""
    first, second = Engine("m"), Engine("m")

    async def fails(connection: Connection) -> None:
        await connection.answer(500, b"{}")

    breaker = ("breaker = { calls = 1, rate = 0.1, window = 60, probe = 3600 }",)
    async with routed(
        tmp_path, first, second, lines=(breaker, ()), text='[[policy]]\nuse = "retry"\nattempts = 1\n'
    ) as served:
        first.before, first.models = fails, []
        statuses = [(await chat(served, "m", [{"role": "user", "content": f"{at}"}]))[0] for at in range(20)]

    assert (statuses.count(200), first.count, second.count) == (19, 1, 19)


async def test_conversation_stays_at_one_engine(tmp_path: Path) -> None:
    """All 20 turns of a conversation go to one engine, whose prefix cache has the earlier ones; conversations are spread."""
    first, second = Engine("m"), Engine("m")
    async with routed(tmp_path, first, second, text=RETRY + UNLIMITED) as served:
        for number in range(20):
            before = first.count
            messages: list[dict[str, str]] = [{"role": "system", "content": "Be brief."}]
            for turn in range(20):
                messages.append({"role": "user", "content": f"conversation {number}, turn {turn}"})
                status, answer = await chat(served, "m", messages)
                messages.append(answer["choices"][0]["message"])
                assert status == 200
            assert first.count - before in (0, 20)

    assert first.hits + second.hits == 20 * 19
    assert 5 <= first.count // 20 <= 15


async def test_overloaded_engine_spills_to_the_other(tmp_path: Path) -> None:
    """Parallel calls with the same head spill to the other engine above the bound; later turns return to the preferred one."""
    first, second = Engine("m"), Engine("m")
    opened = asyncio.Event()

    async def waits(_: Connection) -> None:
        await opened.wait()

    async with routed(tmp_path, first, second, text=RETRY + UNLIMITED) as served:
        first.before = second.before = waits
        calls = [asyncio.create_task(chat(served, "m")) for _ in range(40)]
        await eventually(lambda: first.count + second.count == 40)
        preferred, other = sorted((first, second), key=lambda each: -each.count)
        counts = (preferred.count, other.count)
        opened.set()
        await asyncio.gather(*calls)
        for _ in range(5):
            await chat(served, "m")

    assert 24 <= counts[0] <= 27
    assert (preferred.count, other.count) == (counts[0] + 5, counts[1])


@pytest.mark.parametrize(("weights", "share"), [((1, 1), 0.5), ((3, 1), 0.75)])
async def test_load_is_shared_within_ten_percent(tmp_path: Path, weights: tuple[int, int], share: float) -> None:
    """1,000 calls of many conversations, 20 at a time, are shared within 10 % in proportion to `weight`."""
    first, second = Engine("m"), Engine("m")
    lines = tuple((f"weight = {weight}",) for weight in weights)
    async with routed(tmp_path, first, second, lines=lines, text=RETRY + UNLIMITED) as served:

        async def caller(number: int) -> None:
            client = await served.client()
            for at in range(50):
                text = f"conversation {number}-{at}"
                await client.post(V1, {"model": "m", "messages": [{"role": "user", "content": text}]})
                assert (await client.answer())[0] == 200

        await asyncio.gather(*(caller(number) for number in range(20)))
        await eventually(lambda: all(load.in_flight == 0 for load in routing_of(served).loads.values()))

    assert first.count + second.count == 1_000
    assert abs(first.count - 1_000 * share) <= 100 * share
    assert abs(second.count - 1_000 * (1 - share)) <= 100 * (1 - share)


async def test_aliases_of_different_models_are_not_spread(tmp_path: Path) -> None:
    """Upstreams for which an alias stands for different models do not share its calls, unless both state it in `serves`."""
    first, second = Engine("dear"), Engine("cheap")
    lines = (("models = { chat = 'dear' }",), ("models = { chat = 'cheap' }",))
    calls = [[{"role": "user", "content": f"{at}"}] for at in range(20)]
    async with routed(tmp_path, first, second, lines=lines) as served:
        for messages in calls:
            await chat(served, "chat", messages)
    apart = (first.count, second.count)
    stated = tuple((*each, "serves = ['chat']") for each in lines)
    async with routed(tmp_path, first, second, lines=stated) as served:
        for messages in calls:
            await chat(served, "chat", messages)

    assert apart == (20, 0)
    assert second.count > 0


class Chooses(Policy, frozen=True):
    """Sets the upstream of each call."""

    to: str = ""

    async def admit(self, call: Call) -> None:
        call.upstream = self.to


async def test_policy_chooses_the_upstream(tmp_path: Path) -> None:
    """A policy's `call.upstream` takes precedence over the routing, for each attempt."""
    async with running(Engine("a")) as first, running(Engine("b")) as second:
        settings = settings_of(tmp_path, None, table(first.up.url) + table(second.up.url) + RETRY)
        async with sidecar(with_policies(settings, Chooses(name="chooses", to="upstream-2"))) as served:
            status, _ = await chat(served, "a")

    assert (status, first.count, second.asked) == (404, 0, ["a"])


class Renames(Policy, frozen=True):
    """Sets the model of each call."""

    to: str = ""

    async def admit(self, call: Call) -> None:
        call.model = self.to


async def test_policy_chooses_the_model(tmp_path: Path) -> None:
    """The call is routed by the model that the policies leave in it."""
    async with running(Engine("a")) as first, running(Engine("b")) as second:
        settings = settings_of(tmp_path, None, table(first.up.url) + table(second.up.url) + RETRY)
        async with sidecar(with_policies(settings, Renames(name="renames", to="b"))) as served:
            status, _ = await chat(served, "a")

    assert (status, first.count, second.asked) == (200, 0, ["b"])


@pytest.mark.parametrize("stream", [True, False])
async def test_answer_has_the_name_that_was_asked_for(tmp_path: Path, *, stream: bool) -> None:
    """An alias is in the answer's `model`, also in each event; the record has both names. `rewrite_answers = false`: it is not."""
    async with running(Engine("llama3")) as engine:
        seen, records = [], []
        for more in ((), ("rewrite_answers = false",)):
            text = table(engine.up.url, "models = { chat = 'llama3' }", *more) + RETRY
            async with recorded(tmp_path, None, text) as it:
                _, _, body = await it.served.post(V1, {"model": "chat", "messages": HI, "stream": stream})
                records.append(await it.one())
            lines = [line.removeprefix(b"data: ") for line in body.split(b"\n") if b"{" in line]
            seen.append({json.loads(line)["model"] for line in lines})

    assert seen == [{"chat"}, {"llama3"}]
    assert [(record.model_asked, record.model_served) for record in records] == [("chat", "llama3")] * 2


async def test_default_model_of_chat_nest_is_shared(tmp_path: Path) -> None:
    """Chat Nest calls, which name no model, are shared by the upstreams that serve the first one's default model."""
    first, second, third = Engine("m"), Engine("m"), Engine("x")
    lines = (("model = 'm'",), (), ())
    async with routed(tmp_path, first, second, third, lines=lines) as served:
        for at in range(20):
            status, _, body = await served.post("/api/chat", {"messages": [{"role": "user", "content": f"{at}"}]})
            assert (status, b"event: done" in body) == (200, True)

    assert (first.count + second.count, third.count) == (20, 0)
    assert first.count
    assert second.count


async def test_other_default_models_are_not_shared(tmp_path: Path) -> None:
    """A call that names no model stays at the first upstream where the other one has another default model."""
    first, second = Engine("one"), Engine("two")
    lines = (("model = 'one'", "serves = ['one']"), ("model = 'two'", "serves = ['two', 'one']"))
    async with routed(tmp_path, first, second, lines=lines) as served:
        for at in range(10):
            status, _, _ = await served.post(V1, {"messages": [{"role": "user", "content": f"{at}"}]})
            assert status == 200

    assert (first.asked, second.count) == (["one"] * 10, 0)


async def test_unknown_model_costs_nothing(tmp_path: Path) -> None:
    """A call for a model that no upstream has spends no tokens, and its reservation is returned."""
    budget = '[[policy]]\nuse = "budget"\ntokens = 1_000\n'
    async with routed(tmp_path, Engine("a"), Engine("b"), text=budget + RETRY) as served:
        assert (await chat(served, "nope"))[0] == 404
        account = await served.account()

    assert (account.spent, account.reserved) == (0, 0)


async def test_dollar_budget_covers_whichever_upstream_serves(tmp_path: Path) -> None:
    """The dearest upstream that may serve the call is reserved, whichever is chosen; the one that served it is charged."""
    prices = "[prices.dear]\ninput = 10\noutput = 1000\n[prices.cheap]\ninput = 1\noutput = 2\n"
    first, second = Engine("dear"), Engine("cheap")
    held: list[int] = []

    async def looks(_: Connection) -> None:
        held.extend(account.reserved for account in await served.gateway.policy_services.store.accounts())

    lines = (("models = { chat = 'dear' }", "serves = ['x']"), ("models = { chat = 'cheap' }", "serves = ['chat']"))
    text = RETRY + "[[policy]]\nuse = 'budget'\nusd = 100\n" + prices
    async with routed(tmp_path, first, second, lines=lines, text=text) as served:
        second.before = looks
        status, _ = await chat(served, "chat", max_tokens=40)
        account = await served.account()

    assert (status, first.count, second.asked) == (200, 0, ["cheap"])
    assert held[0] >= 40 * 1000
    assert 0 < account.spent <= 5 * 1 + 1 * 2
