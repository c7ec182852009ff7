"""The policy `retry`."""

from __future__ import annotations

from typing import Any

import pytest
from failures import failure_of

from policies import Failure, Retry, RetryClassifier
from policies.api.failure_kinds import RETRYABLE_KINDS
from policies.testing import make_call


def failed(kind: str, attempt: int = 1, **more: Any) -> Failure:
    """Return a failure of *kind*, with further fields *more*."""
    return Failure(kind=kind, attempt=attempt, **more)


@pytest.mark.parametrize(
    ("failure", "again"),
    [
        *[(failed(kind), True) for kind in ("connect", "timeout", "rate", "overloaded", "server", "empty")],
        *[(failed(kind), False) for kind in ("quota", "context", "auth", "request", "interrupted")],
        (failed("server", 2), True),
        (failed("server", 3), False),
        (failed("empty", 2), False),
        (failed("server", should_retry=False), False),
        (failed("request", should_retry=True), True),
        (failed("quota", should_retry=True), True),
        *[(failed(kind, should_retry=True, kind_is_certain=True), False) for kind in ("quota", "auth", "request")],
        (failed("overloaded", should_retry=True, kind_is_certain=True), True),
        (failed("context", should_retry=True), False),
        (failed("server", 4, upstream="b", tried=("a", "a", "b", "b")), True),
        (failed("server", 4, upstream="b", tried=("a", "b", "b", "b")), False),
        (failed("empty", 2, upstream="b", tried=("a", "b")), True),
        (failed("rate", retry_after=20.0), True),
        (failed("rate", retry_after=20.1), False),
        (failed("quota", retry_after=1.0), False),
    ],
)
def test_curable_failure_is_retried(failure: Failure, again: bool) -> None:  # noqa: FBT001  # a column of the table
    """A failure that another attempt can cure is retried up to `attempts`, if its wait is short enough."""
    verdict = RetryClassifier(name="r").retry(make_call("hi"), failure)

    assert isinstance(verdict, Retry) is again


def test_wait_is_upstreams_or_full_jitter() -> None:
    """A retry waits as upstream asks, plus at most 5 %; else a random time below a doubling, capped bound."""
    policy, call = RetryClassifier(attempts=10, base=0.5, cap=8.0), make_call("hi")
    decisions = [policy.retry(call, failed("rate", retry_after=7.5)) for _ in range(200)]
    asked = [decision.after for decision in decisions if isinstance(decision, Retry)]
    assert len(asked) == 200
    assert 7.5 <= min(asked) < 7.55
    assert 7.8 < max(asked) <= 7.5 * 1.05
    for attempt, bound in [(1, 0.5), (2, 1.0), (3, 2.0), (5, 8.0), (9, 8.0)]:
        decisions = [policy.retry(call, failed("server", attempt)) for _ in range(200)]
        waits = [decision.after for decision in decisions if isinstance(decision, Retry)]
        assert len(waits) == 200
        assert 0 <= min(waits) < bound * 0.2
        assert bound * 0.8 < max(waits) <= bound


@pytest.mark.parametrize(
    ("failure", "options", "again"),
    [
        (failure_of("first_token_timeout"), {}, True),
        (failure_of("first_token_timeout"), {"on": ("timeout",)}, True),
        (failure_of("first_token_timeout"), {"on": ("first_token_timeout",)}, True),
        (failure_of("first_token_timeout"), {"on": ("head_timeout",)}, False),
        (failure_of("first_token_timeout"), {"never": ("timeout",)}, False),
        (failure_of("server"), {"never": ("server",)}, False),
        (failure_of("server", status=501), {"never": ("status:501",)}, False),
        (failure_of("server", status=500), {"never": ("status:501",)}, True),
        (failure_of("request", status=425), {"on": (*RETRYABLE_KINDS, "status:425")}, True),
        (failure_of("request", status=404, code="swapping_model"), {"on": ("code:swapping_model",)}, True),
        (failure_of("unavailable"), {}, False),
        (failure_of("total_timeout"), {}, False),
    ],
)  # fmt: skip
def test_on_and_never_select_failures(failure: Failure, options: dict[str, object], again: bool) -> None:  # noqa: FBT001  # a column of the table
    """`on` and `never` accept kinds, families, statuses and codes of failures; `never` wins."""
    verdict = RetryClassifier(base=0, **options).retry(make_call("hi"), failure)  # type: ignore[arg-type]  # a column of the table

    assert isinstance(verdict, Retry) is again
