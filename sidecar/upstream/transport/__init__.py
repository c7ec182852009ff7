"""Connections to upstream servers: one request out, one response in, bytes pushed as they arrive."""
