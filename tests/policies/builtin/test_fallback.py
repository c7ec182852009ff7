"""The policy `fallback`, alone and together with `retry`."""

from __future__ import annotations

from typing import Any

import openai
import pytest
from failures import failure_of

from policies import Fallback, Retry, RetryClassifier
from policies.api.failure import Failure
from policies.api.upstream import UpstreamError
from policies.testing import ScriptedUpstream, make_call, make_services, serve

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    ("failure", "options", "expected"),
    [
        (failure_of("server"), {}, "b"),
        (failure_of("server", "a", "b"), {}, "c"),
        (failure_of("server", "a", "b", "c"), {}, None),
        (failure_of("head_timeout"), {}, "b"),
        (failure_of("unavailable"), {"attempts": 3}, "b"),
        (failure_of("server"), {"attempts": 2}, None),
        (failure_of("server", "a", "a"), {"attempts": 2}, "b"),
        (failure_of("context"), {}, None),
        (failure_of("request"), {}, None),
        (failure_of("interrupted"), {}, None),
        (failure_of("context"), {"on": ("context",), "to": ("c",)}, "c"),
        (failure_of("server"), {"on": ("context",), "to": ("c",)}, None),
        (failure_of("server"), {"to": ("c", "b")}, "c"),
        (failure_of("server", "a", "c"), {"to": ("c", "b")}, "b"),
        (failure_of("server", "b"), {"to": ("gone", "b")}, None),
        (failure_of("request", status=425), {"on": ("status:425",)}, "b"),
        (failure_of("request", status=425, code="warming_up"), {"on": ("code:warming_up",)}, "b"),
        (failure_of("request", status=426), {"on": ("status:425", "code:warming_up")}, None),
    ],
)  # fmt: skip
def test_failure_goes_to_the_next_untried_upstream(
    failure: Failure, options: dict[str, object], expected: str | None
) -> None:
    """A failure of a listed kind goes to the next untried upstream without a wait; others are left to the next policy."""
    call = make_call("hi")
    call.services.upstreams = ("a", "b", "c")

    verdict = Fallback(**options).retry(call, failure)  # type: ignore[arg-type]  # a column of the table

    assert verdict == (None if expected is None else Retry(0.0, expected))


@pytest.mark.parametrize(("to", "expected"), [((), "c"), (("b", "c"), "b")])
def test_upstream_without_the_model_is_left_out(to: tuple[str, ...], expected: str) -> None:
    """Upstreams that lack the model are left out, unless `to` names them."""
    call = make_call("hi", body={"model": "m"})
    call.services.upstreams = ("a", "b", "c")
    call.services.may_serve = lambda upstream, model, *, substituted: (
        (upstream, model, substituted) != ("b", "m", False)
    )

    assert Fallback(to=to).retry(call, failure_of("server")) == Retry(0.0, expected)


def refusal(kind: str = "server") -> UpstreamError:
    """Return an error of *kind* without a status."""
    return UpstreamError(openai.OpenAIError(kind), kind)


async def test_upstreams_are_tried_in_order() -> None:
    """Each upstream is tried once, in order; then `retry` decides about the last, which gets all its attempts."""
    upstream = ScriptedUpstream([refusal()])
    services = make_services(upstreams=("a", "b", "c"))

    served = await serve([Fallback(), RetryClassifier(attempts=2, base=0.001, cap=0.001)], make_call("hi", services=services), upstream)  # fmt: skip

    assert (upstream.names, served.failure is not None) == (["a", "b", "c", "c"], True)


@pytest.mark.parametrize(
    ("kind", "more", "names"),
    [
        pytest.param("overloaded", {}, "aabbc", id="attempts at each"),
        pytest.param("quota", {}, "abc", id="not by retry"),
        pytest.param("rate", {"retry_after": 60.0}, "abc", id="a wait over the limit"),
        pytest.param("rate", {"retry_after": 6.0}, "abc", id="a wait past the deadline"),
        pytest.param("server", {"should_retry": False}, "abc", id="forbidden"),
        pytest.param("empty", {}, "aa", id="not by fallback"),
        pytest.param("context", {}, "a", id="not retried"),
    ],
)
async def test_next_upstream_takes_over_after_attempts(kind: str, more: dict[str, Any], names: str) -> None:
    """The next upstream takes over when `attempts` are used up, and at once if `retry` declines."""
    services = make_services(upstreams=("a", "b", "c"))
    broken = UpstreamError(openai.OpenAIError(kind), kind, **more)
    upstream = ScriptedUpstream(*[[broken]] * (len(names) - 1), ["fine"] if names[-1] == "c" else [broken])
    call = make_call("hi", services=services)
    call.deadline = services.monotonic() + 5

    served = await serve([Fallback(attempts=2), RetryClassifier()], call, upstream)

    assert ("".join(map(str, upstream.names)), served.text) == (names, "fine" if names[-1] == "c" else "")


async def test_each_kind_has_its_own_fallback() -> None:
    """Several fallbacks send each kind of failure to its own upstreams."""
    services = make_services(upstreams=("a", "long", "spare"))
    chain = [
        Fallback(name="length", on=("context",), to=("long",)),
        Fallback(name="outage", on=("server",), to=("spare",)),
    ]
    for kind, expected in [("context", ["a", "long"]), ("server", ["a", "spare"]), ("auth", ["a"])]:
        upstream = ScriptedUpstream([refusal(kind)], ["fine"])
        await serve(chain, make_call("hi", services=services), upstream)
        assert upstream.names == expected
