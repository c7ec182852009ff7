"""What mypy says of policies: right code passes in strict mode, and mistakes are found where they stand."""

from __future__ import annotations

import re

import pytest
from mypy import api
from places import ROOT

CASES = ROOT / "tests" / "typing" / "cases"
MARK = re.compile(r"# error: ([a-z-]+)$")


def checked(name: str, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, str]]:
    """Return line and code of each error in the file *name*."""
    monkeypatch.chdir(ROOT)
    found, faults, _ = api.run(["--strict", "--no-error-summary", "--show-error-codes", str(CASES / name)])
    assert faults == ""
    matches = [re.match(r"(.+?):(\d+): error: .* \[([a-z-]+)\]$", line) for line in found.splitlines()]
    errors = [match for match in matches if match is not None]
    assert all(match[1].endswith(f"cases/{name}") for match in errors), found
    return list(dict.fromkeys((int(match[2]), match[3]) for match in errors))


def test_correct_user_code_type_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every part of the API is typed: code that uses it needs no cast and no ignore."""
    assert checked("accepted.py", monkeypatch) == []


def test_mistakes_of_users_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each marked line has the error of its code, and no other line has any."""
    lines = (CASES / "rejected.py").read_text().splitlines()
    marked = [(number, match[1]) for number, line in enumerate(lines, 1) if (match := MARK.search(line))]

    assert checked("rejected.py", monkeypatch) == marked
    assert len(marked) > 15
