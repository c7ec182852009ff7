"""Stores: memory, SQLite, Redis. One test suite covers all of them."""
