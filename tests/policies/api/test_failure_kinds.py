"""The classes of failures: one table, what each policy makes of it, and retries counted for each upstream."""

from __future__ import annotations

import re
from typing import Any, cast

import httpx
import openai
import pytest
from places import ROOT

from policies import Fallback, Retry, RetryClassifier
from policies.api.failure import Failure
from policies.api.failure_kinds import FAILURE_CLASSES, RETRYABLE_KINDS
from policies.api.upstream import UpstreamError
from policies.engine.chain import Chain
from policies.testing import ScriptedUpstream, make_call, make_services, serve
from sidecar.downstream.client_errors import MESSAGES_BY_KIND
from sidecar.upstream.errors.classify import BY_CODE, BY_STATUS, BY_TEXT

pytestmark = pytest.mark.anyio

FAILURES = (ROOT / "docs" / "failures.md").read_text()
REQUEST = httpx.Request("POST", "http://h/v1")


def failed(kind: str, *tried: str, status: int = 0, code: str = "") -> Failure:
    error: Exception = openai.OpenAIError(kind)
    if status:
        body = {"message": "no", "code": code} if code else None
        answer = cast("Any", httpx.Response(status, request=REQUEST))
        error = openai.APIStatusError("no", response=answer, body=body)
    tried = tried or ("a",)
    return UpstreamError(error, kind).failure(attempt=len(tried), upstream=tried[-1], tried=tried)


def test_one_table() -> None:
    """Each class has its words for clients and the exception of openai's SDK; nothing maps to a class that is none."""
    assert set(MESSAGES_BY_KIND) == set(FAILURE_CLASSES)
    assert all(issubclass(getattr(openai, told.raises), openai.APIError) for told in MESSAGES_BY_KIND.values())
    assert {*BY_CODE.values(), *BY_STATUS.values(), *(kind for _, kind in BY_TEXT)} <= set(FAILURE_CLASSES)
    assert all(each.why.endswith(".") for each in FAILURE_CLASSES.values())


def test_document_has_the_table() -> None:
    """docs/failures.md tells of each class whether it is tried again and elsewhere, and what a client gets, as the code does."""
    table = FAILURES.split("| class | what happened |")[1].split("\n\n")[0]
    rows = {
        row[0].strip("` "): row
        for line in table.splitlines()[2:]
        if (row := [x.strip() for x in line.split("|")[1:-1]])
    }
    assert list(rows) == list(FAILURE_CLASSES)
    for name, (_, _, again, elsewhere, status, raises) in rows.items():
        each, told = FAILURE_CLASSES[name], MESSAGES_BY_KIND[name]
        family = each.family or name
        assert (again, elsewhere) == ("yes" if each.retry else "", "yes" if family in Fallback().on else ""), name
        assert (int(status), raises.strip("`")) == (told.status, told.raises), name


@pytest.mark.parametrize(
    ("failure", "options", "expected"),
    [
        (failed("server"), {}, "b"),
        (failed("server", "a", "b"), {}, "c"),
        (failed("server", "a", "b", "c"), {}, None),
        (failed("head_timeout"), {}, "b"),
        (failed("unavailable"), {"attempts": 3}, "b"),
        (failed("server"), {"attempts": 2}, None),
        (failed("server", "a", "a"), {"attempts": 2}, "b"),
        (failed("context"), {}, None),
        (failed("request"), {}, None),
        (failed("interrupted"), {}, None),
        (failed("context"), {"on": ("context",), "to": ("c",)}, "c"),
        (failed("server"), {"on": ("context",), "to": ("c",)}, None),
        (failed("server"), {"to": ("c", "b")}, "c"),
        (failed("server", "a", "c"), {"to": ("c", "b")}, "b"),
        (failed("server", "b"), {"to": ("gone", "b")}, None),
        (failed("request", status=425), {"on": ("status:425",)}, "b"),
        (failed("request", status=425, code="warming_up"), {"on": ("code:warming_up",)}, "b"),
        (failed("request", status=426), {"on": ("status:425", "code:warming_up")}, None),
    ],
)  # fmt: skip
def test_fallback(failure: Failure, options: dict[str, object], expected: str | None) -> None:
    """A class that is named goes to the next upstream that was not tried, at once; everything else is another policy's."""
    call = make_call("hi")
    call.services.upstreams = ("a", "b", "c")

    verdict = Fallback(**options).retry(call, failure)  # type: ignore[arg-type]  # a column of the table

    assert verdict == (None if expected is None else Retry(0.0, expected))


@pytest.mark.parametrize(
    ("failure", "options", "again"),
    [
        (failed("first_token_timeout"), {}, True),
        (failed("first_token_timeout"), {"on": ("timeout",)}, True),
        (failed("first_token_timeout"), {"on": ("first_token_timeout",)}, True),
        (failed("first_token_timeout"), {"on": ("head_timeout",)}, False),
        (failed("first_token_timeout"), {"never": ("timeout",)}, False),
        (failed("server"), {"never": ("server",)}, False),
        (failed("server", status=501), {"never": ("status:501",)}, False),
        (failed("server", status=500), {"never": ("status:501",)}, True),
        (failed("request", status=425), {"on": (*RETRYABLE_KINDS, "status:425")}, True),
        (failed("request", status=404, code="swapping_model"), {"on": ("code:swapping_model",)}, True),
        (failed("unavailable"), {}, False),
        (failed("total_timeout"), {}, False),
    ],
)  # fmt: skip
def test_lists_of_classes(failure: Failure, options: dict[str, object], again: bool) -> None:  # noqa: FBT001  # a column of the table
    """`on` and `never` take classes, families, statuses and codes, so that a user's own servers fit; `never` wins."""
    verdict = RetryClassifier(base=0, **options).retry(make_call("hi"), failure)  # type: ignore[arg-type]  # a column of the table

    assert isinstance(verdict, Retry) is again


@pytest.mark.parametrize(
    ("policy", "options", "told"),
    [
        (RetryClassifier, {"on": ("sever",)}, "on[0]: 'sever' is not a class of failures; did you mean 'server'?"),
        (RetryClassifier, {"never": ("server", "status:x")}, "never[1]: 'status:x' is not a class of failures; use one of connect,"),
        (Fallback, {"on": ("code:",)}, "on[0]: 'code:' is not a class of failures; use one of connect,"),
        (Fallback, {"to": ("a", "a")}, "to: an upstream is listed twice; list each once"),
    ],
)  # fmt: skip
def test_no_class(policy: type[Fallback], options: dict[str, object], told: str) -> None:
    """A class that is misspelt is refused when the policy is made, with what would be right."""
    with pytest.raises(ValueError, match=re.escape(told)):
        policy(**options)  # type: ignore[arg-type]  # a column of the table


def refusal(kind: str = "server") -> UpstreamError:
    return UpstreamError(openai.OpenAIError(kind), kind)


async def test_ordered_fallback() -> None:
    """Each upstream of the list is tried once, in order; then `retry` judges the last, which has all of its attempts."""
    upstream = ScriptedUpstream([refusal()])
    services = make_services(upstreams=("a", "b", "c"))

    served = await serve([Fallback(), RetryClassifier(attempts=2, base=0.001, cap=0.001)], make_call("hi", services=services), upstream)  # fmt: skip

    assert (upstream.names, served.failure is not None) == (["a", "b", "c", "c"], True)


@pytest.mark.parametrize(
    ("kind", "more", "names"),
    [
        pytest.param("overloaded", {}, "aabbc", id="attempts at each"),
        pytest.param("quota", {}, "abc", id="final"),
        pytest.param("rate", {"retry_after": 60.0}, "abc", id="a wait past patience"),
        pytest.param("rate", {"retry_after": 6.0}, "abc", id="a wait past the deadline"),
        pytest.param("server", {"should_retry": False}, "abc", id="forbidden"),
        pytest.param("empty", {}, "aa", id="not for another one"),
        pytest.param("context", {}, "a", id="for nobody"),
    ],
)
async def test_attempts_before_the_next(kind: str, more: dict[str, Any], names: str) -> None:
    """With `attempts` at each upstream, the next one takes over when they are used up, and at once where `retry` says no."""
    services = make_services(upstreams=("a", "b", "c"))
    broken = UpstreamError(openai.OpenAIError(kind), kind, **more)
    upstream = ScriptedUpstream(*[[broken]] * (len(names) - 1), ["fine"] if names[-1] == "c" else [broken])
    call = make_call("hi", services=services)
    call.deadline = services.monotonic() + 5

    served = await serve([Fallback(attempts=2), RetryClassifier()], call, upstream)

    assert ("".join(map(str, upstream.names)), served.text) == (names, "fine" if names[-1] == "c" else "")


async def test_classes_go_their_own_way() -> None:
    """Several fallbacks send each class to its own upstreams."""
    services = make_services(upstreams=("a", "long", "spare"))
    chain = [
        Fallback(name="length", on=("context",), to=("long",)),
        Fallback(name="outage", on=("server",), to=("spare",)),
    ]
    for kind, expected in [("context", ["a", "long"]), ("server", ["a", "spare"]), ("auth", ["a"])]:
        upstream = ScriptedUpstream([refusal(kind)], ["fine"])
        await serve(chain, make_call("hi", services=services), upstream)
        assert upstream.names == expected


async def test_repeated_calls_earn_nothing() -> None:
    """A hundred calls earn ten retries beside the ten at the start; what an SDK sends again earns none."""
    extra = []
    for repeated in (False, True):
        upstream, services = ScriptedUpstream([refusal()]), make_services()
        chain = Chain([RetryClassifier(base=0, cap=0, attempts=10)], upstream, services)
        for _ in range(100):
            await serve([], make_call("hi", services=services, is_client_retry=repeated), chain=chain)
        extra.append(len(upstream.names) - 100)

    assert (18 <= extra[0] <= 20, extra[1]) == (True, 10)


async def test_each_upstream_has_its_own_budget() -> None:
    """Where an upstream's retries are used up, the next one takes over at once; its first attempt is no retry."""
    upstream, services = ScriptedUpstream([refusal()]), make_services(upstreams=("a", "b"))
    chain = Chain([Fallback(attempts=2), RetryClassifier(attempts=4, base=0, cap=0)], upstream, services)
    for _ in range(100):
        await serve([], make_call("hi", services=services), chain=chain)
    assert 110 <= upstream.names.count("a") <= 120
    assert 110 <= upstream.names.count("b") <= 120
