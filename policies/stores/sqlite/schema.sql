-- Times are microseconds since 1970. The names of tables and columns are part of the file format.
-- Every counter. `key` has the identity before the policy, so that the counters of one call are beside each other. A calendar counter has a row for each window (`start`). A sliding counter has one row: `start` is -1, `spent` the
-- total of its ring, `ends` when the newest cell expires, `oldest` and `newest` the numbers of the first cell that counts
-- something and of the current one, `ring` what was taken in each cell. `held` is what is reserved, `crowd` the group whose
-- identities are limited in number. `mark` changes when a calendar counter is reset, or the cells of a sliding one were moved.
CREATE TABLE counter (
    key TEXT NOT NULL,
    start INTEGER NOT NULL,
    ends INTEGER NOT NULL,
    spent INTEGER NOT NULL,
    held INTEGER NOT NULL,
    oldest INTEGER NOT NULL,
    newest INTEGER NOT NULL,
    ring BLOB NOT NULL,
    crowd TEXT NOT NULL,
    mark INTEGER NOT NULL,
    PRIMARY KEY (key, start)
) WITHOUT ROWID;

-- When each counter is looked at, and removed if it is over. `start` -2: a charged reservation, `key` is the call.
CREATE TABLE removal (
    at INTEGER NOT NULL,
    key TEXT NOT NULL,
    start INTEGER NOT NULL,
    PRIMARY KEY (at, key, start)
) WITHOUT ROWID;

-- The reservations of running calls. `took` is MessagePack: [key, counter, start, cell, amount, mark] for each claim.
CREATE TABLE hold (
    call TEXT NOT NULL,
    part INTEGER NOT NULL,
    owner INTEGER NOT NULL,
    ceiling INTEGER NOT NULL,
    took BLOB NOT NULL,
    PRIMARY KEY (call, part)
) WITHOUT ROWID;

-- Reservations that were charged because their process sent no heartbeat: a late settlement corrects that. The marks of calendar
-- counters are those at the charge.
CREATE TABLE charged (
    call TEXT NOT NULL,
    part INTEGER NOT NULL,
    ceiling INTEGER NOT NULL,
    took BLOB NOT NULL,
    PRIMARY KEY (call, part)
) WITHOUT ROWID;

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
