"""The help of the program and of its commands: usage, environment variables, defaults and policies."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest
from places import ROOT

from sidecar.cli import main as cli
from sidecar.config.policies import BUILT_IN, ENTRY_POINT_GROUP
from sidecar.config.settings import ServerSettings


def printed_help(capsys: pytest.CaptureFixture[str], *command: str) -> str:
    assert cli.main([*command, "--help"]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize(
    "command",
    [
        ["serve"],
        ["demo"],
        ["mock"],
        ["config"],
        ["check"],
        ["usage"],
        ["budget", "reset"],
        ["budget", "grant"],
        ["key", "new"],
        ["key", "rotate"],
        ["key", "list"],
    ],
)
def test_help_of_a_command_is_complete(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Each command's help has its usage, examples, environment variables and exit codes, and fits 110 columns."""
    text = printed_help(capsys, *command)

    assert text.startswith(f"usage: sidecar {' '.join(command)} ")
    for part in (f"\nexamples:\n  sidecar {' '.join(command)}", "\nenvironment variables", "\nexit codes:\n  0 "):
        assert part in text
    assert max(map(len, text.splitlines())) <= 110


def test_help_lists_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    """The program's help names every command."""
    text = printed_help(capsys)

    for command in ("serve", "demo", "mock", "config", "check", "usage", "budget", "key"):
        assert re.search(rf"^    {command} +\S", text, re.MULTILINE), command


@pytest.mark.parametrize("command", [[], ["serve"], ["check"], ["usage"]])
def test_help_names_every_environment_variable(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Help names every variable that the configuration reads, and which source takes precedence."""
    text = printed_help(capsys, *command)
    source = "".join(path.read_text() for path in (ROOT / "sidecar").rglob("*.py") if path.name != "help_text.py")
    variables = set(re.findall(r'"((?:SIDECAR|OPENAI)_[A-Z_]+)"', source))

    assert variables == set(re.findall(r"^  ((?:SIDECAR|OPENAI)_[A-Z_]+) ", text, re.MULTILINE))
    assert "a flag overrides its variable, which overrides the file" in text


def test_help_shows_the_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    """Help of `serve` and `mock` shows the default of every flag; the ones of `serve` are those of the settings."""
    serve, mock = (re.sub(r"\s+", " ", printed_help(capsys, command)) for command in ("serve", "mock"))
    settings = ServerSettings()

    for flag in ("--config", "--upstream", "--model", "--host", "--port", "--workers"):
        assert re.search(rf"  ?{flag} [A-Z]+ [^-]*\(default: ", serve), flag
    assert f"(default: {settings.host})" in serve
    assert f"(default: {settings.port})" in serve
    for default in ("127.0.0.1", 8788, 64, 0):
        assert f"(default: {default})" in mock


@pytest.mark.parametrize("command", [[], ["serve"], ["config"], ["check"]])
def test_help_lists_the_policies(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Help lists each built-in policy with the first line of its documentation."""
    text = re.sub(r"\s+", " ", printed_help(capsys, *command))

    for name, policy in BUILT_IN.items():
        assert f" {name} {(policy.__doc__ or '').partition(chr(10))[0]}" in text


def test_help_lists_installed_policies(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Help lists installed policies; one that cannot be imported is shown with its error."""
    dist = tmp_path / "help_policies-1.dist-info"
    dist.mkdir()
    (dist / "METADATA").write_text("Metadata-Version: 2.1\nName: help-policies\nVersion: 1\n")
    points = "quiet = help_policy:Quiet\nbroken = help_policy_missing:X\n"
    (dist / "entry_points.txt").write_text(f"[{ENTRY_POINT_GROUP}]\n{points}")
    (tmp_path / "help_policy.py").write_text('class Quiet:\n    """Refuse shouting."""\n')
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    text = re.sub(r"\s+", " ", printed_help(capsys))

    assert " quiet Refuse shouting. (installed: help_policy:Quiet)" in text
    assert " broken cannot be imported: ModuleNotFoundError: No module named 'help_policy_missing'" in text
