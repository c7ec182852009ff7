"""Run llama.cpp's own server, as xllamacpp's package contains it.  Usage: native_server.py MODEL PORT [embeddings].

It is the program `llama-server` as a library: the same routes, answers and errors.
"""

from __future__ import annotations

import sys
import threading

import xllamacpp

SLOTS, CONTEXT_PER_SLOT = 2, 512


def start(model: str, port: int, *, embeddings: bool) -> xllamacpp.Server:
    """Start the server; it answers from threads of its own until the object is gone."""
    settings = xllamacpp.CommonParams()
    settings.model.path = model
    settings.n_ctx, settings.n_parallel = SLOTS * CONTEXT_PER_SLOT, SLOTS
    settings.hostnames, settings.port = ["127.0.0.1"], port
    settings.warmup = settings.cache_prompt = False
    settings.embedding = embeddings
    if embeddings:
        settings.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
    return xllamacpp.Server(settings)


if __name__ == "__main__":
    server = start(sys.argv[1], int(sys.argv[2]), embeddings=len(sys.argv) > 3)
    threading.Event().wait()
