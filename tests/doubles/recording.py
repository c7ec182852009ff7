"""A sidecar whose records a test can read."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from serving import Sidecar, settings_of, sidecar
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from wire import HEAD, Connection, Upstream, eventually, sse, token

from policies import Observer, Policy, Record
from sidecar.config.settings import Settings
from sidecar.server.gateway import Gateway
from sidecar.server.http1.http_protocol import HttpProtocol

V1 = "/v1/chat/completions"
SERVERS = pytest.mark.parametrize("protocol", [HttpProtocol, HttpToolsProtocol], ids=["own", "another"])
HI: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hunter2"}], "stream": True}
USAGE = sse({"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 3}})
STOP = sse({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})


class Keeps(Observer, frozen=True):
    """Keeps all records."""

    records: list[Record] = msgspec.field(default_factory=list)

    def observe(self, record: Record) -> None:
        self.records.append(record)


class Recorded(msgspec.Struct):
    """A running sidecar and the records of its requests."""

    served: Sidecar
    records: list[Record]

    async def one(self) -> Record:
        """Return the only record, once it exists."""
        await eventually(lambda: bool(self.records))
        (record,) = self.records
        return record


@asynccontextmanager
async def recorded(
    folder: Path,
    up: Upstream | str | None,
    text: str = "",
    *,
    protocol: type[asyncio.Protocol] = HttpProtocol,
    policies: tuple[Policy, ...] = (),
    make_gateway: Callable[[Settings], Gateway] = Gateway,
    environ: Mapping[str, str] | None = None,
) -> AsyncIterator[Recorded]:
    """Run a sidecar that keeps its records, in front of *up*, a base URL or (None) the upstreams that *text* lists.

    *policies* replace those of the profile.
    """
    observer = Keeps()
    settings = settings_of(folder, up.url if isinstance(up, Upstream) else up, text, environ=environ)
    if policies:
        base = msgspec.structs.replace(settings.base, policies=policies)
        settings = msgspec.structs.replace(settings, base=base)
    settings = msgspec.structs.replace(settings, observers=(observer,))
    async with sidecar(settings, protocol=protocol, make_gateway=make_gateway) as served:
        yield Recorded(served, observer.records)


async def says_ab(connection: Connection) -> None:
    """Stream two tokens and the usage."""
    await connection.send(HEAD)
    for data in (token("a"), token("b"), STOP, USAGE, b"data: [DONE]\n\n"):
        await connection.chunk(data)
    await connection.send(b"0\r\n\r\n")
