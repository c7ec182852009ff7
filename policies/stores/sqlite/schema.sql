-- Times are microseconds since 1970, or seconds where that is said. The names of tables and columns are part of the file format.
-- The counters of each identity. `start` is -1 for its sliding counters and the newest window of each calendar counter, else the start of
-- windows that newer ones have displaced, in seconds. `due` is when to look for counters that are over, in seconds.
-- `counters` is MessagePack: the fields of `CounterRow` for each, without the last ones where they have their defaults.
CREATE TABLE counter (
    identity TEXT NOT NULL,
    start INTEGER NOT NULL,
    due INTEGER NOT NULL,
    counters BLOB NOT NULL,
    PRIMARY KEY (identity, start)
) WITHOUT ROWID;
CREATE INDEX counter_due ON counter (due);

-- Numbers of the names that counters have in common: policy, unit and window.
CREATE TABLE name (
    number INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE
);

-- The reservations of running calls. `took` is MessagePack: an identity, then for each of its claims [number of the name, start,
-- cell, amount, mark] and, if it is another one, the key of the counter.
CREATE TABLE hold (
    call TEXT NOT NULL,
    part INTEGER NOT NULL,
    owner INTEGER NOT NULL,
    ceiling INTEGER NOT NULL,
    took BLOB NOT NULL,
    PRIMARY KEY (call, part)
) WITHOUT ROWID;

-- Reservations that were charged because their process sent no heartbeat: until `due`, in seconds, a late settlement corrects that.
-- Those of a call that has a part in `hold` too are kept until it ends. The marks of calendar counters are those at the charge.
CREATE TABLE charged (
    call TEXT NOT NULL,
    part INTEGER NOT NULL,
    ceiling INTEGER NOT NULL,
    took BLOB NOT NULL,
    due INTEGER NOT NULL,
    PRIMARY KEY (call, part)
) WITHOUT ROWID;
CREATE INDEX charged_due ON charged (due);

-- The processes that have reservations, and the time of their last heartbeat.
CREATE TABLE owner (
    id INTEGER PRIMARY KEY,
    seen INTEGER NOT NULL
);

-- How many counters each group of identities has.
CREATE TABLE crowd (
    key TEXT PRIMARY KEY,
    counters INTEGER NOT NULL
) WITHOUT ROWID;

-- When a sliding counter of a group was made or looked at last, and how often the clock was set back: then the groups of sliding
-- counters get new names.
CREATE TABLE group_clock (
    latest INTEGER NOT NULL,
    setbacks INTEGER NOT NULL
);
INSERT INTO group_clock VALUES (0, 0);

-- Small values that expire at `ends`. `number` orders them by age: it grows with each new one.
CREATE TABLE IF NOT EXISTS entry (
    number INTEGER PRIMARY KEY,
    key TEXT NOT NULL UNIQUE,
    value BLOB NOT NULL,
    ends INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS entry_ends ON entry (ends);

-- What an operator has corrected: each process logs it at its next heartbeat.
CREATE TABLE notice (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    text TEXT NOT NULL
);

-- The limits that were configured at the last start: the name of the policy, and what identifies its counters.
CREATE TABLE configured (
    name TEXT PRIMARY KEY,
    counted TEXT NOT NULL
) WITHOUT ROWID;

-- The random identity of this file: another one at the same path has lost the counters.
CREATE TABLE generation (
    id TEXT NOT NULL
);
INSERT INTO generation VALUES (lower(hex(randomblob(16))));
