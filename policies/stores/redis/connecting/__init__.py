"""Connections to Redis servers: addresses, errors, deadlines."""
