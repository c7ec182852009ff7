"""The Redis/Valkey store: one Lua script per operation."""
