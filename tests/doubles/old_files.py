"""Files of earlier versions of the SQLite store, as those left them."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from claims import budget, chosen_by_client, rate
from places import ROOT

SCHEMAS = ROOT / "tests/policies/stores/sqlite/schemas"
DAY_SECONDS = 86_400
NOW = 1_799_971_200  # midnight
MICROSECONDS = 1_000_000
DAY, RATE, USER = budget(1_000), rate(10), chosen_by_client("u1", limit=1_000)


def old_file(path: Path, version: int) -> None:
    """Write a file as *version* of the program left it: 600 spent, 50 reserved, 7 requests in the last minute."""
    file = sqlite3.connect(path)
    file.executescript((SCHEMAS / f"version_{version}.sql").read_text())
    scale = 1 if version == 1 else MICROSECONDS
    start, ends = NOW * scale, (NOW + DAY_SECONDS) * scale
    group = f"{USER.group_key}:{start}"
    if version == 1:
        file.execute("INSERT INTO counter VALUES (?, ?, ?, 600, 50)", (DAY.key, start, ends))
        file.execute("INSERT INTO slide VALUES (?, 7, ?, 60)", (RATE.key, NOW + 5))
        file.execute("INSERT INTO taking (key, first, last, amount) VALUES (?, ?, ?, 7)", (RATE.key, NOW, NOW + 5))
    elif version == 2:
        file.execute("INSERT INTO counter VALUES (?, ?, ?, 600, 50, 0, NULL)", (DAY.key, start, ends))
        file.execute("INSERT INTO counter VALUES (?, ?, ?, 3, 0, 0, ?)", (USER.key, start, ends, group))
        sliding = (RATE.key, (NOW + 65) * scale, (NOW + 5) * scale)
        file.execute("INSERT INTO counter VALUES (?, -1, ?, 7, 0, ?, NULL)", sliding)
    else:
        file.execute("INSERT INTO counter VALUES (?, ?, ?, 600, 50, 0, x'', x'', NULL)", (DAY.key, start, ends))
        file.execute("INSERT INTO counter VALUES (?, ?, ?, 3, 0, 0, x'', x'', ?)", (USER.key, start, ends, group))
        sliding = (RATE.key, (NOW + 65) * scale, (NOW + 5) * scale)
        file.execute("INSERT INTO counter VALUES (?, -1, ?, 7, 0, ?, x'', x'', NULL)", sliding)
        file.execute("INSERT INTO crowd VALUES (?, 1)", (group,))
    file.execute("INSERT INTO hold VALUES ('c', 0, 1, 0, x'')")
    file.execute(f"PRAGMA user_version = {version}")
    file.commit()
    assert file.execute("PRAGMA journal_mode = WAL").fetchone() == ("wal",)
    file.close()
