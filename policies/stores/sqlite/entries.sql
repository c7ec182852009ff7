-- Created in new files, and in files of earlier releases, which ignore it.
-- Entries: small values that expire at `ends`. `number` orders them by age: it grows with each new one.
CREATE TABLE IF NOT EXISTS entry (
    number INTEGER PRIMARY KEY,
    key TEXT NOT NULL UNIQUE,
    value BLOB NOT NULL,
    ends INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS entry_ends ON entry (ends);
