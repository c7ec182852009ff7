"""The policy `max_tokens`."""

from __future__ import annotations

from typing import Any

import pytest

from policies import Caps, MaxTokens, Rejection
from policies.testing import make_call

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    ("body", "after", "imposed"),
    [
        ({}, {"max_tokens": 50}, True),
        ({"max_tokens": None}, {"max_tokens": 50}, True),
        ({"max_tokens": 20}, {"max_tokens": 20}, False),
        ({"max_tokens": 80}, {"max_tokens": 50}, False),
        ({"max_completion_tokens": 80}, {"max_completion_tokens": 50}, False),
        ({"max_tokens": 80, "max_completion_tokens": 99}, {"max_tokens": 50, "max_completion_tokens": 50}, False),
        ({"max_tokens": 30, "max_completion_tokens": 99}, {"max_tokens": 30, "max_completion_tokens": 99}, False),
    ],
)
async def test_ceiling_is_clamped_in_the_clients_field(
    body: dict[str, Any], after: dict[str, Any], *, imposed: bool
) -> None:
    """The ceiling is clamped in the field that the client uses; of two fields the lower value counts."""
    call = make_call("hi", body=body)
    await MaxTokens(output=50).admit(call)

    assert {key: value for key, value in call.body.items() if key.startswith("max_")} == after
    assert call.ceiling_is_ours is imposed


@pytest.mark.parametrize(("characters", "n", "cap", "fits"), [(200, 1, None, True), (201, 1, None, False), (0, 2, None, True), (4, 2, None, False), (4, 1, 51, True), (5, 1, 51, False)])  # fmt: skip
async def test_request_over_the_limit_is_refused(characters: int, n: int, cap: int | None, *, fits: bool) -> None:
    """A quarter of the characters, rounded up, plus n answers must fit `request`, or a lower cap of the client."""
    call = make_call("x" * characters, body={"n": n}, caps=Caps(request_tokens=cap))
    policy = MaxTokens(output=50, request=100, name="m")
    if fits:
        await policy.admit(call)
    else:
        with pytest.raises(Rejection) as refused:
            await policy.admit(call)
        assert (refused.value.code, refused.value.details["limit"]) == ("request_too_large", cap or 100)
