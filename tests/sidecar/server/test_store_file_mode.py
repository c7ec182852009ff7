"""A SQLite file that other users may read is named once at the start."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from process import program

SERVE = ("serve", "--upstream", "http://127.0.0.1:9/v1", "--port", "0", "--workers")


def served(folder: Path, workers: str) -> str:
    """Start and stop a sidecar in *folder*; return what it wrote to stderr."""
    log = folder / "log"
    with program(*SERVE, workers, folder=folder, log=log) as sidecar:
        assert sidecar.line.startswith("sidecar listening on ")
        assert sidecar.stop() == 0
    return log.read_text()


@pytest.mark.parametrize("workers", ["1", "3"])
def test_readable_file_is_named_once(tmp_path: Path, workers: str) -> None:
    """A file with a wide mode causes one warning with the command that repairs it, and keeps its mode."""
    path = tmp_path / "sidecar.db"
    path.touch()
    path.chmod(0o644)
    warning = f"sidecar: warning: store.url: other users may read {path} (mode 0644)"

    log = served(tmp_path, workers)

    assert log.count("warning: store.url") == 1
    assert warning in log
    assert f"run `chmod 600 {path}*`" in log
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


def test_new_file_causes_no_warning(tmp_path: Path) -> None:
    """A new file is private from the start, so there is no warning."""
    before = os.umask(0)
    try:
        log = served(tmp_path, "3")
    finally:
        os.umask(before)

    assert "store.url" not in log
    assert stat.S_IMODE((tmp_path / "sidecar.db").stat().st_mode) == 0o600
