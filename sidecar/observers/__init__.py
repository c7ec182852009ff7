"""Consumers of finished records, and the log lines of the process.

This layer stands beside `upstream` and `downstream` and imports neither: `wire < config < {upstream | downstream |
observers} < server < cli`.
"""
