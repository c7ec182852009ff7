"""Answers of the legacy completions API."""
