-- Times are microseconds since 1970.
-- Every counter: a calendar one for each window (`start`), a sliding one once (`start` is -1, `spent` its running total,
-- `oldest` the first taking that is still counted, `ends` when the newest will have gone).  `crowd` counts identities.
CREATE TABLE counter (
    key TEXT NOT NULL,
    start INTEGER NOT NULL,
    ends INTEGER NOT NULL,
    spent INTEGER NOT NULL,
    held INTEGER NOT NULL,
    oldest INTEGER NOT NULL,
    crowd TEXT,
    PRIMARY KEY (key, start)
) WITHOUT ROWID;

-- What sliding counters still count: from `first` to `last`, that much.
CREATE TABLE taking (
    key TEXT NOT NULL,
    first INTEGER NOT NULL,
    last INTEGER NOT NULL,
    amount INTEGER NOT NULL,
    PRIMARY KEY (key, first)
) WITHOUT ROWID;

-- What each running call holds, as JSON: [key, counter, start, first, amount] for each claim.
CREATE TABLE hold (
    call TEXT NOT NULL,
    part INTEGER NOT NULL,
    owner INTEGER NOT NULL,
    ceiling INTEGER NOT NULL,
    took BLOB NOT NULL,
    PRIMARY KEY (call, part)
) WITHOUT ROWID;

-- The processes that hold, and when each was last seen alive.
CREATE TABLE owner (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    seen INTEGER NOT NULL
);

-- How many counters of its own each crowd of made-up identities has.
CREATE TABLE crowd (
    key TEXT PRIMARY KEY,
    counters INTEGER NOT NULL
) WITHOUT ROWID;

-- When somebody last looked for counters that nobody uses any more.
CREATE TABLE tidied (
    at INTEGER NOT NULL
);
INSERT INTO tidied VALUES (0);
