"""Configuration: TOML, environment and flags become frozen settings."""
