"""Relayed requests: their paths, queries, models and usage."""
