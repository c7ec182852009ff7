"""`sidecar demo`: a sidecar in front of a mock, without configuration."""

from __future__ import annotations

from pathlib import Path

import pytest
from process import has_ended, program
from serving import CHAT, events
from wire import Client

pytestmark = pytest.mark.anyio


async def test_demo_serves_pages_of_any_origin(tmp_path: Path) -> None:
    """The demo serves without configuration, for any origin, and ends its mock with itself."""
    with program("demo", "--port", "0", folder=tmp_path) as demo:
        assert demo.line.startswith("sidecar listening on http://127.0.0.1:")
        client = await Client.to(demo.port)
        await client.post("/api/chat", CHAT, "origin: http://localhost:5173")
        _, headers, body = await client.answer()
        client.close()
        (mock,) = demo.workers
        assert demo.stop() == 0

    assert (events(body)[0], events(body)[-1]) == (("start", ""), ("done", ""))
    assert headers["access-control-allow-origin"] in ("*", "http://localhost:5173")
    assert has_ended(mock)
    assert not list(tmp_path.iterdir())
