"""Policies and profiles of a configuration: what is accepted, where classes are imported from, and faults."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest
from checked_files import POLICY_MODULE, POLICY_MODULES, lines, loaded
from importable_modules import folder_with_modules

from sidecar.config.named_objects import ObjectFault
from sidecar.config.policies import ENTRY_POINT_GROUP, policy_class


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with policy modules; imports from it are undone after the test."""
    return folder_with_modules(tmp_path, monkeypatch, POLICY_MODULES)


@pytest.mark.parametrize(
    "text",
    [
        "[[policy]]\nuse = 'fallback'\n[[policy]]\nuse = 'retry'\n",
        "[[policy]]\nuse = 'retry'\nonly = { path = '/api/chat' }\n[[policy]]\nuse = 'fallback'\n",
        "[[policy]]\nuse = 'retry'\nonly = { model = 'a' }\n[[policy]]\nuse = 'fallback'\nonly = { path = '/v1/*' }\n",
    ],
)
def test_fallback_after_retry_for_other_calls(folder: Path, text: str) -> None:
    """A fallback may follow a retry that applies to other calls only."""
    assert len(loaded(folder, text).base.policies) == 2


def test_retry_accepts_failure_kinds_before_output(folder: Path) -> None:
    """`on` accepts every failure class that occurs before output, every failure status and any code."""
    some = ["timeout", "unavailable", "quota", "empty", "status:204", "status:302", "status:599", "code:x"]
    (retry,) = loaded(folder, f"[[policy]]\nuse = 'retry'\non = {some}").base.policies

    assert retry.on == tuple(some)  # type: ignore[attr-defined]  # a field of the built-in policy


def test_policy_with_a_fault_is_not_absent(folder: Path) -> None:
    """Overriding a policy that has a fault of its own is not reported as a second fault."""
    text = "[[policy]]\nuse = 'trim'\nmax_messages = 0\n[profile.x]\ntrim = { max_messages = 3 }"

    assert [line.split(": ")[1] for line in lines(folder, text)] == ["policy[0].max_messages"]


def test_profile_may_add_a_limit(folder: Path) -> None:
    """A profile may set a limit that the base chain lacks, and any field that is not a limit."""
    text = "[[policy]]\nuse = 'max_tokens'\noutput = 9\n[[policy]]\nuse = 'retry'\n[profile.x]\nmax_tokens = { request = 999_999 }\nretry = { patience = 99 }\n"  # fmt: skip
    _, retry = loaded(folder, text).profiles["x"].policies

    assert loaded(folder, text).profiles["x"].policies[0].request == 999_999  # type: ignore[attr-defined]  # a field of the built-in policy
    assert retry.patience == 99  # type: ignore[attr-defined]  # a field of the built-in policy


def test_policy_with_a_running_object_only(folder: Path) -> None:
    """A policy class may override no hook itself if it returns a running object that does."""
    assert policy_class("check_rules:Runs", folder).__name__ == "Runs"


def test_installed_modules_take_precedence(folder: Path) -> None:
    """A module beside the file never shadows an installed one."""
    (folder / "json.py").write_text("class Dumps: ...")
    with pytest.raises(ObjectFault):
        policy_class("json:Dumps", folder)

    assert sys.path[-1] == str(folder)


def test_entry_point(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installed policy is found by its entry point name and imported only if it is used."""
    dist = folder / "more_rules-1.dist-info"
    dist.mkdir()
    (dist / "METADATA").write_text("Metadata-Version: 2.1\nName: more-rules\nVersion: 1\n")
    (dist / "entry_points.txt").write_text(f"[{ENTRY_POINT_GROUP}]\nruns = check_rules:Runs\nbad = check_broken:X\n")
    monkeypatch.syspath_prepend(str(folder))
    importlib.invalidate_caches()
    settings = loaded(folder, "[[policy]]\nuse = 'runs'\nleast = 3")

    assert [(policy.name, type(policy).__name__) for policy in settings.base.policies] == [("runs", "Runs")]
    assert lines(folder, "[[policy]]\nuse = 'bad'")[0].endswith("ZeroDivisionError: division by zero; fix the module")


def test_profile_names_ignore_case(folder: Path) -> None:
    """Profile names ignore case and spaces; a profile without a table is the base chain."""
    settings = loaded(folder, "[profile.'My Own']\ntemperature = 1")

    assert settings.default_access.profile(" my own ").temperature == 1
    assert settings.default_access.profile("balanced").name == "balanced"
    assert settings.default_access.profile("nope") is settings.default_access.profile("") is settings.base


def test_upstream_models_need_prices(folder: Path) -> None:
    """A budget in dollars needs a price for each model name configured at an upstream."""
    text = "[[upstream]]\nbase_url = 'http://h/v1'\nmodel = 'a'\nmodels = { a = 'b', c = 'd' }\n"
    text += "[[policy]]\nuse = 'budget'\nusd = 1\n[prices.d]\ninput = 1\noutput = 1\n"

    cure = 'add [prices."b"] with input and output, in dollars per million tokens'
    assert lines(folder, text, upstream=None) == [
        f"F: prices: no price for model 'b', which the budget 'budget' needs; {cure}"
    ]


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ("    async def admitt(self, call): ...", "Rules.admitt is never called; did you mean admit?"),
        ("    def admit(self, call): ...", "Rules.admit is awaited; write `async def admit`"),
        ("    async def retry(self, call, failure): ...", "Rules.retry is called without await; write `def retry`, without async"),
        ("    def open(self, services): ...", "Rules.open is never called; it is now called start"),
        ("    lowers = ('x',)\n    async def admit(self, call): ...", "Rules.lowers has no effect; it is now called tightened_by_profiles"),
    ],
)  # fmt: skip
def test_mistakes_of_a_policy_class(folder: Path, body: str, problem: str) -> None:
    """A wrong method is a fault of the policy's `use`, with the cure."""
    (folder / "check_rules.py").write_text(f"from policies import Policy\nclass Rules(Policy, frozen=True):\n{body}\n")
    (line,) = lines(folder, "[[policy]]\nuse = 'check_rules:Rules'")

    assert line.startswith("F: policy[0].use: ")
    assert problem in line


def test_one_running_object_for_all_profiles(folder: Path) -> None:
    """A policy that runs once for all profiles cannot have other options in one of them."""
    rules = POLICY_MODULE.replace("    runs_once = False\n", "")
    (folder / "check_rules.py").write_text(rules)
    text = "[[policy]]\nuse = 'check_rules:Runs'\n[profile.x]\nRuns = { most = 3 }"
    (line,) = lines(folder, text)

    assert line.startswith("F: profile.x.Runs.most: cannot differ between profiles")
    assert "they share one running object: set it in [[policy]] instead, or give " in line
    assert line.endswith("runs_once = False")


@pytest.mark.parametrize("name", ["policies.py", "sidecar.py"])
def test_files_with_our_names(folder: Path, name: str) -> None:
    """A file beside the configuration that has the name of one of our packages is refused, with the cure."""
    (folder / name).write_text("")
    (line,) = lines(folder, "[[policy]]\nuse = 'rate'\nrequests = 1")

    assert line.startswith(f"F: policy: {name} beside the configuration has the name of a package")
    assert f"rename {name}, for example to my_{name}" in line
