-- Calendar windows: what is spent and what is held, one row for each counter and window.
CREATE TABLE counter (
    key TEXT NOT NULL,
    start REAL NOT NULL,
    ends REAL NOT NULL,
    spent INTEGER NOT NULL,
    held INTEGER NOT NULL,
    PRIMARY KEY (key, start)
) WITHOUT ROWID;

-- Sliding windows: the running total, and each taking that is still counted.
CREATE TABLE slide (
    key TEXT PRIMARY KEY,
    total INTEGER NOT NULL,
    newest REAL NOT NULL,
    seconds REAL NOT NULL
) WITHOUT ROWID;

CREATE TABLE taking (
    id INTEGER PRIMARY KEY,
    key TEXT NOT NULL,
    first REAL NOT NULL,
    last REAL NOT NULL,
    amount INTEGER NOT NULL
);
CREATE INDEX taking_by_age ON taking (key, last);

-- What each running call holds, as JSON: [key, start of the calendar window or null, id of the taking or null, amount].
CREATE TABLE hold (
    call TEXT NOT NULL,
    part INTEGER NOT NULL,
    owner TEXT NOT NULL,
    ceiling INTEGER NOT NULL,
    took BLOB NOT NULL,
    PRIMARY KEY (call, part)
) WITHOUT ROWID;
CREATE INDEX hold_by_owner ON hold (owner);

-- The processes that hold, and when each was last seen alive.
CREATE TABLE owner (
    id TEXT PRIMARY KEY,
    seen REAL NOT NULL
) WITHOUT ROWID;
