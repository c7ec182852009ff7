"""Decode JSON from outside in bounded time."""
