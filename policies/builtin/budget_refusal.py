"""The refusal of a budget, with the numbers that tell what to do."""

from __future__ import annotations

from policies.api.claim import Claim, amount_text
from policies.api.lease import refusal_reason
from policies.api.rejection import Rejection
from policies.api.store import Standing
from policies.api.window import Calendar, Period, resets_soon

ARTICLES_OF_PERIODS: dict[Period, str] = {"hour": "an"}
"""Articles in front of periods, if not `a`."""


def budget_refusal(claim: Claim, standing: Standing) -> Rejection:
    """Return the 429 for a budget that has no room for the smallest form of a call.

    Clients that know OpenAI's type `insufficient_quota` stop. So it is sent only if waiting for seconds does not help: the
    call never fits, or a budget of more than a minute is spent.
    """
    window = claim.window
    assert isinstance(window, Calendar)  # for the type: a budget has no other windows
    amount = f"{amount_text(claim.unit, claim.limit)} {ARTICLES_OF_PERIODS.get(window.period, 'a')} {window.period}"
    final = standing.case == "never_fits" or (standing.case == "spent" and not resets_soon(window))
    msg = f"Budget {claim.policy!r} of {amount}: {refusal_reason(claim, standing)}"
    kind = "insufficient_quota" if final else None
    return Rejection(429, "budget_exceeded", msg, error_type=kind, final=final)
