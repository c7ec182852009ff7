"""Decode and encode what crosses the wire, without I/O: SSE, JSON bodies, OpenAI and Chat Nest shapes."""
