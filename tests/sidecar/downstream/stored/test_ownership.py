"""Calls that continue stored responses: whom they belong to, what is reserved for them, and what is kept at their end."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from failing_store import FailingStore
from redis_server import MISSING, SERVER, RedisServer, with_own_prefix

from policies import Budget, Call, Chain
from policies.api.store import EntryStore, StoreDown
from policies.api.usage import Usage
from policies.stores.entries.in_memory import MemoryEntries, entries_of
from policies.stores.opening import open_store
from policies.testing import CollectingSink, FakeClock, Hang, ScriptedUpstream, make_call, make_services
from sidecar.downstream.ownership.continuation import UNKNOWN_PROMPT_TOKENS, admitted
from sidecar.downstream.ownership.owners import STORED_SECONDS, NotOwned, OwnersUnavailable, ResponseOwners
from sidecar.wire.request.json_body import BadRequest
from sidecar.wire.stored.created import created_by

pytestmark = pytest.mark.anyio

UPSTREAMS = ("main", "spare")


def owners_over(entries: EntryStore | None = None, *, keyed: bool = True) -> ResponseOwners:
    return ResponseOwners(entries or MemoryEntries(FakeClock()), UPSTREAMS, keyed=keyed)


class Answering(ScriptedUpstream):
    """An upstream whose answer names what it has stored."""

    def __init__(self, answer: dict[str, Any], usage: Usage | None, *script: Any) -> None:
        super().__init__(list(script) or ["text"], usage=usage)
        self._answer = json.dumps(answer).encode()

    def open(self, call: Call, name: str | None = None) -> Any:
        if (created := created_by(call)) is not None:
            created.note_answer(self._answer)
        return super().open(call, name)


async def served(
    owners: ResponseOwners,
    answer: dict[str, Any],
    usage: Usage | None = None,
    *,
    tenant: str = "ann",
    script: tuple[Any, ...] = (),
    **fields: Any,
) -> tuple[Call, Answering]:
    """Admit and run a call of *tenant* with *fields* in its body; upstream sends *answer* and *usage*."""
    call = make_call("hello", tenant=tenant, body=fields, services=make_services(upstreams=UPSTREAMS))
    lease = await admitted(owners, call)
    upstream = Answering(answer, usage, *script)
    chain = Chain([Budget(name="b", tokens=10**9)], upstream, call.services)
    await chain.run(call, CollectingSink([]), last_lease=lease)
    return call, upstream


async def test_follow_up_reserves_the_usage_of_the_response() -> None:
    """A follow-up reserves what the earlier call's prompt and answer had together, and goes to the same upstream."""
    owners = owners_over()
    await owners.remember("ann", "spare", {("response", "resp_0"): 0})
    first, _ = await served(owners, {"id": "resp_1"}, Usage(input=1_000, output=200), previous_response_id="resp_0")
    assert (first.required_upstream, first.hidden_prompt_tokens) == ("spare", 0)
    second, upstream = await served(
        owners, {"id": "resp_2"}, Usage(input=1_210, output=50), previous_response_id="resp_1"
    )
    assert (second.required_upstream, second.hidden_prompt_tokens, upstream.names) == ("spare", 1_208, ["spare"])
    third, _ = await served(owners, {"id": "resp_3"}, previous_response_id="resp_2")
    assert third.hidden_prompt_tokens == 1_268


@pytest.mark.parametrize(
    "fields",
    [
        {"previous_response_id": "resp_1"},
        {"conversation": "conv_1"},
        {"conversation": {"id": "conv_1"}},
        {"input": [{"type": "item_reference", "id": "msg_1"}]},
    ],
)
async def test_other_tenants_are_refused_like_unknown_ids(fields: dict[str, Any]) -> None:
    """What a tenant has made, another one cannot name: its refusal is that of an id which does not exist."""
    owners = owners_over()
    answer = {"id": "resp_1", "conversation": {"id": "conv_1"}, "output": [{"id": "msg_1"}]}
    await served(owners, answer, Usage(input=9, output=1))
    await served(owners, {"id": "resp_2"}, **fields)
    for tenant in ("bob", "", "ann "):
        with pytest.raises(NotOwned) as other:
            await served(owners, {"id": "resp_3"}, tenant=tenant, **fields)
        text = json.dumps(fields).replace("_1", "_9")
        with pytest.raises(NotOwned) as unknown:
            await served(owners, {"id": "resp_3"}, tenant=tenant, **json.loads(text))
        assert (other.value.kind, other.value.in_path) == (unknown.value.kind, unknown.value.in_path)
        assert other.value.stored_id.replace("_1", "_9") == unknown.value.stored_id


async def test_without_keys_unknown_ids_pass() -> None:
    """Without API keys an unknown id passes, and reserves the model's context or a constant."""
    owners = owners_over(keyed=False)
    call, upstream = await served(owners, {"id": "r"}, previous_response_id="resp_unknown")
    assert (call.hidden_prompt_tokens, call.required_upstream) == (UNKNOWN_PROMPT_TOKENS, "")
    assert upstream.names == ["main"]
    known = make_call("hi", body={"conversation": "conv_unknown"})
    await admitted(owners, known, context_of={"test-model": 8_192}.get)
    assert known.hidden_prompt_tokens == 8_192


async def test_conversation_grows_with_each_call() -> None:
    """A conversation reserves what its last call reported."""
    owners, name = owners_over(), ("conversation", "conv_1")
    await owners.remember("ann", "main", {name: 0})  # type: ignore[dict-item]  # a kind as a plain string
    for usage, hidden in ((Usage(input=100, output=20), 0), (Usage(input=90, output=2), 128), (None, 100)):
        call, _ = await served(owners, {"id": "r"}, usage, conversation="conv_1")
        assert call.hidden_prompt_tokens == hidden


async def test_simultaneous_calls_of_a_conversation_add_up() -> None:
    """Of two calls that run at the same time in a conversation, the one that ends last adds what the other one has added."""
    owners = owners_over()
    await owners.remember("ann", "main", {("conversation", "conv_1"): 100})
    running = Hang()
    slow = asyncio.create_task(served(owners, {"id": "slow"}, script=("text", running), conversation="conv_1"))
    await running.reached.wait()
    await served(owners, {"id": "fast"}, Usage(input=150, output=42), conversation="conv_1")
    slow.cancel()
    with pytest.raises(asyncio.CancelledError):
        await slow
    found = await owners.owned("ann", ("conversation", "conv_1"))
    assert found is not None
    own = 100 + (4 + 4) + 1 + 8  # the hidden prompt, the body as a message, one token of the answer, its frame
    assert found.tokens == own + (200 - 100)


async def test_items_of_one_response_count_once() -> None:
    """Referenced items reserve the answer that they are part of, once for all of its items."""
    owners = owners_over()
    for number in (1, 2):
        answer = {"id": f"resp_{number}", "output": [{"id": f"rs_{number}"}, {"id": f"msg_{number}"}]}
        await served(owners, answer, Usage(input=500, output=100 * number))
    names = ("rs_1", "msg_1", "msg_2")
    call, _ = await served(owners, {"id": "r"}, input=[{"type": "item_reference", "id": each} for each in names])
    assert call.hidden_prompt_tokens == 108 + 208


async def test_response_that_is_not_stored_has_no_owner() -> None:
    """With `store: false` nothing is kept, so that the bounded entries serve those that need them."""
    owners = owners_over()
    await served(owners, {"id": "resp_1"}, Usage(input=9, output=1), store=False)
    assert await owners.owned("ann", ("response", "resp_1")) is None


async def test_unreported_prompt_is_estimated_for_the_follow_up() -> None:
    """Where upstream reports no usage, the follow-up reserves the estimate of all that the call had."""
    owners = owners_over()
    await owners.remember("ann", "main", {("response", "resp_0"): 5_000})
    await served(owners, {"id": "resp_1"}, previous_response_id="resp_0")
    found = await owners.owned("ann", ("response", "resp_1"))
    assert found is not None
    assert 5_000 < found.tokens < 5_100


async def test_client_that_leaves_keeps_its_response() -> None:
    """A response whose client left in the middle of the stream belongs to its tenant, with the tokens that are known."""
    owners, hang = owners_over(), Hang()
    task = asyncio.create_task(served(owners, {"id": "resp_1"}, script=("one", "two", hang)))
    await hang.reached.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    found = await owners.owned("ann", ("response", "resp_1"))
    assert found is not None
    assert found.tokens > 8


async def test_another_tenants_object_is_not_taken_over() -> None:
    """An answer that names another tenant's response does not change its owner: clients of vLLM choose such ids."""
    owners = owners_over()
    await served(owners, {"id": "resp_1"}, Usage(input=9, output=1))
    await served(owners, {"id": "resp_1"}, Usage(input=9, output=1), tenant="bob")
    assert await owners.owned("ann", ("response", "resp_1")) is not None
    assert await owners.owned("bob", ("response", "resp_1")) is None


async def test_kinds_do_not_mix() -> None:
    """The id of an item or a conversation is none of a response."""
    owners = owners_over()
    await served(owners, {"id": "resp_1", "conversation": "c", "output": [{"id": "m"}]}, Usage(input=9, output=1))
    found = await owners.all_owned(
        "ann", [("response", "c"), ("response", "m"), ("item", "resp_1"), ("conversation", "m")]
    )
    assert found == [None] * 4


async def test_upstream_that_was_removed_has_nothing() -> None:
    """An object at an upstream that is not configured any more is unknown."""
    entries = MemoryEntries(FakeClock())
    await owners_over(entries).remember("ann", "spare", {("response", "resp_1"): 9})
    later = ResponseOwners(entries, ("main",), keyed=True)
    assert await later.owned("ann", ("response", "resp_1")) is None


async def test_entry_of_another_release_is_unknown() -> None:
    """An entry in another form is no error."""
    entries = MemoryEntries(FakeClock())
    await owners_over(entries).remember("ann", "main", {("response", "r"): 9})
    (key,) = entries._entries
    for value in (b"", b"\xc1", b"\x93\x01\x02\x03"):
        await entries.remember({key: value}, 60)
        assert await owners_over(entries).owned("ann", ("response", "r")) is None


async def test_store_has_no_id_and_no_tenant_in_clear() -> None:
    """Keys and values of entries show neither an id nor a tenant, and are within the bounds of stores."""
    entries = MemoryEntries(FakeClock())
    await owners_over(entries).remember(
        "ann", "spare", {("response", "resp_secret"): 2**80, ("item", "x" * 512): 1}, origin="resp_secret"
    )
    kept = repr(dict(entries._entries))
    assert len(entries._entries) == 2
    for word in ("resp_secret", "ann", "spare", "xxx"):
        assert word not in kept


class FailingEntries(MemoryEntries):
    """Entries that cannot be reached."""

    async def recall(self, keys: Any) -> Any:
        raise StoreDown("no")

    async def remember(self, entries: Any, seconds: float) -> None:
        raise StoreDown("no")


async def test_store_that_is_down_refuses_where_keys_exist() -> None:
    """While the store is down, a reference is refused where keys exist, and passes as unknown without."""
    down = FailingEntries(FakeClock())
    with pytest.raises(OwnersUnavailable):
        await served(owners_over(down), {"id": "r"}, previous_response_id="resp_1")
    call, _ = await served(owners_over(down, keyed=False), {"id": "r"}, previous_response_id="resp_1")
    assert call.hidden_prompt_tokens == UNKNOWN_PROMPT_TOKENS


async def test_answer_is_sent_though_its_owner_cannot_be_kept(caplog: pytest.LogCaptureFixture) -> None:
    """If the store is down at the end of a call, its client gets the answer, and the log a line; later it has no owner."""
    call, _ = await served(owners_over(FailingEntries(FakeClock())), {"id": "resp_1"}, Usage(input=9, output=1))
    assert call.hidden_prompt_tokens == 0
    assert "settle failed" in caplog.text


async def test_invalid_id_is_a_bad_request() -> None:
    """An id that no server makes is refused before the store is asked."""
    with pytest.raises(BadRequest):
        await served(owners_over(FailingEntries(FakeClock())), {"id": "r"}, previous_response_id="../x")


@pytest.mark.parametrize("kind", ["memory", "sqlite", "redis"])
async def test_owners_in_each_store(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """Owners are found in each kind of store, by another process too, until they expire or are forgotten."""
    if kind == "redis":
        if SERVER is None:
            pytest.skip(MISSING)
        server: RedisServer = request.getfixturevalue("redis")
    url = {"memory": "memory://", "sqlite": "sqlite:///s.db"}.get(kind) or with_own_prefix(server.url)
    clock = FakeClock()
    store = open_store(url, folder=tmp_path, clock=clock)
    name = ("response", "resp_1")
    owners = owners_over(entries_of(store, clock))
    await owners.remember("ann", "spare", {name: 7})  # type: ignore[dict-item]  # a kind as a plain string
    if kind != "memory":
        await store.aclose()
        store = open_store(url, folder=tmp_path, clock=clock)
        owners = owners_over(entries_of(store, clock))
    found = await owners.owned("ann", name)  # type: ignore[arg-type]  # as above
    assert found is not None
    assert (found.upstream, found.tokens, await owners.owned("bob", name)) == ("spare", 7, None)  # type: ignore[arg-type]
    clock.advance(STORED_SECONDS + 1)
    assert await owners.owned("ann", name) is None  # type: ignore[arg-type]
    await owners.remember("bob", "main", {name: 1})  # type: ignore[dict-item]
    await owners.forget([name])  # type: ignore[list-item]
    assert await owners.owned("bob", name) is None  # type: ignore[arg-type]
    await store.aclose()


async def test_store_without_entries_keeps_them_in_memory() -> None:
    """A store of a deployment may lack entries: then each process keeps its own."""
    clock = FakeClock()

    class Counting:
        is_remote = False

    entries: Any = entries_of(Counting(), clock)  # type: ignore[arg-type]  # a store is more
    assert isinstance(entries, MemoryEntries)
    store = FailingStore(clock=clock)
    assert entries_of(store, clock) is store
