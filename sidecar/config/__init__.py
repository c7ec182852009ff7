"""TOML, environment and flags, checked and frozen into settings."""
