"""What the refusals of `budget`, `rate` and `max_tokens` tell a client."""

from __future__ import annotations

from typing import Any

import pytest

from policies import Budget, Calendar, Call, Claim, ClaimLease, Lease, MaxTokens, Policy, Rate, Rejection, Standing
from policies.api.claim import Unit, amount_text
from policies.api.lease import refusal_reason
from policies.builtin.budget_refusal import budget_refusal
from policies.builtin.prices import Price
from policies.testing import FakeClock, make_call, make_services, serve

pytestmark = pytest.mark.anyio

MIDNIGHT = 1_799_971_200.0  # 2027-01-15T00:00:00Z
NEXT_DAY = MIDNIGHT + 86_400


def claim(limit: int = 500_000, base: int = 748, *, unit: Unit = "tokens", window: str = "day") -> Claim:
    """Return the claim of a budget."""
    calendar = Calendar(window)  # type: ignore[arg-type]  # a period as a plain string
    return Claim(
        policy="budget", identity="t", unit=unit, limit=limit, window=calendar, base=base, per_token=1, floor=64
    )


def standing(limit: int, spent: int, held: int, needed: int, wait: float | None) -> Standing:
    return Standing(limit, spent + held, NEXT_DAY, held, needed, wait)


@pytest.mark.parametrize(
    ("limited", "state", "message", "kind"),
    [
        (
            claim(),
            standing(500_000, 499_900, 0, 812, 9 * 3600.0),
            ("Budget 'budget' of 500,000 tokens a day: this call needs at least 812 tokens and 499,900 are spent; "
            "it resets at 2027-01-16T00:00:00Z."),
            "insufficient_quota",
        ),
        (
            claim(window="hour"),
            standing(500_000, 1, 499_999, 812, 2.31),
            ("Budget 'budget' of 500,000 tokens an hour: this call needs at least 812 tokens, 1 is spent and 499,999 are "
            "reserved by calls that run now; retry in about 3 s."),
            None,
        ),
        (
            claim(800),
            standing(800, 10, 10, 812, None),
            ("Budget 'budget' of 800 tokens a day: this call needs at least 812 tokens, which is more than the whole "
            "limit: shorten the prompt or lower max_tokens."),
            "insufficient_quota",
        ),
        (
            claim(700, window="minute"),
            standing(700, 0, 0, 812, None),
            ("Budget 'budget' of 700 tokens a minute: this call needs at least 812 tokens, which is more than the whole "
            "limit: shorten the prompt."),
            "insufficient_quota",
        ),
        (
            claim(5_000_000, unit="usd", window="month"),
            standing(5_000_000, 4_999_999, 0, 1_200, 3600.0),
            ("Budget 'budget' of $5 a month: this call needs at least $0.0012 and $4.999999 is spent; "
            "it resets at 2027-01-16T00:00:00Z."),
            "insufficient_quota",
        ),
        (
            claim(window="minute"),
            standing(500_000, 499_900, 0, 812, 31.0),
            ("Budget 'budget' of 500,000 tokens a minute: this call needs at least 812 tokens and 499,900 are spent; "
            "it resets at 2027-01-16T00:00:00Z."),
            None,
        ),
    ],
)  # fmt: skip
def test_budget_names_the_numbers(limited: Claim, state: Standing, message: str, kind: str | None) -> None:
    """A budget's refusal says what is needed, spent and held, and what to do; clients that know `insufficient_quota` stop."""
    rejection = budget_refusal(limited, state)
    assert (rejection.status, rejection.code, rejection.message) == (429, "budget_exceeded", message)
    assert (rejection.error_type, rejection.final) == (kind, kind is not None)


async def test_refused_budget_reports_its_case() -> None:
    """A call is refused with the amounts of its budget, in dollars as fractions."""
    services = make_services(clock=FakeClock(MIDNIGHT))
    policy = Budget(name="b", usd=0.001, prices={"*": Price(1, 10)}, floor=10)
    await serve([policy], make_call("hi", services=services, body={"max_tokens": 90}))
    served = await serve([policy], make_call("x" * 3500, services=services, body={"max_tokens": 90}))

    assert served.rejection is not None
    details = served.rejection.details
    assert (details["case"], details["limit"], details["held"]) == ("never_fits", 0.001, 0)
    assert details["needed"] == pytest.approx(0.001104)
    assert served.rejection.retry_after is None


async def test_rate_names_its_wait() -> None:
    """A rate's refusal says when the next call is admitted."""
    services = make_services(clock=FakeClock(MIDNIGHT))
    policy = Rate(name="rpm", requests=1)
    await serve([policy], make_call("hi", services=services))
    rejection = (await serve([policy], make_call("hi", services=services))).rejection

    assert rejection is not None
    assert rejection.message == "Rate limit 'rpm' exceeded: 1 request in 60 s; retry in 60 s."
    assert (rejection.details["case"], rejection.details["held"], rejection.details["needed"]) == ("spent", 0, 1)
    assert (rejection.error_type, rejection.retry_after, rejection.final) == ("requests", 60, False)


async def test_too_large_request_reports_what_it_needs() -> None:
    """A request over `request` never fits: it has what it needs and the limit, and no wait."""
    with pytest.raises(Rejection) as refused:
        await MaxTokens(output=1000, request=1500, name="m").admit(make_call("x" * 2004))
    rejection = refused.value

    assert rejection.details == {"policy": "m", "limit": 1500, "needed": 1501, "case": "never_fits"}
    assert (rejection.retry_after, rejection.final) == (None, True)
    assert "may have 1,500 tokens in all, this one needs 1,501; shorten the prompt or lower max_tokens." in str(
        rejection
    )


@pytest.mark.parametrize(
    ("amount", "spent", "end"),
    [
        (11, 0, "needs at least 11 requests, which is more than the whole limit."),
        (6, 5, "needs at least 6 requests and 5 are spent; it resets at 2027-01-16T00:00:00Z."),
    ],
)
async def test_policy_of_a_deployment_has_a_message_by_default(amount: int, spent: int, end: str) -> None:
    """A lease that overrides no `refusal` has the numbers in its message."""

    class Images(Policy, frozen=True):
        amount: int = 5

        async def admit(self, call: Call) -> Lease:
            return ClaimLease(self.claim(call, self.amount, limit=10, window=Calendar("day")))

    services = make_services(clock=FakeClock(MIDNIGHT))
    if spent:
        await serve([Images(name="images", amount=spent)], make_call(services=services))
    rejection = (await serve([Images(name="images", amount=amount)], make_call(services=services))).rejection
    assert rejection is not None
    assert rejection.message == f"Limit 'images' of 10 requests: this call {end}"


@pytest.mark.parametrize(
    ("needed", "held", "case", "end"),
    [
        (120, 150, "held", "needs at least 120 tokens, 100 are granted beyond the limit and 150 are reserved by calls that run now."),
        (201, 0, "never_fits", "needs at least 201 tokens, which is more than the whole limit and the 100 granted beyond it: shorten the prompt."),
    ],
)  # fmt: skip
def test_granted_room_counts_in_refusals(needed: int, held: int, case: str, end: str) -> None:
    """Room granted beyond a limit (a negative `spent`) is named in the refusal, and a call that fits into it may fit later."""
    found = standing(100, -100, held, needed, None)
    assert (found.spent, found.case) == (-100, case)
    assert refusal_reason(claim(100, needed), found) == f"this call {end}"


def test_granted_room_is_left() -> None:
    """What is left of a limit with granted room is more than the limit: limit - spent - reserved."""
    assert standing(100, -50, 30, 0, None).left == 120


@pytest.mark.parametrize(
    ("unit", "amount", "text"),
    [
        ("tokens", 0, "0 tokens"),
        ("tokens", 1, "1 token"),
        ("tokens", 1_234_567, "1,234,567 tokens"),
        ("requests", 1, "1 request"),
        ("usd", 0, "$0"),
        ("usd", 1, "$0.000001"),
        ("usd", 1_500_000, "$1.5"),
        ("usd", 1_234_000_000, "$1,234"),
        ("usd", -1_500_000, "-$1.5"),
        ("tokens", -1_500, "-1,500 tokens"),
    ],
)
def test_amounts_are_written_with_their_unit(unit: Any, amount: int, text: str) -> None:
    """An amount has separators and its unit; dollars have as many decimals as they need."""
    assert amount_text(unit, amount) == text
