"""Consumers of finished records, and the log lines of the process.

The package is on the level of `upstream` and `downstream` and imports neither:
`wire < config < {upstream | downstream | observers} < server < cli`.
"""
