"""The policy sidecar: a reverse proxy in front of any OpenAI-compatible endpoint."""

__version__ = "0.1.0"
