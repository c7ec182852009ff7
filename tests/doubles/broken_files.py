"""Files and file systems that SQLite cannot use, made for real: permissions, full and read-only mounts, damaged pages."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

NOBODY = 65_534
"""The user id of a user without rights. Root may read and write everything, so tests of permissions run as this user."""
PAGE_BYTES = 2_048


@contextmanager
def open_folder() -> Iterator[Path]:
    """Give a new folder that every user may enter; pytest's own are private to their user."""
    with tempfile.TemporaryDirectory(prefix="sidecar-") as name:
        Path(name).chmod(0o777)
        yield Path(name)


@contextmanager
def without_rights() -> Iterator[None]:
    """Run the block as a user without rights, if this process is root."""
    if os.geteuid() != 0:
        yield
        return
    os.setegid(NOBODY)
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)


@contextmanager
def mounted(folder: Path, options: str) -> Iterator[Path]:
    """Give a file system in memory, mounted below *folder* with *options*; skip the test where that is not permitted."""
    path = folder / "mounted"
    path.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(path)], check=False, capture_output=True)
    if done.returncode:
        pytest.skip("mounting a file system is not permitted")
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)


def remount(path: Path, options: str) -> None:
    """Change the options of the file system at *path*."""
    subprocess.run(["mount", "-o", f"remount,{options}", str(path)], check=True)


def fill(folder: Path) -> Path:
    """Use up all room of the file system of *folder*; return the file to delete afterwards."""
    path = folder / "filling"
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        for size in (4_096, 1):
            with contextlib.suppress(OSError):
                while file.write(b"x" * size):
                    pass
    return path


def overwrite(path: Path, start: int, length: int) -> None:
    """Replace *length* bytes of the file at *path* by bytes that mean nothing."""
    with path.open("r+b") as file:
        file.seek(start)
        file.write(b"\xa5" * length)


def result_in_child(code: str, *arguments: str) -> str:
    """Return what the Python *code* prints in a process of its own, whose limits it may lower."""
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], check=True, capture_output=True, text=True, timeout=30
    )
    return done.stdout.strip()
