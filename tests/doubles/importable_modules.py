"""A folder with modules that a configuration in it can import."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

import pytest


def folder_with_modules(folder: Path, monkeypatch: pytest.MonkeyPatch, modules: Mapping[str, str]) -> Path:
    """Write the text of each of *modules* into *folder* and return it; imports are undone by *monkeypatch*."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    for name, text in modules.items():
        (folder / f"{name}.py").write_text(text)
        monkeypatch.setitem(sys.modules, name, None)
        monkeypatch.delitem(sys.modules, name)
    return folder
