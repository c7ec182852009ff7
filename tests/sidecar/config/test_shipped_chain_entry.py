"""`use = "defaults"`: the shipped chain and profiles among the policies of a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from checked_files import lines, loaded

from sidecar.config.loader import default_text, load
from sidecar.config.settings import Flags, Settings

DEFAULTS = "[[policy]]\nuse = 'defaults'\n"
OWN_RATE = "[[policy]]\nuse = 'rate'\nname = 'burst'\nrequests = 3\nwindow = 1\n"
SHIPPED = ["rate", "trim", "max_tokens", "budget", "fallback", "retry"]
CHANGE = "to change a shipped policy, write the chain that `sidecar config` prints instead"


def chain(settings: Settings, profile: str = "") -> list[str]:
    return [policy.name for policy in (settings.profiles[profile] if profile else settings.base).policies]


def policy_of(settings: Settings, profile: str, name: str) -> Any:
    return next(policy for policy in settings.profiles[profile].policies if policy.name == name)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        (DEFAULTS, SHIPPED),
        (DEFAULTS + OWN_RATE, [*SHIPPED, "burst"]),
        (OWN_RATE + DEFAULTS, ["burst", *SHIPPED]),
        (OWN_RATE + DEFAULTS + OWN_RATE.replace("burst", "last"), ["burst", *SHIPPED, "last"]),
    ],
)
def test_shipped_chain_is_at_its_place(tmp_path: Path, text: str, names: list[str]) -> None:
    """The shipped policies stand in place of the entry, in every shipped profile too, with their own options."""
    settings = loaded(tmp_path, text)
    shipped = load(None, environ={}, flags=Flags(), need_upstream=False)

    assert list(settings.profiles) == list(shipped.profiles)
    assert [chain(settings), *(chain(settings, profile) for profile in settings.profiles)] == [names] * 4
    assert [policy for policy in settings.base.policies if policy.name in SHIPPED] == list(shipped.base.policies)
    assert policy_of(settings, "balanced", "budget") == policy_of(shipped, "balanced", "budget")
    assert settings.profiles["balanced"].temperature == shipped.profiles["balanced"].temperature


def test_profiles_of_the_file_join_the_shipped_ones(tmp_path: Path) -> None:
    """A profile of the file replaces the shipped one of its name, and a new one joins; both can tighten added policies."""
    text = (
        DEFAULTS + OWN_RATE + "[profile.Balanced]\nburst = { requests = 2 }\n[profile.guest]\nrate = { requests = 1 }\n"
    )
    settings = loaded(tmp_path, text)

    assert sorted(settings.profiles) == ["balanced", "constrained", "expanded", "guest"]
    assert policy_of(settings, "balanced", "burst").requests == 2
    assert policy_of(settings, "balanced", "rate").requests == 60
    assert policy_of(settings, "constrained", "rate").requests == 15
    assert policy_of(settings, "guest", "rate").requests == 1


def test_limits_of_keys_apply_to_the_shipped_chain(tmp_path: Path) -> None:
    """A key may have limits of its own for shipped policies and for added ones."""
    key = f"[[key]]\ntenant = 'a'\nsha256 = '{'0' * 64}'\nlimits = {{ budget = {{ tokens = 9 }}, burst = {{ requests = 5 }} }}\n"
    (access,) = loaded(tmp_path, key + DEFAULTS + OWN_RATE).keys

    assert [policy.tokens for policy in access.base.policies if policy.name == "budget"] == [9]  # type: ignore[attr-defined]  # a field of the built-in policy
    assert [policy.requests for policy in access.base.policies if policy.name == "burst"] == [5]  # type: ignore[attr-defined]  # a field of the built-in policy


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (DEFAULTS + "only = { path = '/v1/*' }\n", f'policy[0].only: cannot be set beside `use = "defaults"`, which stands for several policies; remove it; {CHANGE}'),
        (DEFAULTS + "name = 'shipped'\n", f'policy[0].name: cannot be set beside `use = "defaults"`, which stands for several policies; remove it; {CHANGE}'),
        (DEFAULTS + OWN_RATE + DEFAULTS, 'policy[2]: `use = "defaults"` is already at policy[0]; remove one of the two'),
        (DEFAULTS + "[[policy]]\nuse = 'budget'\ntokens = 9\n", f"policy[1]: 'budget' is already the name of a shipped policy, which policy[0] (`use = \"defaults\"`) adds; set a different `name`; {CHANGE}"),
        ("[[policy]]\nuse = 'budget'\ntokens = 9\n" + DEFAULTS, f"policy[0]: 'budget' is already the name of a shipped policy, which policy[1] (`use = \"defaults\"`) adds; set a different `name`; {CHANGE}"),
        ("[[policy]]\nuse = 'retry'\nname = 'mine'\n" + DEFAULTS, "policy[1]: has no effect: the earlier policy 'mine' decides every failure; move policy[0] below `use = \"defaults\"`, whose fallback it precedes"),
        (DEFAULTS + "[[policy]]\nuse = 'fallback'\nname = 'mine'\n", "policy[1]: has no effect: the earlier policy 'retry' decides every failure; move the fallback above policy[0]"),
        (DEFAULTS + "[[policy]]\nuse = 'trim'\nname = 'short'\nmax_messages = 0\n", "policy[1].max_messages: invalid value 0: expected a whole number >= 1; see `sidecar config` for an example"),
        (DEFAULTS + "[profile.balanced]\nbudget = { tokens = 600_000 }\n", "profile.balanced.budget.tokens: 600000 is looser than the base chain; profiles can only tighten a limit: use at most 500000"),
        ("[[policy]]\nuse = 'default'\n", "policy[0].use: cannot use 'default': unknown policy; did you mean 'defaults'?"),
    ],
)  # fmt: skip
def test_fault(tmp_path: Path, text: str, line: str) -> None:
    """Options beside it, a second one, and duplicates of shipped names are refused with the cure."""
    assert lines(tmp_path, text) == [f"F: {line}"]


def test_printed_configuration_with_one_change(tmp_path: Path) -> None:
    """The documented way to change a shipped policy: the printed configuration with the new value."""
    settings = loaded(tmp_path, default_text().replace("tokens = 500_000", "tokens = 900_000"))
    assert [policy.tokens for policy in settings.base.policies if policy.name == "budget"] == [900_000]  # type: ignore[attr-defined]  # a field of the built-in policy
    assert policy_of(settings, "balanced", "budget").tokens == 70_000
