"""The Redis store: for any number of machines, one Lua script for each operation."""
