"""A sidecar that accepts small bodies only, and the errors that it answers."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from scripts import hello
from serving import Sidecar, settings_of, sidecar
from wire import Upstream, upstream

CHAT, V1 = "/api/chat", "/v1/chat/completions"
SMALL_BODIES = "[server]\nchat_max_body = 2000\nmax_body = 2000\n"
HI = [{"role": "user", "content": "hi"}]


@asynccontextmanager
async def small_limits(folder: Path) -> AsyncIterator[tuple[Upstream, Sidecar]]:
    """Run an upstream, and a sidecar that accepts bodies of 2,000 bytes."""
    async with upstream(hello) as up, sidecar(settings_of(folder, up.url, SMALL_BODIES)) as served:
        yield up, served


def error_of(path: str, body: bytes) -> dict[str, Any]:
    """Return message and code of an error in the form of its path."""
    data: dict[str, Any] = json.loads(body)
    if path == CHAT:
        assert set(data) >= {"error", "code"}
        return {"message": data["error"], "code": data["code"]}
    assert set(data["error"]) >= {"message", "type", "param", "code"}
    return dict(data["error"])
