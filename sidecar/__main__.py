"""Run the command line with `python -m sidecar`.

Python puts the working directory in front of the import path, so any file there could take the place of a module. That entry
is removed before the first import. Python itself looks there earlier, for this package and for some modules of its own
library; only `python -P -m sidecar` and the command `sidecar` prevent that. The imports below are of modules that Python has
loaded by then, so this module has no `from __future__`, which is a file too.
"""

import os
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

OWN_FOLDER = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))  # noqa: PTH100, PTH120  # `pathlib` may be a file there
"""The folder of the packages of the program: of the installed ones, or a checkout."""
OWN_PACKAGES = ("policies", "sidecar")


class OwnPackages:
    """Finds the packages of the program in its own folder, and no other module there."""

    @staticmethod
    def find_spec(
        name: str,
        path: Sequence[str] | None = None,  # noqa: ARG004  # the form of `sys.meta_path`
        target: ModuleType | None = None,
    ) -> ModuleSpec | None:
        """Return the spec of one of the packages; None for every other name."""
        return PathFinder.find_spec(name, [OWN_FOLDER], target) if name in OWN_PACKAGES else None


def leave_working_directory() -> None:
    """Remove the working directory from the front of the import path, where `-m` has put it.

    In a checkout that is not installed the packages are in the working directory: they alone are still found there.
    """
    try:
        here = os.getcwd()  # noqa: PTH109  # as above
    except OSError:  # the folder was deleted
        here = ""
    if not sys.flags.safe_path and sys.path[:1] in ([here], [""]):
        del sys.path[0]
    if OWN_FOLDER not in sys.path:
        sys.meta_path.insert(0, OwnPackages)


if __name__ == "__main__":
    leave_working_directory()

    from sidecar.cli.main import main

    sys.exit(main())
