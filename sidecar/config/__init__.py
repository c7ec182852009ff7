"""Read TOML, the environment and flags into validated, immutable settings."""
