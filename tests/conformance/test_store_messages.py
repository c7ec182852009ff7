"""The real program with an unusable store: one line at start or when it happens, one per further cause, one when it is back."""

from __future__ import annotations

import http.client
import json
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
import redis
from broken_files import PAGE_BYTES, fill, mounted, overwrite
from process import program, ran
from redis_server import MISSING, SERVER, RedisServer, free_port, redis_server

needs_server = pytest.mark.skipif(SERVER is None, reason=MISSING)

POLLS, POLL_SECONDS = 400, 0.05
"""Polls of the log of another process, whose lines have no event; their number is bounded."""
CALLS = 20
POLICIES = '[[policy]]\nuse = "rate"\nrequests = 100000\n[[policy]]\nuse = "budget"\ntokens = 100_000_000\n'
MEANWHILE = (
    "'budget' refuses calls (503 store_unavailable), 'rate' admits them uncounted; "
    "settlements are queued (at most 10,000) and sent when it is back"
)
BODY = json.dumps({"model": "m", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 5}).encode()


def configured(folder: Path, store: str, more: str = "") -> list[str]:
    """Return the arguments of `sidecar serve` with *store* and the mock upstream of a port where no server listens."""
    text = f'[store]\nurl = "{store}"\n{more}{POLICIES}[[upstream]]\nbase_url = "http://127.0.0.1:9/v1"\nmodel = "m"\n'
    (folder / "sidecar.toml").write_text(text)
    return ["serve", "--config", "sidecar.toml", "--port", "0"]


def store_lines(log: Path) -> list[str]:
    """Return the lines of *log* that are about the store, without the records of requests."""
    lines = log.read_text().splitlines()
    return [line for line in lines if "store" in line and " request " not in line and '"event":"request"' not in line]


def line_after(log: Path, count: int) -> str:
    """Return the line about the store that follows *count* of them; fail if none is written in time."""
    for _ in range(POLLS):
        if len(lines := store_lines(log)) > count:
            return lines[count]
        time.sleep(POLL_SECONDS)
    raise AssertionError(f"no further line: {log.read_text()}")


def statuses(port: int) -> list[int]:
    """Return the statuses of several calls, one after the other."""
    found = []
    for _ in range(CALLS):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        connection.request("POST", "/v1/chat/completions", BODY, {"content-type": "application/json"})
        found.append(connection.getresponse().status)
        connection.close()
    return found


def ready(port: int) -> tuple[int, dict[str, object]]:
    """Return status and body of `/readyz`."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("GET", "/readyz")
    response = connection.getresponse()
    body = json.loads(response.read())
    connection.close()
    return response.status, body


def foreign(path: Path) -> None:
    with closing(sqlite3.connect(path)) as file:
        file.execute("CREATE TABLE customers (name)")


def newer(path: Path) -> None:
    with closing(sqlite3.connect(path)) as file:
        file.execute("PRAGMA user_version = 99")


def truncated(path: Path) -> None:
    with closing(sqlite3.connect(path)) as file:
        file.execute(f"PRAGMA page_size = {PAGE_BYTES}")
        file.execute("CREATE TABLE counter (a)")
        file.executemany("INSERT INTO counter VALUES (?)", [(b"x" * 1000,)] * 50)
        file.commit()
    os.truncate(path, PAGE_BYTES)


def garbage(path: Path) -> None:
    path.write_bytes(b"not a database" * 1000)


def other_counters(path: Path) -> None:
    with closing(sqlite3.connect(path)) as file:
        file.execute("CREATE TABLE counter (name)")


def pipe(path: Path) -> None:
    """Make a pipe that may only be read: opening it would wait for a writer."""
    os.mkfifo(path, 0o400)


def pipe_as_wal(path: Path) -> None:
    pipe(path.with_name("s.db-wal"))


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def looping(path: Path) -> None:
    path.symlink_to(path)


NO_REGULAR_FILE = "it, or its -wal, -shm or -journal file, is a pipe, a socket, a device or a folder; name another file"
MOVE_AWAY = "stop all processes that use it, then move it and its -wal and -shm files away (counting starts anew), or restore a copy"


@pytest.mark.parametrize(
    ("name", "make", "message"),
    [
        ("none/s.db", None, "its folder does not exist; make the folder {folder}/none first"),
        ("s.db", foreign, "the file holds the tables of another program; name another file"),
        ("s.db", newer, "the file was written by another version (99, "),
        ("s.db", truncated, f"the file is damaged; {MOVE_AWAY}"),
        ("s.db", garbage, "the file is not a database; name another file, or move this one away"),
        ("s.db", Path.mkdir, "it is a folder; name a file"),
        ("s.db", other_counters, "the file holds the tables of another program; name another file"),
        ("s.db", pipe, NO_REGULAR_FILE),
        ("s.db", pipe_as_wal, NO_REGULAR_FILE),
        ("s.db", device, NO_REGULAR_FILE),
        ("s.db", looping, "its path has a loop of symbolic links; correct the links"),
        (f"{'x' * 300}.db", None, "its name is too long; name a file with a shorter name"),
    ],
    ids=lambda value: value.__name__ if callable(value) else None,
)
def test_unusable_file_ends_the_start(
    tmp_path: Path, name: str, make: Callable[[Path], object] | None, message: str
) -> None:
    """A SQLite file that cannot be used ends the start with exit code 2 and one line: file, cause and remedy."""
    if make is not None:
        make(tmp_path / name)
    code, out, err = ran(*configured(tmp_path, f"sqlite:///{name}"), folder=tmp_path)
    assert (code, out) == (2, "")
    (line,) = err.splitlines()
    assert line.startswith(f"sidecar: store.url: {tmp_path / name}: {message.format(folder=tmp_path)}")


def test_full_disk_ends_the_start(tmp_path: Path) -> None:
    """A full disk ends the start in the same way."""
    with mounted(tmp_path, "size=64k") as folder:
        fill(folder)
        code, _, err = ran(*configured(tmp_path, f"sqlite:///{folder}/s.db"), folder=tmp_path)
    assert (code, err) == (2, f"sidecar: store.url: {folder}/s.db: the disk is full; make room on the disk\n")


def test_disk_that_fills_up(tmp_path: Path) -> None:
    """A disk that fills up while the program runs is one line, however many calls fail, and one line when there is room."""
    log = tmp_path / "log"
    with (
        mounted(tmp_path, "size=1m") as folder,
        program(*configured(tmp_path, f"sqlite:///{folder}/s.db"), folder=tmp_path, log=log) as served,
    ):
        assert set(statuses(served.port)) == {502}
        filling = fill(folder)
        for _ in range(POLLS):
            if 503 in statuses(served.port):
                break
        down = line_after(log, 0)
        for _ in range(3):
            statuses(served.port)
        assert len(store_lines(log)) == 1
        filling.unlink()
        up = line_after(log, 1)
        assert set(statuses(served.port)) == {502}
        assert served.stop() == 0
    assert f'subject=store state=down was=up cause="{folder}/s.db: the disk is full; make room on the disk"' in down
    assert f'meanwhile="{MEANWHILE}"' in down
    assert "subject=store state=up was=down was_seconds=" in up
    assert len(store_lines(log)) == 2


def test_file_that_becomes_a_pipe(tmp_path: Path) -> None:
    """A pipe in place of the file, which would block whoever opens it, is one line; the program goes on, and recovers."""
    log, path = tmp_path / "log", tmp_path / "s.db"
    with program(*configured(tmp_path, "sqlite:///s.db"), folder=tmp_path, log=log) as served:
        assert set(statuses(served.port)) == {502}
        for each in tmp_path.glob("s.db*"):
            each.unlink()
        pipe(path)
        down = line_after(log, 0)
        assert set(statuses(served.port)) == {503}
        assert len(store_lines(log)) == 1
        path.unlink()
        after = "".join(line_after(log, at) for at in (1, 2))
        assert set(statuses(served.port)) == {502}
        assert served.stop() == 0
    assert f'state=down was=up cause="{path}: {NO_REGULAR_FILE}' in down
    assert "limits start anew" in after
    assert "state=up was=down" in after


def test_file_that_is_damaged_while_it_runs(tmp_path: Path) -> None:
    """A file whose pages are overwritten while the program runs is one line with the remedy; the program goes on."""
    log, path = tmp_path / "log", tmp_path / "s.db"
    with program(*configured(tmp_path, "sqlite:///s.db"), folder=tmp_path, log=log) as served:
        statuses(served.port)
        with closing(sqlite3.connect(path)) as file:  # another process writes, so that cached pages are read anew
            file.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            file.execute("PRAGMA user_version = 3")
            file.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        overwrite(path, PAGE_BYTES, path.stat().st_size - PAGE_BYTES)
        with closing(sqlite3.connect(path)) as file:
            file.execute("PRAGMA user_version = 3")
        down = line_after(log, 0)
        assert set(statuses(served.port)) == {503}
        assert len(store_lines(log)) == 1
        assert served.stop() == 0
    assert f'state=down was=up cause="{path}: the file is damaged; {MOVE_AWAY}" meanwhile="{MEANWHILE}"' in down


@needs_server
@pytest.mark.parametrize("workers", ["1", "2"])
def test_unreachable_server_at_start(tmp_path: Path, workers: str) -> None:
    """An unreachable Redis is one line before the program serves, none for its calls and workers, and one when it is back."""
    port, log = free_port(), tmp_path / "log"
    arguments = [*configured(tmp_path, f"redis://127.0.0.1:{port}/0"), "--workers", workers]
    with program(*arguments, folder=tmp_path, log=log) as served:
        (down,) = store_lines(log)
        assert set(statuses(served.port)) == {503}
        assert ready(served.port) == (
            503,
            {
                "status": "store_unavailable",
                "store": "failing",
                "limits": {"rate": "admit", "budget": "refuse"},
                "upstreams": {"upstream-1": "ok"},
            },
        )
        time.sleep(2.5)  # more than one heartbeat, which fails too
        assert store_lines(log) == [down]
        with redis_server(tmp_path, "--appendonly", "yes", port=port):
            ups = [line_after(log, at) for at in range(1, 1 + int(workers))]
            assert set(statuses(served.port)) == {502}
            assert served.stop() == 0
    cause = f"127.0.0.1:{port}/0: connection refused; see that it runs and can be reached"
    assert f'ERROR state subject=store state=down cause="{cause}" meanwhile="{MEANWHILE}"' in down
    assert all("INFO state subject=store state=up was=down was_seconds=" in up for up in ups)
    assert len(store_lines(log)) == 1 + int(workers)


@contextmanager
def heartbeats_of_format_1(server: RedisServer) -> Iterator[None]:
    """Send the heartbeats of a process of the format before this one while the block lasts."""
    ended = threading.Event()

    def beat() -> None:
        with redis.Redis(port=server.port) as client:
            while not ended.wait(POLL_SECONDS):
                client.zadd("{sidecar}:w", {"abcdef01" * 4: time.time_ns() // 1000})

    with redis.Redis(port=server.port) as client:
        client.zadd("{sidecar}:w", {"abcdef01" * 4: time.time_ns() // 1000})
        client.zadd("{sidecar}:a", {"0:counter": 0})
    thread = threading.Thread(target=beat)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@needs_server
@pytest.mark.parametrize("workers", ["1", "2"])
def test_server_in_use_by_an_older_version_ends_the_start(tmp_path: Path, workers: str) -> None:
    """While processes of an older version count in Redis, this one does not start: exit code 2 and one line with the remedy.

    It started, and refused all calls until it was started again: the error is a `StoreDown` too.
    """
    with redis_server(tmp_path, "--appendonly", "yes") as server, heartbeats_of_format_1(server):
        code, out, err = ran(*configured(tmp_path, server.url), "--workers", workers, folder=tmp_path)
    assert (code, out) == (2, "")
    (line,) = err.splitlines()
    assert line.startswith(
        f"sidecar: store.url: 127.0.0.1:{server.port}/0: processes of an older version of the sidecar use it (1 found: abcdef01)"
    )
    assert "; stop them, then start this one" in line


@needs_server
def test_server_with_a_newer_format_ends_the_start(tmp_path: Path) -> None:
    """The format of a newer version ends the start in the same way."""
    with redis_server(tmp_path, "--appendonly", "yes") as server:
        with redis.Redis(port=server.port) as client:
            client.hset("{sidecar}:m", "format", "3")
        code, out, err = ran(*configured(tmp_path, server.url), folder=tmp_path)
    assert (code, out) == (2, "")
    (line,) = err.splitlines()
    assert line.startswith(
        f"sidecar: store.url: 127.0.0.1:{server.port}/0: it has the storage format 3 of a newer version"
    )


@needs_server
def test_outage_with_several_causes(tmp_path: Path) -> None:
    """An outage whose cause changes has one more line per cause; a server that is back is warned about if it may evict."""
    log = tmp_path / "log"
    with redis_server(tmp_path, "--appendonly", "yes") as server:
        arguments = configured(tmp_path, server.url, '[log]\nformat = "json"\n')
        with program(*arguments, folder=tmp_path, log=log) as served:
            assert set(statuses(served.port)) == {502}
            assert store_lines(log) == []
            server.stop()
            assert set(statuses(served.port)) == {503}
            assert line_after(log, 0)
            with redis_server(tmp_path, "--requirepass", "x", port=server.port):
                assert line_after(log, 1)
                assert set(statuses(served.port)) == {503}
            evicting = ("--appendonly", "yes", "--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru")
            with redis_server(tmp_path, *evicting, port=server.port):
                assert line_after(log, 3)
                assert served.stop() == 0
    entries = [json.loads(line) for line in store_lines(log)]
    address = f"127.0.0.1:{server.port}/0"
    assert [(each.get("state"), each.get("was")) for each in entries[:3]] == [
        ("down", "up"),
        ("down", "down"),
        ("up", "down"),
    ]
    assert entries[0]["cause"].startswith((f"{address}: connection refused; ", f"{address}: it closed the connection"))
    assert entries[1]["cause"].startswith(f"{address}: it requires a password; give it in SIDECAR_STORE")
    assert entries[0]["meanwhile"] == entries[1]["meanwhile"] == MEANWHILE
    assert "may evict counters" in json.dumps(entries[3])
    assert len(entries) == 4


@needs_server
@pytest.mark.parametrize("workers", ["1", "2"])
def test_warnings_at_start(tmp_path: Path, workers: str) -> None:
    """A server that may evict or lose counters causes one line for each danger at start, and none while it runs."""
    log = tmp_path / "log"
    with redis_server(tmp_path, "--maxmemory", "100mb", "--maxmemory-policy", "volatile-lru") as server:
        arguments = [*configured(tmp_path, server.url), "--workers", workers]
        with program(*arguments, folder=tmp_path, log=log) as served:
            assert set(statuses(served.port)) == {502}
            time.sleep(2.5)  # a heartbeat
            assert served.stop() == 0
    prefix = f"sidecar: warning: store.url: 127.0.0.1:{server.port}: it "
    evicting, in_memory = store_lines(log)
    assert evicting.startswith(f"{prefix}may evict counters when its memory is full (maxmemory-policy volatile-lru)")
    assert in_memory.startswith(f"{prefix}keeps counters in memory only, without append-only file and snapshots")
