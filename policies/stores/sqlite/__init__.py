"""The SQLite store: a file that the workers of one machine share, with group commit."""
