"""The policy `budget` in tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from policies import Budget, Call, Caps, Policy
from policies.api.claim import Claim
from policies.testing import make_call

pytestmark = pytest.mark.anyio


async def claims(policy: Policy, call: Call) -> Sequence[Claim]:
    """Return what the lease of *policy* claims for *call*."""
    lease = await policy.admit(call)
    assert lease is not None
    return lease.claims()


@pytest.mark.parametrize(
    ("fields", "own", "limit", "window"),
    [({}, None, 1000, "day"), ({}, 10, 10, "day"), ({}, 5000, 1000, "day"), ({"window": "month"}, 10, 1000, "month")],
)
async def test_budget_claims_prompt_and_all_answers(
    fields: dict[str, Any], own: int | None, limit: int, window: str
) -> None:
    """A budget claims the prompt and n answers; the client's own daily cap lowers a daily limit."""
    call = make_call("hello", body={"n": 3, "max_tokens": 7}, caps=Caps(day_tokens=own))
    (claim,) = await claims(Budget(name="b", tokens=1000, **fields), call)

    assert (claim.base, claim.per_token, claim.limit, claim.floor) == (2 + 4, 3, limit, 64)
    assert claim.window.key == f"{window}@UTC"


async def test_bound_counts_bytes_and_8_tokens_per_message() -> None:
    """With `bound` the prompt counts as its bytes and 8 a message, which no tokenizer exceeds."""
    (claim,) = await claims(Budget(name="b", tokens=1000, reserve="bound"), make_call("h\u00e9llo", "you"))

    assert claim.base == 6 + 8 + 3 + 8


async def test_bound_counts_the_bytes_of_files() -> None:
    """With `bound` files and audio count their bytes, which may all be text; an estimate counts far less."""
    found = {}
    for kind in ("file", "input_file", "input_audio"):
        part = {"type": kind, kind: {"file_data": "data:text/plain;base64," + "x" * 800_000}}
        call = make_call(messages=[{"role": "user", "content": [part]}])
        for reserve in ("bound", "estimate"):
            (claim,) = await claims(Budget(name="b", tokens=1000, reserve=reserve), call)
            found[kind, reserve] = claim.base

    bounds = [tokens for (_, reserve), tokens in found.items() if reserve == "bound"]
    estimates = [tokens for (_, reserve), tokens in found.items() if reserve == "estimate"]
    assert 800_000 < min(bounds) <= max(bounds) < 802_000
    assert max(estimates) < 10_000


def test_unknown_time_zone_is_refused() -> None:
    """An unknown time zone is an error that shows a valid one."""
    with pytest.raises(ValueError, match="'Mars/Base' is no IANA time zone; write one like"):
        Budget(tokens=1, timezone="Mars/Base")
