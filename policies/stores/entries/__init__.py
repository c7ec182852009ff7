"""Entries of stores, the small values that expire: their bounds, and those in the memory of one process."""
