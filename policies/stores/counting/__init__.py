"""Counting shared by the memory and the SQLite store: checks, reservations and settlements."""
