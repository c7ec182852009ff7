"""Notes that the built-in policies add to a call."""

from __future__ import annotations

import pytest

from policies import Budget, MaxTokens, Trim
from policies.testing import make_call, serve

pytestmark = pytest.mark.anyio


async def test_built_in_policies_note_their_changes() -> None:
    """Trim, max_tokens and budget add a note for each change, and none without a change."""
    messages = [{"role": "user", "content": "hi"}] * 5
    call = make_call(messages=messages, body={"max_tokens": 100})
    await serve([Trim(name="t", max_messages=2), MaxTokens(name="m", output=50), Budget(name="b", tokens=80)], call)
    assert call.notes == [
        "kept 2 of 5 messages",
        "lowered the answer's ceiling from 100 to 50 tokens",
    ]

    call = make_call("hi", body={"max_tokens": 100})
    await serve([Budget(name="b", tokens=80)], call)
    assert call.notes == ["lowered the answer's ceiling from 100 to 75 tokens, which the limits have left"]

    call = make_call("hi", body={"max_tokens": 10})
    await serve([Trim(name="t", max_messages=2), MaxTokens(name="m", output=50), Budget(name="b", tokens=80)], call)
    assert call.notes == []

    call = make_call("hi")
    await serve([Budget(name="b", tokens=80_000, reserve="bound")], call)
    assert call.notes == ["set the answer's ceiling to 2048 tokens"]
