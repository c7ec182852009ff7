"""The modules of the folder `examples`."""

from __future__ import annotations

import importlib.util
from typing import Any

from places import ROOT


def example(name: str) -> Any:
    """Import and return the example *name*."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
