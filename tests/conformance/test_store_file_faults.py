"""Faults of the SQLite file under a running sidecar: a full disk, a folder that cannot be written, a file that is gone or replaced."""

from __future__ import annotations

import asyncio
import json
import logging
import resource
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from pathlib import Path
from typing import TypeAlias

import pytest
from process import Program, program, ran
from serving import settings_of, sidecar
from wire import Client, Connection, Upstream, upstream

from policies.stores.opening import open_store
from sidecar.server import gateway

pytestmark = pytest.mark.anyio

V1 = "/v1/chat/completions"
HI = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 5}
CHARGED = 7
"""Tokens of one call."""
STORE = '[store]\nurl = "sqlite:///s.db"\n'
BUDGET = '[[policy]]\nuse = "budget"\ntokens = 1_000_000\nwindow = "month"\n'
CONFIG = f'{STORE}[log]\nformat = "json"\n{BUDGET}'
POLLS, POLL_SECONDS = 200, 0.05
"""Polls for a state that has no event; their number is bounded."""
DISK_BYTES = 1_000_000
WITHOUT_DAC_OVERRIDE = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(24, 1, 0, 0, 0)  # PR_CAPBSET_DROP, CAP_DAC_OVERRIDE
os.execv(sys.executable, [sys.executable, "-m", "sidecar", *sys.argv[1:]])
"""
"""A program that becomes a sidecar which obeys the modes of files, also where root starts it."""


async def whole(connection: Connection) -> None:
    """Answer with two tokens, and their report."""
    answer = {
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "ab"}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": CHARGED - 2, "completion_tokens": 2},
    }
    await connection.answer(200, json.dumps(answer).encode())


class Served:
    """A sidecar in a process of its own, and the file that it counts in."""

    def __init__(self, running: Program, folder: Path, log: Path) -> None:
        self.running, self.file, self._log = running, folder / "s.db", log

    async def ready(self) -> int:
        """Return the status of `/readyz`."""
        client = await Client.to(self.running.port)
        try:
            client.writer.write(b"GET /readyz HTTP/1.1\r\nhost: localhost\r\n\r\n")
            return (await client.answer())[0]
        finally:
            client.close()

    async def call(self) -> int:
        """Return the status of a call."""
        client = await Client.to(self.running.port)
        try:
            await client.post(V1, HI)
            return (await client.answer())[0]
        finally:
            client.close()

    async def until_ready(self, status: int) -> int:
        """Poll `/readyz` until it has *status*; return the last one."""
        found = await self.ready()
        for _ in range(POLLS):
            if found == status:
                break
            await asyncio.sleep(POLL_SECONDS)
            found = await self.ready()
        return found

    @property
    def counts_in_its_file(self) -> bool:
        """Whether the file at the path and its journals are those that the process has open."""
        try:
            inodes = {Path(f"{self.file}{suffix}").stat().st_ino for suffix in ("", "-wal", "-shm")}
        except FileNotFoundError:
            return False
        return inodes <= {each.stat().st_ino for each in self._open_files()}

    def _open_files(self) -> Iterator[Path]:
        for each in Path(f"/proc/{self.running.popen.pid}/fd").iterdir():
            if each.exists():
                yield each

    async def spent(self) -> int:
        """Return what is spent, as another process sees it."""
        store = open_store("sqlite:///s.db", folder=self.file.parent)
        accounts = await store.accounts()
        await store.aclose()
        return sum(account.spent for account in accounts)

    def errors_about_the_file(self) -> list[str]:
        """Return the messages of the store in the log that are errors."""
        entries = [json.loads(line) for line in self._log.read_text().splitlines() if line.startswith("{")]
        return [
            each["message"] for each in entries if each.get("logger") == "sidecar.store" and each["level"] == "error"
        ]


@asynccontextmanager
async def serving(
    folder: Path, logs: Path, command: tuple[str, ...] = ("-m", "sidecar")
) -> AsyncIterator[tuple[Served, Upstream]]:
    """Run the program with its configuration and its file in *folder*; it has made one call."""
    (folder / "s.toml").write_text(CONFIG)
    async with upstream(whole) as up:
        serve = ("serve", "--config", "s.toml", "--upstream", up.url, "--port", "0")
        with program(*serve, folder=folder, log=logs / "log", command=command) as running:
            served = Served(running, folder, logs / "log")
            assert await served.call() == 200
            assert await served.ready() == 200
            yield served, up


Fill: TypeAlias = Callable[[Served], AbstractContextManager[None]]


@contextmanager
def file_size_limit(served: Served) -> Iterator[None]:
    """Let the process write no further byte to any file; Python ignores the signal that comes with it."""
    pid, kind = served.running.popen.pid, resource.RLIMIT_FSIZE
    known = resource.prlimit(pid, kind)
    resource.prlimit(pid, kind, (1, known[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, kind, known)


@contextmanager
def full_disk(served: Served) -> Iterator[None]:
    """Fill the disk of the file."""
    filling = served.file.with_name("filling")
    with filling.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(512))
        except OSError:
            pass
    yield
    filling.unlink()


@contextmanager
def small_disk(at: Path) -> Iterator[Path]:
    """Mount a small disk at *at* while the block lasts; skip the test where that is not allowed."""
    mount = shutil.which("mount")
    if mount is None or sys.platform != "linux":
        pytest.skip("needs Linux's mount")
    at.mkdir()
    options = f"size={DISK_BYTES},mode=0700"
    made = subprocess.run([mount, "-t", "tmpfs", "-o", options, "tmpfs", str(at)], capture_output=True, check=False)
    if made.returncode:
        pytest.skip(f"no disk can be mounted: {made.stderr.decode().strip()}")
    try:
        yield at
    finally:
        subprocess.run(["umount", "-l", str(at)], check=True)


async def check_full(served: Served, full: Fill) -> None:
    """Check readiness and calls while the disk is full, and after it has room again."""
    with full(served):
        assert await served.until_ready(503) == 503
        assert await served.call() == 503
    assert await served.until_ready(200) == 200
    assert await served.call() == 200
    assert await served.spent() == 2 * CHARGED


async def test_full_disk_is_not_ready(tmp_path: Path) -> None:
    """`/readyz` is 503 while the disk is full, without any call; with room, all works again and nothing is lost."""
    with small_disk(tmp_path / "disk") as folder:
        async with serving(folder, tmp_path) as (served, _):
            await check_full(served, full_disk)


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="needs Linux's prlimit")
async def test_file_that_cannot_grow_is_not_ready(tmp_path: Path) -> None:
    """`/readyz` is 503 while the process may write to no file."""
    async with serving(tmp_path, tmp_path) as (served, _):
        await check_full(served, file_size_limit)


@pytest.mark.skipif(sys.platform != "linux", reason="drops a capability of Linux")
async def test_read_only_folder_is_refused_at_start(tmp_path: Path) -> None:
    """A folder in which no file can be created ends the program with exit code 2 and the remedy."""
    folder = tmp_path / "closed"
    folder.mkdir()
    (folder / "s.toml").write_text(CONFIG)
    folder.chmod(0o500)
    serve = ("serve", "--config", "s.toml", "--upstream", "http://127.0.0.1:9/v1", "--port", "0")
    code, _, errors = ran(*serve, folder=folder, command=("-c", WITHOUT_DAC_OVERRIDE))
    folder.chmod(0o700)

    assert code == 2
    assert "let the sidecar" in errors
    assert str(folder / "s.db") in errors


@pytest.mark.skipif(sys.platform != "linux", reason="drops a capability of Linux")
@pytest.mark.parametrize("mode", [0o500, 0o000], ids=["folder", "folder and its names"])
async def test_read_only_folder_without_its_file_is_not_ready(tmp_path: Path, mode: int) -> None:
    """`/readyz` is 503 where the file is gone and no new one can be created; it is ready once that is possible."""
    folder = tmp_path / "data"
    folder.mkdir()
    async with serving(folder, tmp_path, ("-c", WITHOUT_DAC_OVERRIDE)) as (served, _):
        for each in folder.glob("s.db*"):
            each.unlink()
        folder.chmod(mode)
        assert await served.until_ready(503) == 503
        assert await served.call() == 503
        folder.chmod(0o700)
        assert await served.until_ready(200) == 200
        assert await served.call() == 200
        assert await served.spent() == CHARGED


async def delete(served: Served) -> None:
    """Delete the file and its journals."""
    for each in served.file.parent.glob("s.db*"):
        each.unlink()


async def delete_file_alone(served: Served) -> None:
    """Delete the file, and leave its journals."""
    served.file.unlink()


async def delete_journals(served: Served) -> None:
    """Delete the journals, and leave the file: another process would count apart from this one."""
    for each in served.file.parent.glob("s.db-*"):
        each.unlink()


async def replace(served: Served) -> None:
    """Put the file of another sidecar at its place, as a restored backup."""
    folder = served.file.parent / "other"
    folder.mkdir()
    other = open_store("sqlite:///s.db", folder=folder)
    await other.ping()
    await other.aclose()
    for each in served.file.parent.glob("s.db-*"):
        each.unlink()
    (folder / "s.db").replace(served.file)


Loss: TypeAlias = Callable[[Served], Awaitable[None]]


@pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's /proc")
@pytest.mark.parametrize("lose", [delete, delete_file_alone, delete_journals, replace])
async def test_lost_file_is_said_and_never_ready_unnoticed(tmp_path: Path, lose: Loss) -> None:
    """A file that was deleted or replaced is an error in the log, once; ready means to count in the file at the path.

    After that all works, and calls are counted in the new file.
    """
    async with serving(tmp_path, tmp_path) as (served, _):
        await lose(served)
        ready_unnoticed = await served.ready() == 200 and not served.counts_in_its_file
        assert await served.until_ready(200) == 200
        for _ in range(POLLS):
            if served.counts_in_its_file:
                break
            await asyncio.sleep(POLL_SECONDS)
        assert served.counts_in_its_file
        before = await served.spent()
        assert await served.call() == 200
        counted = await served.spent() - before
        again = [await served.ready() for _ in range(5)]
    errors = served.errors_about_the_file()

    assert not ready_unnoticed
    assert (counted, set(again)) == (CHARGED, {200})
    assert len(errors) == 1, errors
    assert str(served.file) in errors[0]


async def test_loss_is_said_once_however_often_the_store_is_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Heartbeats, calls and checks after a loss do not repeat its log line; a second loss has a line of its own."""
    monkeypatch.setattr(gateway, "STORE_HEARTBEAT_SECONDS", 0.01)
    counts = []
    async with upstream(whole) as up, sidecar(settings_of(tmp_path, up.url, STORE + BUDGET)) as served:
        for _ in range(2):
            assert (await served.post(V1, HI))[0] == 200
            for each in tmp_path.glob("s.db*"):
                each.unlink()
            for _ in range(POLLS):
                if (tmp_path / "s.db").exists():
                    break
                await asyncio.sleep(POLL_SECONDS)
            for _ in range(20):
                assert (await served.post(V1, HI))[0] == 200
                assert (await served.get("/readyz"))[0] == 200
            lines = [each for each in caplog.records if each.name == "sidecar.store" and each.levelno >= logging.ERROR]
            counts.append(len(lines))

    assert counts == [1, 2]


async def test_file_that_another_sidecar_created_anew_is_said_once(tmp_path: Path) -> None:
    """Each process that used a deleted file says so once, also the one that did not create the new file."""
    logs = [tmp_path / "one", tmp_path / "two"]
    for folder in logs:
        folder.mkdir()
    async with serving(tmp_path, logs[0]) as (one, _), serving(tmp_path, logs[1]) as (two, _):
        await delete(one)
        for each in (one, two):
            for _ in range(POLLS):
                if each.counts_in_its_file:
                    break
                await asyncio.sleep(POLL_SECONDS)
            assert await each.until_ready(200) == 200
            assert await each.call() == 200
        assert await one.spent() == 2 * CHARGED

    assert [len(each.errors_about_the_file()) for each in (one, two)] == [1, 1]


async def test_restart_after_a_deletion_says_nothing(tmp_path: Path) -> None:
    """A process that starts without a file creates one, and reports no loss: it has not known another one."""
    async with serving(tmp_path, tmp_path) as (served, _):
        await served.ready()
    assert served.errors_about_the_file() == []


def test_locked_folder_is_obeyed(tmp_path: Path) -> None:
    """The double that drops a capability obeys the mode of a folder; without that its tests would test nothing."""
    (tmp_path / "closed").mkdir(mode=0o500)
    text = WITHOUT_DAC_OVERRIDE.replace('"-m", "sidecar"', "\"-c\", \"open('closed/x', 'w')\"")
    code, _, errors = ran(folder=tmp_path, command=("-c", text))
    assert code == 1
    assert "Permission denied" in errors
