"""Keys over time: several hashes, dates by the services' clock, and the id in records."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from api_keys import key
from recording import Recorded, recorded
from scripts import hello, mid_stream
from serving import CHAT
from wire import upstream

from policies.testing import FakeClock, make_services
from sidecar.config.settings import Settings
from sidecar.server.gateway import Gateway

pytestmark = pytest.mark.anyio

V1 = "/v1/chat/completions"
HI: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 10, "stream": True}
LIMITS = '[[policy]]\nuse = "rate"\nrequests = 2\n'
CLOCK_START = 1_800_000_000.0
"""2027-01-15T08:00:00Z, where the clock of the tests starts."""
EXPIRED = "The API key has expired. Ask the operator of this service for a new one."


def hash_of(token: str) -> str:
    return f'"{sha256(token.encode()).hexdigest()}"'


def rotated(*entries: str, more: str = "") -> str:
    """Return a `[[key]]` of the tenant `a` with several hashes."""
    return f'[[key]]\nid = "web"\ntenant = "a"\nsha256 = [{", ".join(entries)}]\n{more}\n'


def bearer(token: str) -> str:
    return f"authorization: Bearer {token}"


def error_of(body: bytes) -> Any:
    return json.loads(body)["error"]


@asynccontextmanager
async def at_time(folder: Path, text: str, script: Any = hello) -> AsyncIterator[tuple[Recorded, FakeClock]]:
    """Run a sidecar whose services have a clock that the test moves."""
    clock = FakeClock(CLOCK_START)

    def gateway(settings: Settings) -> Gateway:
        services = make_services(clock=clock)
        services.monotonic = asyncio.get_running_loop().time
        return Gateway(settings, policy_services=services)

    make: Callable[[Settings], Gateway] = gateway
    async with upstream(script) as up, recorded(folder, up, text, make_gateway=make) as it:
        yield it, clock


@pytest.mark.parametrize(
    ("date", "last"),
    [
        ("2027-01-15T08:00:10Z", 10.0),
        ("2027-01-15T10:00:10+02:00", 10.0),
        ("2027-01-15", 57_599.0),
        ("2027-01-14", -1.0),
    ],
)
async def test_key_is_refused_after_its_date(tmp_path: Path, date: str, last: float) -> None:
    """A key works up to `not_after`, and gets 401 after it: decided for each call, by the services' clock."""
    async with at_time(tmp_path, key("k", "a", f'id = "web"\nnot_after = {date}')) as (it, clock):
        if last >= 0:
            assert (await it.served.post(V1, HI, bearer("k")))[0] == 200
            clock.advance(last)
            assert (await it.served.post(V1, HI, bearer("k")))[0] == 200
            clock.advance(1.0)
        for path, body in ((V1, HI), ("/api/chat", CHAT)):
            status, headers, answer = await it.served.post(path, body, bearer("k"))
            assert (status, headers["www-authenticate"], headers["x-should-retry"]) == (401, "Bearer", "false")
            found = json.loads(answer)
            assert EXPIRED in (found["error"], dict(found["error"] if path == V1 else {}).get("message"))
        assert error_of((await it.served.post(V1, HI, bearer("k")))[2])["code"] == "unauthorized"
        assert (await it.served.get("/v1/models", bearer("k")))[0] == 401
        record = it.records[-1]
    assert (record.code, record.tenant, record.key_id, record.ending) == ("unauthorized", "a", "web", "rejected")


async def test_unknown_key_is_not_called_expired(tmp_path: Path) -> None:
    """Only the key itself is told that it has expired; another one is unknown, and its record has no tenant."""
    async with at_time(tmp_path, key("k", "a", "not_after = 2027-01-01")) as (it, _):
        for header in (bearer("other"), "x: y", bearer(sha256(b"k").hexdigest())):
            status, _, body = await it.served.post(V1, HI, header)
            assert status == 401
            assert "expired" not in error_of(body)["message"]
        assert {(record.tenant, record.key_id) for record in it.records} == {("", "")}


async def test_running_stream_outlives_its_key(tmp_path: Path) -> None:
    """A call that was admitted before the date goes on; the next one is refused."""
    text = key("k", "a", "not_after = 2027-01-15T08:00:10Z")
    async with at_time(tmp_path, text, mid_stream) as (it, clock):
        client = await it.served.client()
        await client.post(V1, HI, bearer("k"))
        await client.until(b'"a"')
        clock.advance(60)
        status, _, _ = await it.served.post(V1, HI, bearer("k"))
        assert status == 401
        assert it.served.gateway.active_calls


async def test_all_hashes_of_a_key_have_its_permissions(tmp_path: Path) -> None:
    """The old and the new key of a rotation count as one tenant with one id, and share its limits."""
    text = rotated(hash_of("new"), hash_of("old"), more='models = ["m"]') + LIMITS
    async with at_time(tmp_path, text) as (it, _):
        statuses = [
            (await it.served.post(V1, HI, bearer("old")))[0],
            (await it.served.post(V1, HI | {"model": "x"}, bearer("old")))[0],
            (await it.served.post(V1, HI, "api-key: new"))[0],
            (await it.served.post(V1, HI, bearer("old")))[0],
            (await it.served.post(V1, HI, bearer("new")))[0],
            (await it.served.post(V1, HI, bearer("older")))[0],
        ]
        known = {(record.tenant, record.key_id) for record in it.records}
    assert statuses == [200, 403, 200, 429, 429, 401]
    assert known == {("a", "web"), ("", "")}


async def test_hash_may_have_a_date_of_its_own(tmp_path: Path) -> None:
    """The old hash of a rotation ends at its date, and the new one goes on; the key's own date ends both."""
    old = f"{{ sha256 = {hash_of('old')}, not_after = 2027-01-15T08:00:10Z }}"
    text = rotated(hash_of("new"), old, more="not_after = 2027-01-15T08:00:20Z")
    async with at_time(tmp_path, text) as (it, clock):
        statuses = []
        for _ in range(3):
            statuses.append([(await it.served.post(V1, HI, bearer(each)))[0] for each in ("old", "new")])
            clock.advance(10.5)
        both = (bearer("old"), "x-api-key: new")
        clock.now = CLOCK_START + 15
        assert (await it.served.post(V1, HI, *both))[0] == 200, "one valid key of the same table is enough"
        assert (await it.served.post(V1, HI, bearer("new"), "api-key: old"))[0] == 200
    assert statuses == [[200, 200], [401, 200], [401, 401]]


async def test_expired_key_beside_another_one_is_ambiguous(tmp_path: Path) -> None:
    """An expired key counts as a configured one: beside a valid key of another table the request is refused."""
    text = key("k", "a", "not_after = 2027-01-01") + key("l", "b")
    async with at_time(tmp_path, text) as (it, _):
        status, _, body = await it.served.post(V1, HI, bearer("l"), "x-api-key: k")
    assert status == 401
    assert "different API keys" in error_of(body)["message"]


async def test_rotation_keeps_the_counters(tmp_path: Path) -> None:
    """Counters belong to the tenant: a second key, a new hash, another id and order of the tables reset none."""
    store = f'[store]\nurl = "sqlite:///{tmp_path / "s.db"}"\n'
    budget = '[[policy]]\nuse = "budget"\ntokens = 1000\n'
    spent = []
    texts = [key("one", "a", 'id = "x"'), key("b", "b") + rotated(hash_of("two"), hash_of("one")) + key("three", "a")]
    for text, tokens in zip(texts, (["one"], ["one", "two", "three"]), strict=True):
        async with upstream(hello) as up, recorded(tmp_path, up, store + text + budget) as it:
            for token in tokens:
                assert (await it.served.post(V1, HI, bearer(token)))[0] == 200
                (account,) = await it.served.gateway.policy_services.store.accounts()
                spent.append((account.identity, account.spent))
    assert spent == [("a", spent[0][1] * times) for times in (1, 2, 3, 4)]


async def test_id_never_comes_from_the_client(tmp_path: Path) -> None:
    """No header or field of a client sets the tenant or the id of its record."""
    async with at_time(tmp_path, key("k", "a", 'id = "web"')) as (it, _):
        spoof = ("x-key-id: admin", "key-id: admin", "x-tenant: b", "openai-organization: b")
        await it.served.post(V1, HI | {"key_id": "admin", "tenant": "b", "id": "admin"}, bearer("k"), *spoof)
        record = it.records[-1]
    assert (record.tenant, record.key_id) == ("a", "web")
