"""Refuse modules beside the configuration that hide this program's own packages."""

from __future__ import annotations

from pathlib import Path

from .tables import ConfigFault

OWN_PACKAGES = ("policies", "sidecar")


def check_module_names(folder: Path, faults: list[ConfigFault]) -> None:
    """Add a fault for each file in *folder* with the name of one of our packages: Python imports one of the two, not both."""
    for package in OWN_PACKAGES:
        name = f"{package}.py"
        if (folder / name).is_file():
            problem = f"{name} beside the configuration has the name of a package that policies import"
            faults.append(ConfigFault("policy", problem, f"rename {name}, for example to my_{name}"))
