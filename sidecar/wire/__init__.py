"""Bytes to meaning and back, without I/O: SSE, JSON bodies, OpenAI and Chat Nest shapes."""
