"""Values of `[[key]]` tables: dates, ids, comments, hashes, and their text in TOML."""
