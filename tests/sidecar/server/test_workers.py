"""Worker processes: how they are announced, replaced and stopped, and how they end without their parent."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
from places import DOUBLES
from process import EXIT_TIMEOUT_SECONDS, Program, environment, has_ended, program
from serving import CHAT
from stored import counters_in_file
from wire import Client, eventually

pytestmark = pytest.mark.anyio

SCRIPT = DOUBLES / "workers_program.py"
PROMPT_TOKENS = 5
SLOW = {"model": "mock-5000-20-0", "messages": [{"role": "user", "content": "hi"}], "stream": True, "max_tokens": 4000}


def scripted(scenario: str, folder: Path) -> AbstractContextManager[Program]:
    """Run two workers of `workers_program.py`; its log is the file `log`."""
    return program(scenario, folder=folder, command=(str(SCRIPT),), log=folder / "log")


@contextmanager
def two_workers(folder: Path, *arguments: str) -> Iterator[Program]:
    """Run a sidecar with two workers in front of a mock; its log is the file `log`."""
    with program("mock", "--port", "0", folder=folder) as mock:
        serve = ("serve", "--upstream", mock.url, "--port", "0", "--workers", "2", *arguments)
        with program(*serve, folder=folder, log=folder / "log") as running:
            yield running


async def streams(port: int, count: int) -> list[Client]:
    """Return the clients of *count* streams that run."""
    clients = [await Client.to(port) for _ in range(count)]
    for client in clients:
        await client.post("/v1/chat/completions", SLOW)
    for client in clients:
        await client.until(b"tok1")
    return clients


async def test_parent_announces_once_all_workers_serve(tmp_path: Path) -> None:
    """The parent announces once when all workers serve, after it replaced those that died while starting."""
    with scripted("dies-first", tmp_path) as running:
        assert running.line == "announced"
        assert len(running.workers) == 2
        assert running.stop() == 0
        assert running.read_line() == ""

    assert (tmp_path / "log").read_text().count("ended with 3; starting another") == 2


async def test_parent_gives_up_on_workers_that_cannot_start(tmp_path: Path) -> None:
    """Workers that all die at their start end the parent with a message and exit code 1, without an announcement."""
    with scripted("dies", tmp_path) as running:
        assert running.line == ""
        assert running.popen.wait(EXIT_TIMEOUT_SECONDS) == 1

    last = (tmp_path / "log").read_text().splitlines()[-1]
    assert last == "5 workers died within 60 seconds before all of them served: giving up"


async def test_sigterm_ends_starting_workers(tmp_path: Path) -> None:
    """SIGTERM to workers that are still starting ends them, and the parent with exit code 0."""
    with scripted("hangs", tmp_path) as running:
        pids = [int(line.split()[1]) for line in (running.line, running.read_line())]
        assert running.stop() == 0
        assert all(has_ended(pid) for pid in pids)


async def test_sigterm_reaches_a_starting_replacement(tmp_path: Path) -> None:
    """SIGTERM reaches a replacement that is still starting."""
    with scripted("replacement-hangs", tmp_path) as running:
        os.kill(running.workers[0], signal.SIGKILL)
        replacement = int(running.read_line().removeprefix("starting "))
        assert running.stop() == 0
        assert has_ended(replacement)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_signal_beside_a_workers_death_stops_all(tmp_path: Path, number: int) -> None:
    """A signal that arrives together with a worker's death stops all workers, whichever is handled first."""
    with scripted("ready", tmp_path) as running:
        running.popen.send_signal(signal.SIGSTOP)
        workers = running.workers
        os.kill(workers[0], signal.SIGKILL)
        running.popen.send_signal(number)
        running.popen.send_signal(signal.SIGCONT)
        assert await asyncio.to_thread(running.popen.wait, EXIT_TIMEOUT_SECONDS) in (
            0,
            1,
        )  # the killed one may count as an end of the stop
        assert all(has_ended(pid) for pid in workers)


async def test_workers_end_with_their_parent(tmp_path: Path) -> None:
    """Each worker sees the end of its pipe when the parent is killed, also a replacement."""
    with scripted("ready", tmp_path) as running:
        first, second = running.workers
        os.kill(first, signal.SIGKILL)
        await eventually(lambda: (tmp_path / "start-2").exists() and len(running.workers) == 2)
        replacement = next(pid for pid in running.workers if pid != second)
        await eventually((tmp_path / f"serving-{replacement}").exists)
        running.popen.kill()
        await eventually(lambda: has_ended(second) and has_ended(replacement))

    assert {path.name for path in tmp_path.glob("orphaned-*")} == {f"orphaned-{second}", f"orphaned-{replacement}"}


async def test_workers_of_a_killed_parent_drain(tmp_path: Path) -> None:
    """Workers whose parent is killed free the port at once, drain their streams, settle, and end."""
    (tmp_path / "s.toml").write_text("[server]\ndrain = 0.5\n")
    with two_workers(tmp_path, "--config", "s.toml") as running:
        workers = running.workers
        clients = await streams(running.port, 6)
        running.popen.kill()
        running.popen.wait()

        def free() -> bool:
            with socket.socket() as successor:
                successor.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    successor.bind(("127.0.0.1", running.port))
                    successor.listen()
                except OSError:
                    return False
                return True

        await eventually(free)
        ends = [await client.until(b"0\r\n\r\n") for client in clients]
        await eventually(lambda: all(has_ended(pid) for pid in workers))
        for client in clients:
            client.close()

    assert all(b'"code":"draining"' in end and b"data: [DONE]\n\n" in end for end in ends)
    assert (tmp_path / "log").read_text().count("the parent process ended; draining") == 2
    assert held_and_spent(tmp_path)[0] == 0


async def test_signal_to_the_whole_group_counts_once(tmp_path: Path) -> None:
    """One stop that reaches the parent and each worker, as from Ctrl+C or systemd, drains; it does not count twice."""
    (tmp_path / "s.toml").write_text("[server]\ndrain = 0.5\n")
    with two_workers(tmp_path, "--config", "s.toml") as running:
        clients = await streams(running.port, 6)
        for pid in (*running.workers, running.popen.pid):
            os.kill(pid, signal.SIGTERM)
        ends = [await client.until(b"0\r\n\r\n") for client in clients]
        assert await asyncio.to_thread(running.popen.wait, EXIT_TIMEOUT_SECONDS) == 0
        for client in clients:
            client.close()

    assert all(b'"code":"draining"' in end for end in ends)
    assert held_and_spent(tmp_path)[0] == 0


async def test_second_signal_ends_all_workers_at_once(tmp_path: Path) -> None:
    """A second SIGTERM ends all workers at once with exit code 1; every token that was read is charged."""
    (tmp_path / "s.toml").write_text("[server]\ndrain = 300\n")
    with two_workers(tmp_path, "--config", "s.toml") as running:
        clients = await streams(running.port, 4)
        running.popen.send_signal(signal.SIGTERM)
        refused = 0
        while refused != 503:
            client = await Client.to(running.port)
            await client.post("/api/chat", CHAT)
            refused, _ = await client.head()
            client.close()
        assert running.stop() == 1
        read = b"".join([await asyncio.wait_for(client.reader.read(), EXIT_TIMEOUT_SECONDS) for client in clients])
        for client in clients:
            client.close()

    held, spent = held_and_spent(tmp_path)
    assert held + spent >= 4 * (PROMPT_TOKENS + 2) + read.count(b'"content":" tok')


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_sighup_is_ignored(tmp_path: Path, workers: str) -> None:
    """SIGHUP is ignored with one log line, by a single process, a parent, and its workers: a running stream continues."""
    with program("mock", "--port", "0", folder=tmp_path) as mock:
        arguments = ("--upstream", mock.url, "--port", "0", "--workers", workers)
        with program("serve", *arguments, folder=tmp_path, log=tmp_path / "log") as running:
            (client,) = await streams(running.port, 1)
            pids = [running.popen.pid, *running.workers]
            assert len(pids) == (1 if workers == "1" else 3)
            for pid in pids:
                os.kill(pid, signal.SIGHUP)
            await eventually(lambda: (tmp_path / "log").read_text().count("SIGHUP ignored") == len(pids))
            await client.until(b"tok20")
            assert pids[1:] == running.workers
            client.close()
            assert await asyncio.to_thread(running.stop) == 0

    lines = (tmp_path / "log").read_text().splitlines()
    assert sum("SIGHUP ignored" in line for line in lines) == len(pids)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("workers", ["1", "2"])
async def test_signal_while_starting_ends_the_process(tmp_path: Path, workers: str, number: int) -> None:
    """A signal to a process that is still starting, here waiting for its store, ends it with exit code 0, silently."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(EXIT_TIMEOUT_SECONDS)
        store = f"redis://127.0.0.1:{silent.getsockname()[1]}/0"
        serve = ["-m", "sidecar", "serve", "--upstream", "http://h/v1", "--port", "0", "--workers", workers]
        starting = subprocess.Popen(
            [sys.executable, *serve],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=tmp_path,
            env=environment({"SIDECAR_STORE": store}),
        )
        connection, _ = await asyncio.to_thread(silent.accept)
        with connection:
            starting.send_signal(number)
            out, err = await asyncio.to_thread(starting.communicate, timeout=EXIT_TIMEOUT_SECONDS)

    assert (starting.returncode, out, err) == (0, b"", b"")


def held_and_spent(folder: Path) -> tuple[int, int]:
    """Return what all counters of the budget hold and have spent."""
    rows = [row for _, row in counters_in_file(folder / "sidecar.db") if row.start >= 0]
    return sum(row.held for row in rows), sum(row.spent for row in rows)
