"""A start that fails names its cause."""

from __future__ import annotations

from pathlib import Path

import pytest
from process import ran

POLICY = """
from policies import Policy


class NoTable(Policy, frozen=True):
    def start(self, services):
        raise ValueError("the table FOO is missing; run make foo")
"""


@pytest.mark.parametrize("form", ["text", "json"])
def test_start_names_why_a_policy_cannot_run(tmp_path: Path, form: str) -> None:
    """A server whose policy does not start fails; its log has the cause in one line."""
    (tmp_path / "mine.py").write_text(POLICY)
    (tmp_path / "c.toml").write_text(
        f'[store]\nurl = "memory://"\n[log]\nformat = "{form}"\n[[policy]]\nuse = "mine:NoTable"\n'
    )
    arguments = ("serve", "--config", "c.toml", "--upstream", "http://127.0.0.1:9/v1", "--model", "m", "--port", "0")
    code, out, err = ran(*arguments, folder=tmp_path)

    cause = "cannot start: ValueError: the table FOO is missing; run make foo"
    assert code != 0
    assert "listening" not in out
    assert any(cause in line for line in err.splitlines())
