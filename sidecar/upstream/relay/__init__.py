"""Attempts that relay a request and its answer as bytes."""
