"""Configuration files: policy modules beside them, the settings that they give, and the lines of their faults."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sidecar.config.loader import load
from sidecar.config.settings import Flags, Settings
from sidecar.config.tables import ConfigError

HERE = "http://127.0.0.1:1/v1"
POLICY_MODULE = """
from typing import TYPE_CHECKING

from policies import Call, Policy, RunningPolicy, Services

if TYPE_CHECKING:
    from decimal import Decimal


class Empty(Policy, frozen=True):
    async def _admit(self, call: Call) -> None:
        pass


class Runs(Policy, frozen=True):
    runs_once = False
    least: int = 1
    most: int = 9

    def __post_init__(self) -> None:
        if self.least > self.most:
            raise ValueError(f"least: {self.least} is more than most; lower it")

    def start(self, services: Services) -> RunningPolicy:
        return RunningPolicy()


class Vague(Policy, frozen=True):
    price: "Decimal"

    async def admit(self, call: Call) -> None:
        pass
"""
POLICY_MODULES = {"check_rules": POLICY_MODULE, "check_broken": "x = 1 / 0", "check_syntax": "def"}


def loaded(folder: Path, text: str, environ: dict[str, str] | None = None, **flags: Any) -> Settings:
    """Return the settings of a file with *text*; its upstream is `HERE` unless *flags* name another."""
    (folder / "s.toml").write_text(text)
    flags.setdefault("upstream", HERE)
    return load(folder / "s.toml", environ=environ or {}, flags=Flags(**flags))


def lines(folder: Path, text: str, environ: dict[str, str] | None = None, **flags: Any) -> list[str]:
    """Return the lines of the faults of a file with *text*."""
    with pytest.raises(ConfigError) as found:
        loaded(folder, text, environ, **flags)
    return [fault.line("F").replace(str(folder), "FOLDER") for fault in found.value.faults]
