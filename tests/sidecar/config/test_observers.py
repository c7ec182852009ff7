"""Observers that cannot receive records are refused, by `check` or at the start, with what to do."""

from __future__ import annotations

from pathlib import Path

import pytest
from process import ran

MODULE = """
from policies import Observer


class Coroutine(Observer, frozen=True):
    async def observe(self, record):
        pass


class Nothing(Observer, frozen=True):
    def start(self):
        return None


class Neither(Observer, frozen=True):
    def obsrve(self, record):
        pass


class Running:
    async def observe(self, record):
        pass

    async def close(self):
        pass


class StartsCoroutine(Observer, frozen=True):
    def start(self):
        return Running()


class Raises(Observer, frozen=True):
    def start(self):
        raise ValueError("no collector at foo:1")
"""


def configured(folder: Path, name: str) -> tuple[str, ...]:
    """Write a configuration with one observer; return the arguments that name it."""
    (folder / "seen.py").write_text(MODULE)
    upstream = '[[upstream]]\nbase_url = "http://127.0.0.1:9/v1"\nmodel = "m"\n'
    (folder / "c.toml").write_text(f'[store]\nurl = "memory://"\n{upstream}[[observer]]\nuse = "seen:{name}"\n')
    return ("--config", "c.toml")


@pytest.mark.parametrize(
    ("name", "problem", "cure"),
    [
        ("Coroutine", "observe is a coroutine and is never awaited", "write `def observe`, without async"),
        ("Neither", "the class overrides neither observe nor start", "override observe, or start"),
    ],
)
def test_check_refuses_an_observer_that_cannot_receive_records(
    tmp_path: Path, name: str, problem: str, cure: str
) -> None:
    """`check` names the observer, what is wrong with it, and what to do."""
    code, out, err = ran("check", *configured(tmp_path, name), folder=tmp_path)

    assert code == 2
    assert "observer[0].use" in out + err
    assert problem in out + err
    assert cure in out + err


@pytest.mark.parametrize(
    ("name", "cause"),
    [
        ("Nothing", "Nothing.start returned a NoneType; return an object with `def observe` and `async def close`"),
        ("StartsCoroutine", "StartsCoroutine.start returned a Running; return an object with `def observe`"),
        ("Raises", "ValueError: no collector at foo:1"),
    ],
)
def test_start_names_why_an_observer_cannot_run(tmp_path: Path, name: str, cause: str) -> None:
    """A server whose observer does not start ends with exit code 2; its log has the cause in one line."""
    code, out, err = ran("serve", *configured(tmp_path, name), "--port", "0", folder=tmp_path)

    assert code == 2
    assert "listening" not in out
    assert [line for line in err.splitlines() if "cannot start: " in line and cause in line] != []
