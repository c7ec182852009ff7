"""Each failure of a SQLite file has one message with its cause and its remedy, whatever sentence SQLite has for it."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import msgspec
import pytest
from broken_files import (
    PAGE_BYTES,
    fill,
    mounted,
    open_folder,
    overwrite,
    remount,
    result_in_child,
    without_rights,
)
from claims import budget, rate

from policies.api.claim import Claim
from policies.api.store import StoreDown
from policies.stores.sqlite.failures import SQLITE_FAILURES, deleted_journal, describe, replaced_file
from policies.stores.sqlite.file_system import NETWORK_FILE_SYSTEMS, file_system_of, network_warning
from policies.stores.sqlite.store import SQLiteStore
from policies.testing import FakeClock

pytestmark = pytest.mark.anyio

LIMIT = 10**9


async def message_of(path: Path) -> str:
    """Return why the store at *path* cannot be used."""
    store = SQLiteStore(path, clock=FakeClock())
    try:
        with pytest.raises(StoreDown) as down:
            await store.ping()
    finally:
        await store.aclose()
    return str(down.value)


async def used_file(folder: Path, calls: int = 100) -> Path:
    """Return the file of a store that has counted, and is closed."""
    path = folder / "s.db"
    store = SQLiteStore(path, clock=FakeClock())
    for at in range(calls):
        await store.reserve(f"{at}", [tenant_budget(at)])
    await store.aclose()
    return path


def tenant_budget(number: int) -> Claim:
    """Return a claim on the budget of one of many tenants."""
    return msgspec.structs.replace(budget(LIMIT, 1), identity=f"tenant {number}")


def raw(path: Path) -> sqlite3.Connection:
    """Return a connection with a WAL and a table, as another part of a program has it."""
    file = sqlite3.connect(path, timeout=0, isolation_level=None)
    file.execute(f"PRAGMA page_size = {PAGE_BYTES}")
    file.execute("PRAGMA journal_mode = WAL")
    file.execute("CREATE TABLE IF NOT EXISTS t (a)")
    return file


def failure(action: Callable[[], object], path: Path) -> str:
    """Return the message for the error of SQLite that *action* raises."""
    with pytest.raises(sqlite3.Error) as raised:
        action()
    return describe(raised.value, path)


def insert_until_full(file: sqlite3.Connection) -> None:
    for _ in range(10_000):
        file.execute("INSERT INTO t VALUES (zeroblob(1000))")


async def test_missing_folder(tmp_path: Path) -> None:
    """A folder that does not exist is named with the remedy to make it; it is never created."""
    path = tmp_path / "none" / "s.db"
    assert await message_of(path) == f"{path}: its folder does not exist; make the folder {tmp_path / 'none'} first"
    assert not path.parent.exists()


async def test_link_into_a_missing_folder(tmp_path: Path) -> None:
    """Where the path is a link, the folder that it leads to is named."""
    path = tmp_path / "s.db"
    path.symlink_to(tmp_path / "none" / "real.db")
    assert (await message_of(path)).endswith(f"make the folder {tmp_path / 'none'} first")


async def test_path_that_is_no_file(tmp_path: Path) -> None:
    """A folder in place of the file, and a file in place of the folder, are told apart."""
    assert await message_of(tmp_path) == f"{tmp_path}: it is a folder; name a file"
    (tmp_path / "file").touch()
    assert "/file is not a folder; name a file in a folder" in await message_of(tmp_path / "file" / "s.db")


async def test_file_without_permission() -> None:
    """A file that may not be read, one that may not be written, and a folder that may not be used are told apart."""
    with open_folder() as folder:
        path = await used_file(folder)
        folder.chmod(0o755)
        found = []
        for mode in (0o000, 0o444):
            path.chmod(mode)
            with without_rights():
                found.append(await message_of(path))
        path.chmod(0o666)
        for mode in (0o555, 0o000):
            folder.chmod(mode)
            with without_rights():
                found.append(await message_of(path))
        folder.chmod(0o755)
    causes = [each.removeprefix(f"{path}: ").partition(";")[0] for each in found]
    closed = f"no permission to use the folder {folder}"
    assert causes == ["no permission to read and write the file", "the file is read-only", closed, closed]


async def test_read_only_file_system(tmp_path: Path) -> None:
    """A file system that is mounted read-only is named, for a file that exists and for a new one."""
    with mounted(tmp_path, "size=1m") as folder:
        path = await used_file(folder)
        remount(folder, "ro")
        found = [await message_of(each) for each in (path, folder / "new.db")]
    assert [each.partition(": ")[2] for each in found] == 2 * [
        "the file system is read-only; mount it writable, or name a file on another one"
    ]


async def test_full_disk(tmp_path: Path) -> None:
    """A disk that is full when the file is created, opened or written to has one message."""
    with mounted(tmp_path, "size=256k") as folder:
        path = folder / "s.db"
        with closing(raw(path)) as file:
            fill(folder)
            found = [failure(lambda: insert_until_full(file), path) for _ in range(2)]
        found.append(await message_of(folder / "new.db"))
    assert {each.partition(": ")[2] for each in found} == {"the disk is full; make room on the disk"}


async def test_disk_without_inodes(tmp_path: Path) -> None:
    """A file system with room but without inodes says so: SQLite cannot create its WAL there."""
    with mounted(tmp_path, "size=1m,nr_inodes=3") as folder:
        (folder / "1").touch()
        (folder / "2").touch()
        found = await message_of(folder / "s.db")
    assert found.partition(": ")[2] == "the file system cannot hold more files; delete files that are not needed"


def test_limit_of_file_sizes(tmp_path: Path) -> None:
    """A write that the limit of file sizes or a quota refuses is no full disk: the message names both."""
    code = """
import resource, signal, sqlite3, sys
from pathlib import Path
from policies.stores.sqlite.failures import describe
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))
file = sqlite3.connect(sys.argv[1], isolation_level=None)
file.execute("PRAGMA journal_mode = WAL")
try:
    file.execute("CREATE TABLE t (a)")
    for _ in range(1000):
        file.execute("INSERT INTO t VALUES (zeroblob(1000))")
except sqlite3.Error as error:
    print(describe(error, Path(sys.argv[1])))
"""
    found = result_in_child(code, str(tmp_path / "s.db"))
    cure = "check the disk, its quota, and the limit of file sizes (ulimit -f)"
    assert found == f"{tmp_path}/s.db: a write failed (disk I/O error, SQLITE_IOERR_WRITE); {cure}"


def test_too_many_open_files(tmp_path: Path) -> None:
    """A process that may open no more files gets that cause, not a missing permission."""
    code = """
import os, resource, sqlite3, sys
from pathlib import Path
from policies.stores.sqlite.failures import describe
free = os.dup(0)
os.close(free)
resource.setrlimit(resource.RLIMIT_NOFILE, (free, free))
try:
    sqlite3.connect(sys.argv[1]).execute("CREATE TABLE t (a)")
except sqlite3.Error as error:
    print(describe(error, Path(sys.argv[1])))
"""
    found = result_in_child(code, str(tmp_path / "s.db"))
    assert found == f"{tmp_path}/s.db: too many open files; raise the limit of open files (ulimit -n)"


async def test_locked_file(tmp_path: Path) -> None:
    """A file that another program locks for longer than the store waits is said to be locked."""
    path = await used_file(tmp_path, 1)
    with closing(raw(path)) as file, closing(raw(path)) as other:
        other.execute("BEGIN IMMEDIATE")
        found = failure(lambda: file.execute("BEGIN IMMEDIATE"), path)
    assert found == f"{path}: the file is locked; stop the program that locks it"


@pytest.mark.parametrize("content", [b"not a database at all" * 500, b"short", b"SQLite format 2\x00" + bytes(5000)])
async def test_file_that_is_no_database(tmp_path: Path, content: bytes) -> None:
    """A file with other content is not overwritten, and said to be no database."""
    path = tmp_path / "s.db"
    path.write_bytes(content)
    assert await message_of(path) == f"{path}: the file is not a database; name another file, or move this one away"
    assert path.read_bytes() == content


@pytest.mark.parametrize("version", [0, 3, 17])
async def test_database_of_another_program(tmp_path: Path, version: int) -> None:
    """The database of another program is left as it is, and said to be foreign, whatever version it gives itself."""
    path = tmp_path / "s.db"
    with closing(sqlite3.connect(path)) as file:
        file.execute("CREATE TABLE customers (name)")
        file.execute(f"PRAGMA user_version = {version}")
    before = path.read_bytes()
    assert await message_of(path) == f"{path}: the file holds the tables of another program; name another file"
    assert path.read_bytes() == before


async def test_newer_version(tmp_path: Path) -> None:
    """A file that a newer version wrote is refused with both versions."""
    path = await used_file(tmp_path, 1)
    with closing(sqlite3.connect(path)) as file:
        file.execute("PRAGMA user_version = 99")
    found = await message_of(path)
    assert "the file was written by another version (99, this one reads " in found
    assert found.endswith("; use that version, or another file")


DAMAGED = "the file is damaged; stop all processes that use it, then move it and its -wal and -shm files away"


async def test_deleted_journal(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Journals that are deleted alone are said once. The only process keeps what it has counted, and uses those at the path."""
    path = tmp_path / "s.db"
    store = SQLiteStore(path, clock=FakeClock())
    await store.reserve("0", [budget(LIMIT, 5)])
    await store.heartbeat()
    assert caplog.records == []
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink()
    for _ in range(3):
        await store.heartbeat()
        await store.reserve("1", [budget(LIMIT, 5)])
    (account,) = await store.accounts()
    await store.aclose()
    (line,) = caplog.records
    assert (line.name, line.levelname) == ("sidecar.store", "ERROR")
    assert line.getMessage() == deleted_journal(path)
    assert account.reserved == 10


@pytest.mark.parametrize("damage", ["truncated", "schema page", "pages"])
async def test_damaged_file(tmp_path: Path, damage: str) -> None:
    """A truncated file, and one with overwritten pages, is damaged: at start or at the operation that reads the page."""
    path = tmp_path / "s.db"
    with closing(raw(path)) as file:
        for _ in range(200):
            file.execute("INSERT INTO t VALUES (zeroblob(1000))")
    if damage == "truncated":
        os.truncate(path, 20 * PAGE_BYTES)
    elif damage == "schema page":
        overwrite(path, 100, PAGE_BYTES - 100)
    else:
        overwrite(path, 2 * PAGE_BYTES, 20 * PAGE_BYTES)
    with closing(sqlite3.connect(path)) as file:
        found = failure(lambda: file.execute("SELECT sum(length(a)) FROM t").fetchall(), path)
    assert DAMAGED in found


async def test_damage_during_operation(tmp_path: Path) -> None:
    """A store that meets a damaged page while it runs says that the file is damaged, and does not stop the process."""
    path = await used_file(tmp_path)
    pages = path.stat().st_size // PAGE_BYTES
    overwrite(path, PAGE_BYTES, (pages - 1) * PAGE_BYTES)
    store = SQLiteStore(path, clock=FakeClock())
    with pytest.raises(StoreDown) as down:
        for at in range(100):
            await store.reserve(f"new {at}", [tenant_budget(at)])
    await store.aclose()
    assert DAMAGED in str(down.value)


UNREADABLE = {
    "reservation of a dead process": "INSERT INTO owner VALUES (5, 1); INSERT INTO hold VALUES ('dead', 0, 5, 0, x'c1')",
    "name of a dead process's reservation": "INSERT INTO owner VALUES (5, 1);"
    " INSERT INTO hold VALUES ('dead', 0, 5, 0, x'92a1789409000001')",
    "counter to remove": "UPDATE counter SET due = 5, counters = x'c1'",
    "counter to report": "UPDATE counter SET counters = x'c1'",
    "name to report": "UPDATE name SET name = replace(name, char(31), '')",
    "number to report": "UPDATE name SET number = number + 1",
}


@pytest.mark.parametrize("what", UNREADABLE)
async def test_values_that_are_not_of_this_program(tmp_path: Path, what: str) -> None:
    """A row whose values mean nothing is a damaged file too, at each operation that meets it: SQLite has no checksums.

    It was an exception of its own, and each call failed with an internal error and a traceback.
    """
    path = await used_file(tmp_path)
    with closing(sqlite3.connect(path)) as file:
        file.executescript(UNREADABLE[what])
    store = SQLiteStore(path, clock=FakeClock(), monotonic=(monotonic := FakeClock()))
    operations = [store.accounts] if "report" in what else [store.ping, store.accounts, store.heartbeat]
    for each in operations[: 1 if "remove" in what else None]:
        with pytest.raises(StoreDown, match=DAMAGED):
            await each()
        monotonic.advance(1.0)
    await store.aclose()


async def test_unreadable_time_of_a_counter(tmp_path: Path) -> None:
    """A call whose counters are in a row with a damaged time names the damage."""
    path = await used_file(tmp_path)
    with closing(sqlite3.connect(path)) as file:
        file.execute("UPDATE counter SET due = 'late'")
        file.commit()
    store = SQLiteStore(path, clock=FakeClock())
    with pytest.raises(StoreDown, match=DAMAGED):
        await store.reserve("1", [msgspec.structs.replace(rate(5), identity="tenant 7")])
    await store.aclose()


@pytest.mark.parametrize("counters", ["c1", "91a0", "80"])
async def test_unreadable_counter_of_one_tenant(tmp_path: Path, counters: str) -> None:
    """Calls and reports of a tenant whose counters cannot be read name the damage; those of other tenants go on."""
    path = await used_file(tmp_path)
    with closing(sqlite3.connect(path)) as file:
        file.execute(f"UPDATE counter SET counters = x'{counters}' WHERE identity = 'tenant 7'")  # noqa: S608  # constants
        file.commit()
    store = SQLiteStore(path, clock=FakeClock(), monotonic=(monotonic := FakeClock()))
    for each in (store.reserve("1", [tenant_budget(7)]), store.standings([tenant_budget(7)])):
        with pytest.raises(StoreDown, match=DAMAGED):
            await each
        monotonic.advance(1.0)
    assert (await store.reserve("2", [tenant_budget(8)])).refused is None
    await store.aclose()


@pytest.mark.parametrize("deleted", [("", "-wal", "-shm"), ("",)], ids=["all", "file alone"])
async def test_error_of_a_deleted_file(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, deleted: tuple[str, ...]
) -> None:
    """An error of a file that is no longer at its path is not reported: the operation is executed in the one that is.

    The journals of a deleted file may be shared with the file that another process has made in its place.
    """
    path = await used_file(tmp_path)
    store = SQLiteStore(path, clock=FakeClock())
    await store.ping()
    for suffix in deleted:
        path.with_name(path.name + suffix).rename(tmp_path / f"old{suffix}")
    overwrite(tmp_path / "old", PAGE_BYTES, (tmp_path / "old").stat().st_size - PAGE_BYTES)
    for at in range(100):
        await store.reserve(f"new {at}", [tenant_budget(at)])
    accounts = await store.accounts()
    await store.aclose()
    assert len(accounts) >= 99, "the call before the error may have used the deleted file"
    (line,) = caplog.records
    assert line.getMessage() == replaced_file(path)


async def test_missing_tables(tmp_path: Path) -> None:
    """Tables that another program has removed are named with SQLite's own words, and the remedy is that of a damaged file."""
    path = tmp_path / "s.db"
    with closing(raw(path)) as file:
        found = failure(lambda: file.execute("SELECT * FROM counter"), path)
    assert "the tables of the file are not those of the sidecar (no such table: counter); stop all processes" in found


@pytest.mark.parametrize(
    ("code", "cause"),
    [
        (sqlite3.SQLITE_IOERR_READ, "reading or writing failed"),
        (sqlite3.SQLITE_IOERR_SHORT_READ, "the file is damaged"),
        (sqlite3.SQLITE_IOERR_LOCK, "locking the file failed; put the file on a local disk"),
        (sqlite3.SQLITE_PROTOCOL, "locking the file failed; put the file on a local disk"),
        (sqlite3.SQLITE_READONLY_DBMOVED, "the file was deleted or replaced"),
        (sqlite3.SQLITE_BUSY_SNAPSHOT, "the file is locked"),
        (sqlite3.SQLITE_CORRUPT_INDEX, "the file is damaged"),
        (sqlite3.SQLITE_NOMEM, "there is no memory left"),
        (sqlite3.SQLITE_TOOBIG, "words of SQLite; see that no other program uses the file"),
        (None, "words of SQLite; see that no other program uses the file"),
    ],
)
def test_result_codes(tmp_path: Path, code: int | None, cause: str) -> None:
    """Codes that a test cannot cause have a message by their extended or primary code; an unknown one keeps its words."""
    error = sqlite3.OperationalError("words\n of SQLite")
    if code is not None:
        error.sqlite_errorcode, error.sqlite_errorname = code, "SQLITE_NAME"
    assert describe(error, tmp_path / "s.db").startswith(f"{tmp_path}/s.db: {cause}")


def test_file_is_never_opened_to_find_the_cause(tmp_path: Path) -> None:
    """A message is found without opening the file: closing it would drop the locks that this process holds on it."""
    path = tmp_path / "s.db"
    with closing(raw(path)) as file:
        file.execute("BEGIN IMMEDIATE")
        for code in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_IOERR_WRITE):
            error = sqlite3.OperationalError("words")
            error.sqlite_errorcode = code
            describe(error, path)
        locks = "import sqlite3, sys; sqlite3.connect(sys.argv[1], timeout=0).execute('BEGIN IMMEDIATE')"
        with pytest.raises(Exception, match="exit status 1"):
            result_in_child(locks, str(path))


def test_each_message_has_a_remedy(tmp_path: Path) -> None:
    """Every failure has a cause and a remedy, in plain lower case without a full stop."""
    for cause, remedy in SQLITE_FAILURES.values():
        assert cause
        assert remedy
        assert not remedy.endswith(".")
    assert "limits start anew" in replaced_file(tmp_path / "s.db")


MOUNT_LINES = """\
proc /proc proc rw 0 0
/dev/vda1 / ext4 rw,relatime 0 0
server:/export /srv/data nfs4 rw,vers=4.2 0 0
//host/share /srv/with\\040space cifs rw 0 0
/dev/vdb1 /srv/data/local xfs rw 0 0
host: /mnt/remote fuse.sshfs rw 0 0
malformed
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/var/lib/s.db", "ext4"),
        ("/srv/data/s.db", "nfs4"),
        ("/srv/database/s.db", "ext4"),
        ("/srv/with space/s.db", "cifs"),
        ("/srv/data/local/s.db", "xfs"),
        ("/mnt/remote/deep/s.db", "fuse.sshfs"),
    ],
)
def test_network_file_system(tmp_path: Path, path: str, kind: str) -> None:
    """A file on a network file system causes a warning that names it; a mount below it on a disk does not."""
    table = tmp_path / "mounts"
    table.write_text(MOUNT_LINES)
    assert file_system_of(Path(path), MOUNT_LINES) == kind
    warning = network_warning(Path(path), table)
    assert (warning is not None) == (kind in NETWORK_FILE_SYSTEMS)
    if warning is not None:
        assert warning.startswith(f"{path} is on a network file system ({kind}), which may not lock files")
    assert network_warning(Path(path), tmp_path / "no table") is None
