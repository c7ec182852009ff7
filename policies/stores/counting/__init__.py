"""Counting shared by the memory and the SQLite store: what fits, what a reservation takes, what a settlement gives back."""
