-- Times are microseconds since 1970. The names of tables and columns are part of the file format.
-- Every counter. A calendar counter has a row for each window (`start`). A sliding counter has one row: `start` is -1, `spent`
-- the total of its entries, `oldest` the last time of the oldest entry, `ends` when the newest one expires, `head` and `tail`
-- the oldest and the newest entries. `held` is what is reserved, `crowd` the group whose identities are limited in number.
CREATE TABLE counter (
    key TEXT NOT NULL,
    start INTEGER NOT NULL,
    ends INTEGER NOT NULL,
    spent INTEGER NOT NULL,
    held INTEGER NOT NULL,
    oldest INTEGER NOT NULL,
    head BLOB NOT NULL,
    tail BLOB NOT NULL,
    crowd TEXT,
    PRIMARY KEY (key, start)
) WITHOUT ROWID;

-- The entries of sliding counters between head and tail, in chunks named by the time of their first (see `sliding_log.py`).
CREATE TABLE taking (
    key TEXT NOT NULL,
    first INTEGER NOT NULL,
    packed BLOB NOT NULL,
    PRIMARY KEY (key, first)
) WITHOUT ROWID;

-- The reservations of running calls. `took` is MessagePack: [key, counter, start, start of the entry, amount] for each claim.
CREATE TABLE hold (
    call TEXT NOT NULL,
    part INTEGER NOT NULL,
    owner INTEGER NOT NULL,
    ceiling INTEGER NOT NULL,
    took BLOB NOT NULL,
    PRIMARY KEY (call, part)
) WITHOUT ROWID;

-- The processes that have reservations, and the time of their last heartbeat.
CREATE TABLE owner (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    seen INTEGER NOT NULL
);

-- How many counters each group of identities has.
CREATE TABLE crowd (
    key TEXT PRIMARY KEY,
    counters INTEGER NOT NULL
) WITHOUT ROWID;

-- When unused counters were last removed.
CREATE TABLE tidied (
    at INTEGER NOT NULL
);
INSERT INTO tidied VALUES (0);
