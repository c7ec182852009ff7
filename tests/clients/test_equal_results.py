"""Unmodified clients see the same direct and through the sidecar, and upstream gets the same requests."""

from __future__ import annotations

import json

from case import Case
from contract import requests_differ, verdict
from sides import Played


def test_application_sees_the_same(played: Played, case: Case) -> None:
    """What the application sees is equal on both ways, or different as the contract says."""
    direct, through = (side.outcomes[case.name].seen for side in (played.direct, played.through))

    if verdict(case, played.direct, played.through) == "different":
        assert through == direct


def test_upstream_gets_the_same_requests(played: Played, case: Case) -> None:
    """Upstream gets the same requests on both ways, but for the documented additions, and as many."""
    direct, through = (side.outcomes[case.name] for side in (played.direct, played.through))

    assert requests_differ(played.client, case, direct, through) == ""


def test_case_shows_what_it_is_for(played: Played, case: Case) -> None:
    """The client succeeds or fails as the case expects, and the expected text arrives."""
    for side, fails in zip((played.direct, played.through), case.fails, strict=True):
        seen = side.outcomes[case.name].seen
        failed = "error" in seen
        assert fails in (None, failed), seen
        if not (fails is None and failed):
            assert case.shows in json.dumps(seen, ensure_ascii=False)
