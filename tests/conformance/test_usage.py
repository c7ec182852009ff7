"""`GET /v1/usage` over real sockets: the caller's own limits, with the numbers of refusals, at no cost."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from api_keys import key
from recording import recorded
from redis_server import MISSING, SERVER, RedisServer, free_port, redis_server, with_own_prefix
from scripts import hello, mid_stream
from serving import CHAT, Sidecar, settings_of, sidecar, with_policies
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from wire import Client, Connection, Script, Upstream, upstream

from policies import Call, Claim, Lease, Match, Policy, Rejection
from policies.api.lease import ClaimLease
from policies.api.store import Standing
from policies.api.window import Calendar, Sliding
from policies.testing import FakeClock, make_services
from sidecar.cli.budget_report import read_budgets
from sidecar.config.settings import Settings
from sidecar.downstream.usage.read_pace import READ_BURST, READS_PER_SECOND
from sidecar.server.gateway import Gateway
from sidecar.server.http1.http_protocol import HttpProtocol

pytestmark = pytest.mark.anyio

V1, USAGE = "/v1/chat/completions", "/v1/usage"
HI = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": True, "max_tokens": 10}
ACME, ZETA = "authorization: Bearer acme-key", "authorization: Bearer zeta-key"
BOTH = '[[policy]]\nuse = "rate"\nrequests = 3\n[[policy]]\nuse = "budget"\ntokens = 1000\n'
TWO_TENANTS = key("acme-key", "acme") + key("zeta-key", "zeta")


@asynccontextmanager
async def served_with(folder: Path, text: str, script: Script = hello) -> AsyncIterator[tuple[Sidecar, Upstream]]:
    async with upstream(script) as up, sidecar(settings_of(folder, up.url, text)) as served:
        yield served, up


async def usage(served: Sidecar, *headers: str, query: str = "") -> dict[str, Any]:
    """Return the whole answer."""
    status, got, body = await served.get(USAGE + query, *headers)
    assert (status, got["content-type"], got["cache-control"]) == (200, "application/json", "no-store"), body
    found: dict[str, Any] = json.loads(body)
    return found


async def entry(served: Sidecar, policy: str, *headers: str, query: str = "") -> dict[str, Any]:
    """Return the only entry of *policy*."""
    (found,) = [each for each in (await usage(served, *headers, query=query))["limits"] if each["policy"] == policy]
    assert isinstance(found, dict)
    return found


def numbers(limit: dict[str, Any]) -> Any:
    return limit["limit"], limit["spent"], limit["held"], limit["left"]


@pytest.fixture(params=["memory", "sqlite", "redis"])
def store_table(request: pytest.FixtureRequest) -> str:
    """Give the table of each kind of store."""
    if request.param == "redis":
        server: RedisServer = request.getfixturevalue("redis")
        return f'[store]\nurl = "{with_own_prefix(server.url)}"\n'
    return f'[store]\nurl = "{"memory://" if request.param == "memory" else "sqlite:///usage.db"}"\n'


async def test_usage_costs_nothing(tmp_path: Path, store_table: str) -> None:
    """However often the usage is read, no limit counts it, nothing is reserved, and nothing goes upstream."""
    async with served_with(tmp_path, store_table + BOTH) as (served, up):
        seen = [await usage(served) for _ in range(20)]
        assert not await served.gateway.policy_services.store.accounts()
        assert [(await served.post(V1, HI))[0] for _ in range(4)] == [200, 200, 200, 429]
        assert len(up.requests) == 3
    assert [numbers(each) for each in seen[-1]["limits"]] == [(3, 0, 0, 3), (1000, 0, 0, 1000)]


async def test_usage_is_served_where_nothing_is_left(tmp_path: Path, store_table: str) -> None:
    """With a used-up rate and an exhausted budget it is 200, with the numbers of the refusals."""
    text = '[[policy]]\nuse = "budget"\ntokens = 70\nfloor = 20\n[[policy]]\nuse = "rate"\nrequests = 5\nonly = {path = "/api/chat"}\n'
    async with served_with(tmp_path, store_table + text) as (served, _):
        while (await served.post(V1, HI | {"max_tokens": 60}))[0] == 200:
            pass
        _, _, body = await served.post(V1, HI | {"max_tokens": 60})
        refusal = json.loads(body)["error"]
        found = await entry(served, "budget")

    assert [refusal[name] for name in ("policy", "limit", "used", "held", "resets_at")] == [
        found[name] for name in ("policy", "limit", "spent", "held", "resets_at")
    ]
    assert found["left"] == found["limit"] - found["spent"] < 22


async def test_used_up_rate_says_when_room_appears(tmp_path: Path, store_table: str) -> None:
    """A used-up sliding window has nothing left until the time that its refusal names, within its length."""
    async with served_with(tmp_path, store_table + BOTH) as (served, _):
        for _ in range(3):
            assert (await served.post(V1, HI))[0] == 200
        _, _, body = await served.post(V1, HI)
        found = await entry(served, "rate")
    assert numbers(found) == (3, 3, 0, 0)
    assert (found["window"], found["unit"], found["counts"]) == (60.0, "requests", {"tenant": "default"})
    assert found["resets_at"] == json.loads(body)["error"]["resets_at"]
    assert -2 < found["resets_at"] - time.time() < 62


async def test_running_calls_are_held(tmp_path: Path, store_table: str) -> None:
    """What running calls have reserved is `held`; after they end, what they used is `spent`."""
    async with served_with(tmp_path, store_table + BOTH, mid_stream) as (served, up):
        running = [await served.client() for _ in range(2)]
        for client in running:
            await client.post(V1, HI)
            await client.until(b'"a"')
        held = await entry(served, "budget")
        many = await asyncio.gather(*[usage(served) for _ in range(30)])
        for client in running:
            client.close()
        for request in up.requests:
            await request.gone.wait()
        account = await served.account()
        after = await entry(served, "budget")

    assert held["spent"] == 0
    assert held["held"] > 20
    assert held["left"] == 1000 - held["held"]
    assert {each["limits"][1]["held"] for each in many} == {held["held"]}
    assert numbers(after) == (1000, account.spent, 0, 1000 - account.spent)
    assert account.spent > 0


async def test_head_has_the_headers_of_get(tmp_path: Path) -> None:
    """`HEAD` is answered with the status and the headers of `GET`, and without a body."""
    async with served_with(tmp_path, BOTH) as (served, _):
        _, headers, _ = await served.get(USAGE)
        client = await Client.to(served.port)
        client.writer.write(b"HEAD /v1/usage HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
        status, of_head = await client.head()
        rest = await client.until_end()
        client.close()
    assert (status, rest) == (200, b"")
    same = ("content-type", "content-length", "cache-control")
    assert [of_head[name] for name in same] == [headers[name] for name in same]


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
async def test_other_methods_are_refused(tmp_path: Path, method: str) -> None:
    """Other methods get 405, and `Allow` has the two that are served."""
    async with served_with(tmp_path, BOTH) as (served, _):
        status, headers, body = await served.get(USAGE, "content-length: 0", method=method)
    assert (status, headers["allow"]) == (405, "GET, HEAD")
    assert json.loads(body)["error"]["code"] == "method_not_allowed"


async def test_usage_needs_a_key(tmp_path: Path) -> None:
    """With keys, a request without one or with an unknown one is 401, and the store is not read."""
    async with served_with(tmp_path, BOTH + TWO_TENANTS) as (served, _):
        served.gateway.policy_services.store = None  # type: ignore[assignment]  # reading it would be a 500
        for headers in ([], ["authorization: Bearer nobody"], ["x-api-key: x"]):
            status, _, body = await served.get(USAGE, *headers)
            assert (status, json.loads(body)["error"]["code"]) == (401, "unauthorized")


async def test_tenants_see_their_own_counters_alone(tmp_path: Path, store_table: str) -> None:
    """The usage of one tenant has no number and no name of another."""
    text = store_table + BOTH + TWO_TENANTS
    async with served_with(tmp_path, text) as (served, _):
        before = await served.get(USAGE, ZETA)
        assert (await served.post(V1, HI, ACME))[0] == 200
        after = await served.get(USAGE, ZETA)
        of_acme = await entry(served, "rate", ACME)
        of_zeta = await usage(served, "x-api-key: zeta-key")
    drop = ("date", "x-request-id")
    assert json.loads(before[2])["limits"][1] == json.loads(after[2])["limits"][1]
    assert {name for name in before[1] if name not in drop} == {name for name in after[1] if name not in drop}
    assert b"acme" not in after[2]
    assert (of_acme["spent"], of_acme["counts"]) == (1, {"tenant": "acme"})
    assert (of_zeta["tenant"], [each["spent"] for each in of_zeta["limits"]]) == ("zeta", [0, 0])


async def test_counters_of_several_tenants_show_the_remainder(tmp_path: Path) -> None:
    """A counter that other tenants fill is marked; it shows limit and remainder, but not what is spent or held."""
    text = '[[policy]]\nuse = "rate"\nrequests = 5\nby = "global"\n[[policy]]\nuse = "rate"\nname = "own"\nrequests = 5\nby = "ip"\n'
    async with served_with(tmp_path, text + TWO_TENANTS) as (served, _):
        assert (await served.post(V1, HI, ACME))[0] == 200
        shared = (await usage(served, ZETA))["limits"]
    assert [(each["counts"], each["shared"]) for each in shared] == [({}, True), ({"ip": "127.0.0.1"}, True)]
    assert [numbers(each) for each in shared] == [(5, None, None, 4)] * 2

    async with served_with(tmp_path, text + key("acme-key", "acme")) as (served, _):
        assert (await served.post(V1, HI, ACME))[0] == 200
        alone = (await usage(served, ACME))["limits"]
    assert [numbers(each) for each in alone] == [(5, 1, 0, 4)] * 2, "there is no other tenant"


async def test_limits_of_the_key_count(tmp_path: Path) -> None:
    """A key's own limits replace those of the chain, on the counter of its tenant."""
    own = key("acme-key", "acme", "limits = { rate = { requests = 9 }, budget = { tokens = 50 } }")
    other = key("second-key", "acme")
    async with served_with(tmp_path, BOTH + own + other) as (served, _):
        assert (await served.post(V1, HI, ACME))[0] == 200
        mine = (await usage(served, ACME))["limits"]
        plain = (await usage(served, "authorization: Bearer second-key"))["limits"]
    assert [(each["limit"], each["left"]) for each in mine] == [(9, 8), (50, 50 - mine[1]["spent"])]
    assert [(each["limit"], each["spent"]) for each in plain] == [(3, 1), (1000, mine[1]["spent"])]


PROFILES = BOTH + "[profile.small]\nrate = { requests = 2 }\nbudget = { tokens = 100 }\n[profile.large]\n"


async def test_profile_selects_the_chain(tmp_path: Path) -> None:
    """`x-profile` selects the limits; `profiles` has those of each profile on the same counter."""
    async with served_with(tmp_path, PROFILES) as (served, _):
        assert (await served.post(V1, HI, "x-profile: small"))[0] == 200
        plain, small = await usage(served), await usage(served, "x-profile: Small")
    assert (plain["profile"], small["profile"]) == ("", "small")
    assert [numbers(each)[:2] for each in plain["limits"]] == [(3, 1), (1000, plain["limits"][1]["spent"])]
    assert [each["limit"] for each in small["limits"]] == [2, 100]
    for answer in (plain, small):
        assert answer["limits"][0]["profiles"] == {"small": {"limit": 2, "left": 1}, "large": {"limit": 3, "left": 2}}


async def test_profiles_that_the_key_may_not_use_are_not_shown(tmp_path: Path) -> None:
    """A key with `profiles` gets the first by default, sees only its own, and 403 for another."""
    text = PROFILES + key("acme-key", "acme", 'profiles = ["small"]')
    async with served_with(tmp_path, text) as (served, _):
        found = await usage(served, ACME)
        refused, _, body = await served.get(USAGE, ACME, "x-profile: large")
    assert (found["profile"], list(found["limits"][0]["profiles"])) == ("small", ["small"])
    assert (refused, json.loads(body)["error"]["code"]) == (403, "forbidden")


async def test_user_of_the_query_is_counted_within_the_tenant(tmp_path: Path) -> None:
    """`?user=` shows the counter of that user of the caller's tenant; without it, that of calls without a user."""
    text = '[[policy]]\nuse = "rate"\nrequests = 5\nby = "user"\n' + TWO_TENANTS
    async with served_with(tmp_path, text) as (served, _):
        for user in ("ann", "ann", "bob"):
            assert (await served.post(V1, HI | {"user": user}, ACME))[0] == 200
        assert (await served.post(V1, HI | {"user": "ann"}, ZETA))[0] == 200
        found = [
            await entry(served, "rate", ACME, query=query) for query in ("?user=ann", "?user=bob", "", "?user=x%1ez")
        ]
        other = await entry(served, "rate", ZETA, query="?user=ann")
    assert [each["spent"] for each in found] == [2, 1, 0, 0]
    assert found[0]["counts"] == {"tenant": "acme", "user": "ann"}
    assert (other["spent"], other["counts"]) == (1, {"tenant": "zeta", "user": "ann"})


async def test_limits_by_model_are_listed_for_known_models(tmp_path: Path) -> None:
    """Without `?model=` a limit by model has an entry for each configured name that the key may use; with it, for that one."""
    text = (
        """
[[upstream]]
base_url = "UPSTREAM"
model = "large"
models = { small = "s-1", "gpt-*" = "large" }
[[policy]]
use = "rate"
requests = 5
by = ["tenant", "model"]
"""
        + key("acme-key", "acme", 'models = ["large", "small", "x-*"]')
        + key("zeta-key", "zeta")
    )
    async with upstream(hello) as up:
        settings = settings_of(tmp_path, None, text.replace("UPSTREAM", up.url))
        async with sidecar(settings) as served:
            assert (await served.post(V1, HI | {"model": "small"}, ACME))[0] == 200
            assert (await served.post(V1, HI | {"model": "x-2"}, ACME))[0] == 200
            known = await usage(served, ACME)
            named = await entry(served, "rate", ACME, query="?model=x-2")
            refused, _, body = await served.get(f"{USAGE}?model=other", ACME)
    assert known["models"] == ["large", "small"]
    assert [(each["counts"]["model"], each["spent"]) for each in known["limits"]] == [("large", 0), ("small", 1)]
    assert (named["counts"], named["spent"]) == ({"tenant": "acme", "model": "x-2"}, 1)
    assert (refused, json.loads(body)["error"]["code"]) == (403, "forbidden")


async def test_policies_for_other_tenants_are_not_shown(tmp_path: Path) -> None:
    """`only` decides what is listed: another tenant's policy is not; paths and models are shown, tenants are not."""
    text = (
        """
[[policy]]
use = "rate"
name = "theirs"
requests = 5
only = { tenant = "zeta" }
[[policy]]
use = "rate"
name = "ours"
requests = 5
only = { tenant = ["acme", "zeta"], path = "/api/chat", model = ["gpt-*", "secret"] }
[[policy]]
use = "rate"
name = "other-model"
requests = 5
only = { model = "claude-*" }
"""
        + key("acme-key", "acme", 'models = ["gpt-4o"]')
        + key("zeta-key", "zeta")
    )
    async with served_with(tmp_path, text) as (served, _):
        of_acme, of_zeta = await usage(served, ACME), await usage(served, ZETA)
        asked = await usage(served, ZETA, query="?model=llama")
    assert [(each["policy"], each.get("only")) for each in of_acme["limits"]] == [
        ("ours", {"path": "/api/chat", "model": ["gpt-*"]})
    ]
    assert [each["policy"] for each in of_zeta["limits"]] == ["theirs", "ours", "other-model"]
    assert [each["policy"] for each in asked["limits"]] == ["theirs"]
    assert b"zeta" not in json.dumps(of_acme).encode()


async def test_dollars_are_shown_as_in_refusals(tmp_path: Path) -> None:
    """A budget in dollars has its amounts in dollars, also without a price for the model of the query."""
    text = '[prices."*"]\ninput = 1.0\noutput = 2.0\n[[policy]]\nuse = "budget"\nusd = 0.25\nwindow = "month"\ntimezone = "Europe/Berlin"\n'
    async with served_with(tmp_path, text) as (served, _):
        assert (await served.post(V1, HI))[0] == 200
        account = await served.account()
        found = await entry(served, "budget")
    assert (found["unit"], found["window"], found["timezone"], found["limit"]) == (
        "usd",
        "month",
        "Europe/Berlin",
        0.25,
    )
    assert found["spent"] == account.spent / 1_000_000 > 0
    assert found["left"] == pytest.approx(0.25 - found["spent"])
    assert found["resets_at"] == account.resets_at


async def test_numbers_equal_those_of_the_command_line(tmp_path: Path) -> None:
    """`sidecar usage --json` shows the same numbers of each budget, in the chain and in each profile."""
    text = '[store]\nurl = "sqlite:///usage.db"\n' + PROFILES
    async with upstream(hello, mid_stream) as up:
        settings = settings_of(tmp_path, up.url, text)
        async with sidecar(settings) as served:
            assert (await served.post(V1, HI))[0] == 200
            client = await served.client()
            await client.post(V1, HI)
            await client.until(b'"a"')
            found = await entry(served, "budget")
            (line,) = await read_budgets(settings, tenant=None, now=time.time())
    assert numbers(found) == (line.limit, line.spent, line.reserved, line.left)
    assert min(line.spent, line.reserved) > 0
    assert (found["counts"], found["unit"], found["window"]) == (line.counts, line.unit, line.window)
    assert found["resets_at"] == line.resets_at
    assert found["profiles"] == msgspec.to_builtins(line.profiles)


ADMITTED_PATHS: list[str] = []


class Slots(Policy, frozen=True):
    """A limit of a deployment: it queues in `admit`, and reports its limit without that."""

    def limits_for(self, call: Call) -> Sequence[Claim]:
        return (self.claim(call, 1, limit=4, window=Calendar("hour")),)

    async def admit(self, call: Call) -> Lease:
        ADMITTED_PATHS.append(call.path)
        return ClaimLease(*self.limits_for(call))


class Words(Policy, frozen=True):
    """A policy of a deployment that refuses, and reports no limit."""

    async def admit(self, call: Call) -> Lease | None:
        raise Rejection(400, "no", "no")


async def test_policies_of_the_deployment_report_their_limits(tmp_path: Path) -> None:
    """`limits_for` lists a deployment's limit; no `admit` runs; policies that report nothing are named."""
    async with upstream(hello) as up:
        ADMITTED_PATHS.clear()
        settings = with_policies(settings_of(tmp_path, up.url), Slots(name="slots"), alone=True)
        async with sidecar(settings) as served:
            found = await entry(served, "slots")
            assert ADMITTED_PATHS == []
            assert (await served.post(V1, HI))[0] == 200
            assert ADMITTED_PATHS == [V1]
            assert numbers(await entry(served, "slots")) == (4, 1, 0, 3)
        async with sidecar(with_policies(settings, Words(name="words"))) as served:
            assert (await usage(served))["unlisted"] == ["words"]
        theirs = Words(name="theirs", match=Match(tenant="zeta"))
        async with sidecar(with_policies(settings, Words(name="words"), theirs)) as served:
            assert (await usage(served))["unlisted"] == ["words"], "policies for other tenants are not named"
    assert (numbers(found), found["window"]) == ((4, 0, 0, 4), "hour")


async def test_failing_limits_for_is_an_internal_error(tmp_path: Path) -> None:
    """An exception of a policy, or a wrong result, is 500 `internal_error`: an answer without that limit would be wrong."""

    class Broken(Policy, frozen=True):
        def limits_for(self, call: Call) -> Sequence[Claim]:
            return [1]  # type: ignore[list-item]  # a mistake

        async def admit(self, call: Call) -> Lease | None:
            return None

    async with upstream(hello) as up:
        settings = with_policies(settings_of(tmp_path, up.url), Broken(name="broken"), alone=True)
        async with sidecar(settings) as served:
            status, _, body = await served.get(USAGE)
    assert (status, json.loads(body)["error"]["code"]) == (500, "internal_error")


@pytest.mark.skipif(SERVER is None, reason=MISSING)
async def test_store_that_is_down_is_503(tmp_path: Path) -> None:
    """While the store is down the usage is 503 `store_unavailable`, also with rates that admit then; it is back with the store."""
    port = free_port()
    text = f'[store]\nurl = "redis://127.0.0.1:{port}/0"\n[[policy]]\nuse = "rate"\nrequests = 5\n'
    async with served_with(tmp_path, text) as (served, _):
        many = await asyncio.gather(*[served.get(USAGE) for _ in range(20)])
        with redis_server(tmp_path, port=port):
            for _ in range(200):
                if (await served.get("/readyz"))[0] == 200:
                    break
                await asyncio.sleep(0.05)  # until the next heartbeat; bounded
            found = await usage(served)
    assert {(status, json.loads(body)["error"]["code"]) for status, _, body in many} == {(503, "store_unavailable")}
    assert many[0][1]["retry-after"] == "1"
    assert found["limits"][0]["left"] == 5


async def test_draining_process_refuses_usage(tmp_path: Path) -> None:
    """While the process drains, the usage is 503 `draining` like a call."""
    async with served_with(tmp_path, BOTH) as (served, _):
        served.gateway.active_calls.draining = True
        status, headers, body = await served.get(USAGE)
    assert (status, json.loads(body)["error"]["code"], headers["connection"]) == (503, "draining", "close")


async def test_pages_of_other_origins_get_no_usage(tmp_path: Path) -> None:
    """The checks of origin and host hold, and CORS admits the pages of the configuration."""
    text = '[server]\ncors_origins = ["https://app.example.org"]\n' + BOTH
    async with served_with(tmp_path, text) as (served, _):
        good = await served.get(USAGE, "origin: https://app.example.org")
        bad = await served.get(USAGE, "origin: https://evil.example.org", "sec-fetch-site: cross-site")
        rebound = await served.get(USAGE, "host: evil.example.org")
    assert (good[0], good[1]["access-control-allow-origin"]) == (200, "https://app.example.org")
    assert (bad[0], rebound[0]) == (403, 403)


async def test_usage_leaves_a_record(tmp_path: Path) -> None:
    """A request for usage leaves one record with its route and tenant, as done, and a refused one as rejected."""
    async with upstream(hello) as up, recorded(tmp_path, up, BOTH + TWO_TENANTS) as it:
        await it.served.get(USAGE, ACME, "x-request-id: mine")
        record = await it.one()
        assert (record.request_id, record.method, record.route, record.status) == ("mine", "GET", USAGE, 200)
        assert (record.ending, record.code, record.tenant, record.attempts) == ("done", "", "acme", 0)
        await it.served.get(USAGE)
        assert (it.records[-1].status, it.records[-1].code, it.records[-1].ending) == (401, "unauthorized", "rejected")


async def test_too_many_parameters_are_refused(tmp_path: Path) -> None:
    """A query of many parameters is 400; unknown ones, bad escapes and empty values are ignored."""
    async with served_with(tmp_path, BOTH) as (served, _):
        status, _, body = await served.get(USAGE + "?" + "&".join(f"a{at}=1" for at in range(100)))
        fine = await usage(served, query="?since=2024&user=&model=&x=%zz%ff")
    assert (status, json.loads(body)["error"]["code"]) == (400, "invalid_request")
    assert len(fine["limits"]) == 2


async def test_call_is_sent_for_no_usage(tmp_path: Path) -> None:
    """A chain without limits has an empty list, and nothing goes upstream."""
    text = '[[policy]]\nuse = "retry"\n'

    async def fails(connection: Connection) -> None:
        raise AssertionError("nothing must be sent")

    async with served_with(tmp_path, text, fails) as (served, up):
        assert (await usage(served))["limits"] == []
        assert not up.requests


async def test_chat_and_v1_share_their_counters(tmp_path: Path) -> None:
    """The shipped chain is listed with its profiles, and a Chat Nest call counts on the same counters."""
    async with served_with(tmp_path, "") as (served, _):
        await served.post("/api/chat", CHAT)
        found = await usage(served)
    assert [each["policy"] for each in found["limits"]] == ["rate", "budget"]
    assert set(found["limits"][0]["profiles"]) == {"balanced", "constrained", "expanded"}
    assert found["limits"][0]["spent"] == 1
    assert Sliding(found["limits"][0]["window"]) == Sliding(60.0)


async def test_address_is_the_callers_own(tmp_path: Path) -> None:
    """A limit by address shows the counter of the caller's address, which only trusted proxies can name."""
    text = '[server]\ntrusted_proxies = ["127.0.0.1"]\n[[policy]]\nuse = "rate"\nrequests = 5\nby = "ip"\n'
    async with served_with(tmp_path, text) as (served, _):
        assert (await served.post(V1, HI, "x-forwarded-for: 10.0.0.1"))[0] == 200
        found = [await entry(served, "rate", f"x-forwarded-for: 10.0.0.{at}", query="?ip=10.0.0.1") for at in (1, 2)]
    assert [(each["counts"]["ip"], each["spent"]) for each in found] == [("10.0.0.1", 1), ("10.0.0.2", 0)]


async def test_many_models_are_left_out_and_counted(tmp_path: Path) -> None:
    """At most 16 models are listed; the answer tells how many are left out, and the query can name any of them."""
    names = [f"m-{at}" for at in range(40)]
    text = f'[[policy]]\nuse = "rate"\nrequests = 5\nby = ["tenant", "model"]\n{key("acme-key", "acme", f"models = {json.dumps(names)}")}'
    async with served_with(tmp_path, text) as (served, _):
        found = await usage(served, ACME)
        one = await entry(served, "rate", ACME, query="?model=m-39")
    assert (found["models"], found["left_out"]) == (names[:16], 24)
    assert [each["counts"]["model"] for each in found["limits"]] == names[:16]
    assert one["counts"]["model"] == "m-39"


async def test_tenant_that_asks_too_often_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond its pace a tenant gets 429 with the wait, and the store is read no more; other tenants are served."""
    clock = FakeClock()

    async def at_once(_: float) -> None:
        await asyncio.sleep(0)

    def with_clock(settings: Settings) -> Gateway:
        services = make_services(clock=clock)
        services.sleep = at_once
        return Gateway(settings, policy_services=services)

    async with upstream(hello) as up:
        settings = settings_of(tmp_path, up.url, BOTH + TWO_TENANTS)
        async with sidecar(settings, make_gateway=with_clock) as served:
            store = served.gateway.policy_services.store
            reads: list[int] = []
            read = store.standings

            async def counted(claims: Sequence[Claim]) -> Sequence[Standing]:
                reads.append(len(claims))
                return await read(claims)

            monkeypatch.setattr(store, "standings", counted)
            got = [await served.get(USAGE, ACME) for _ in range(400)]
            served_reads = len(reads)
            other = await served.get(USAGE, ZETA)
    statuses = [status for status, _, _ in got]
    assert set(statuses) == {200, 429}
    assert statuses.index(429) == statuses.count(200) == served_reads <= READ_BURST + READS_PER_SECOND + 2
    assert (json.loads(got[-1][2])["error"]["code"], int(got[-1][1]["retry-after"])) == ("rate_limit_exceeded", 2)
    assert other[0] == 200


@pytest.mark.parametrize("protocol", [HttpProtocol, HttpToolsProtocol], ids=["own", "another"])
async def test_usage_is_served_by_any_server(tmp_path: Path, protocol: type[asyncio.Protocol]) -> None:
    """The route is served past the router and through it, with a slash at its end too; near misses name it."""
    async with upstream(hello) as up, sidecar(settings_of(tmp_path, up.url, BOTH), protocol=protocol) as served:
        got = [await served.get(path) for path in (USAGE, f"{USAGE}/")]
        missed, _, body = await served.get("/usage")
        client = await Client.to(served.port)
        client.writer.write(b"HEAD /v1/usage HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
        head = await client.until_end()
        client.close()
    assert [(status, headers["cache-control"]) for status, headers, _ in got] == [(200, "no-store")] * 2
    assert (missed, "did you mean '/v1/usage'" in json.loads(body)["error"]["message"]) == (404, True)
    assert (head[:15], head.endswith(b"\r\n\r\n")) == (b"HTTP/1.1 200 OK", True)
