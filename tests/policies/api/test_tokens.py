"""Estimates of tokens."""

from __future__ import annotations

import pytest

from policies.api.tokens import Estimator, Size, streamed_tokens


@pytest.mark.parametrize(
    ("text", "tokens"),
    [("a", 1), (" internation", 1), ("x" * 13, 4), ("x" * 40, 10), ("\U0001f642" * 12, 12), ("\U0001f642", 1)],
)
def test_short_piece_is_one_token(text: str, tokens: int) -> None:
    """A streamed piece counts as one token, unless it is too long for one."""
    assert streamed_tokens(text) == tokens


def test_estimate_follows_reported_usage() -> None:
    """The estimate of a model follows reported usage slowly and within bounds; small prompts and old models are ignored."""
    estimator, size = Estimator(), Size(3500, 1)
    assert estimator.estimate("m", size) == 1004
    for _ in range(100):
        estimator.learn("m", size, 2004)
    assert 1900 < estimator.estimate("m", size) <= 2004
    assert estimator.estimate("other", size) == 1004
    for _ in range(100):
        estimator.learn("wild", size, 10**9)
    assert estimator.estimate("wild", size) <= 3504
    estimator.learn("tiny", Size(10, 1), 500)
    assert estimator.estimate("tiny", size) == 1004
    for at in range(1000):
        estimator.learn(f"m{at}", size, 2004)
    corrected = [at for at in range(1000) if estimator.estimate(f"m{at}", size) != 1004]
    assert corrected == list(range(1000 - Estimator.MAX_MODELS, 1000))
