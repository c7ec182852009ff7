-- Created in new files, and in files of earlier releases, which ignore it.
-- Entries: small values that expire at `ends`. `number` grows with each write, so that it orders them by age.
CREATE TABLE IF NOT EXISTS entry (
    number INTEGER PRIMARY KEY,
    key TEXT NOT NULL UNIQUE,
    value BLOB NOT NULL,
    ends INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS entry_ends ON entry (ends);
