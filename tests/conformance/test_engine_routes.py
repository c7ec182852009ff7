"""No route of a model server is reachable unless the configuration names it."""

from __future__ import annotations

from pathlib import Path

import pytest
from engine_routes import ENGINES, EngineRoutes
from relaying import relay_upstream
from serving import settings_of, sidecar
from wire import Client

pytestmark = pytest.mark.anyio

RELAYED = '[server]\npassthrough = ["/v1/rerank", "/v1/files/{id}"]\n'


@pytest.mark.parametrize("engine", ENGINES, ids=lambda each: each.server)
async def test_routes_of_engines_are_not_served(tmp_path: Path, engine: EngineRoutes) -> None:
    """Each route of each server, with every method and in other spellings, gets 404 or 405, and nothing reaches upstream."""
    paths = [*engine.generating.split(), *engine.refused.split()]
    async with relay_upstream() as up, sidecar(settings_of(tmp_path, up.url, RELAYED)) as served:
        client = await Client.to(served.port)
        for path in paths:
            plain = path.replace("{", "").replace("}", "")
            for spelling in (
                plain,
                plain + "/",
                plain.upper(),
                "/" + plain,
                f"/v1/files/..{plain}",
                f"/v1/files/%2e%2e{plain}",
            ):
                for method in ("GET", "POST", "DELETE"):
                    client.writer.write(
                        f"{method} {spelling} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 0\r\n\r\n".encode()
                    )
                    status, _, _ = await client.answer()
                    is_model = spelling.lower().startswith("/v1/models")
                    assert status in (404, 405) or (is_model and method == "GET"), (method, spelling)
        client.close()
    assert not [each.target for each in up.requests if not each.target.startswith("/v1/models")]
