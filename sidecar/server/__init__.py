"""The HTTP server, its workers, and the composition root."""
