"""Play the cases: a client process in front of the upstream double, and another one in front of a sidecar."""

from __future__ import annotations

import asyncio
import json
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from apis.routes import answers
from case import Case
from process import environment, program
from wire import Connection, Upstream, eventually, upstream

ANSWER_TIMEOUT_SECONDS = 60
"""Seconds after which a client that has not finished a case fails its tests."""
SAME_HEADERS = ("authorization", "content-type", "x-api-key", "anthropic-version", "anthropic-beta")
"""Headers of a request that reach upstream unchanged."""
UNREACHABLE_PROXY = "http://127.0.0.1:1"
CLIENT_ENVIRONMENT = {
    **dict.fromkeys(("NO_PROXY", "no_proxy"), "127.0.0.1"),
    **dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"), UNREACHABLE_PROXY),
    **dict.fromkeys(("http_proxy", "https_proxy", "all_proxy"), UNREACHABLE_PROXY),
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "LANGSMITH_TRACING": "false",
    "DO_NOT_TRACK": "1",
    "HF_HUB_OFFLINE": "1",
    "OPENAI_AGENTS_DISABLE_TRACING": "1",
}
"""Clients reach this machine alone: they report nothing, and what they would download is missing at once."""


@dataclass(frozen=True)
class Client:
    """A client library, and the command of its script."""

    name: str
    command: tuple[str, ...]
    cases: tuple[Case, ...]
    retries_itself: bool = False
    """Whether it repeats failed calls in a loop of its own, which does not read `x-should-retry`."""


@dataclass(frozen=True)
class Outcome:
    """What the application saw of one case, and the requests that reached upstream."""

    seen: dict[str, Any]
    requests: list[dict[str, Any]]


@dataclass
class Side:
    """The outcomes of one client, direct or through the sidecar, by the name of the case."""

    version: str = ""
    outcomes: dict[str, Outcome] = field(default_factory=dict)


def received(connection: Connection) -> dict[str, Any]:
    """Return what must be the same of a request, whichever way it came."""
    kept = {name: connection.header(name) for name in SAME_HEADERS}
    body = connection.body if connection.raw_body else None
    if body is None:
        kept["content-type"] = None  # some clients send it with requests that have no body
    return {"line": connection.head.split(b"\r\n")[0].decode(), "headers": kept, "body": body}


@asynccontextmanager
async def running(command: tuple[str, ...], folder: Path, log: Path) -> AsyncIterator[Process]:
    """Run *command* while the block lasts; its stderr goes to *log*."""
    environ = environment({**CLIENT_ENVIRONMENT, "HOME": str(folder)})
    with log.open("wb") as errors:
        process = await asyncio.create_subprocess_exec(
            *command, stdin=PIPE, stdout=PIPE, stderr=errors, cwd=folder, env=environ, limit=2**20
        )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


def log_end(log: Path) -> str:
    return log.read_text()[-3000:]


async def read_line(process: Process, log: Path) -> dict[str, Any]:
    """Return the next JSON line of *process*."""
    assert process.stdout is not None
    try:
        async with asyncio.timeout(ANSWER_TIMEOUT_SECONDS):
            line = await process.stdout.readline()
    except TimeoutError:
        raise AssertionError(f"the client has printed nothing for {ANSWER_TIMEOUT_SECONDS} s: {log_end(log)}") from None
    assert line, f"the client has ended: {log_end(log)}"
    decoded: dict[str, Any] = json.loads(line)
    return decoded


async def play(case: Case, process: Process, served: Upstream, log: Path) -> Outcome:
    """Run one case."""
    assert process.stdin is not None
    served.play(*case.scripts)
    before = len(served.requests)
    process.stdin.write(f"{case.operation}\n".encode())
    await process.stdin.drain()
    seen = await read_line(process, log)
    requests = served.requests[before:]
    if case.closes:
        await eventually(lambda: all(each.gone.is_set() for each in requests))  # while the client process still runs
    return Outcome(seen, [received(each) for each in requests])


async def play_all(client: Client, folder: Path, *, through_sidecar: bool) -> Side:
    """Run all cases with one process of *client*, and with one sidecar in its shipped configuration if asked."""
    folder.mkdir()
    log = folder / "client.log"
    side = Side()
    async with upstream(answers) as served:
        with ExitStack() as stack:
            url = served.url
            if through_sidecar:
                started = program("serve", "--upstream", url, "--port", "0", folder=folder, log=folder / "sidecar.log")
                url = (await asyncio.to_thread(stack.enter_context, started)).url + "/v1"
            async with running((*client.command, url), folder, log) as process:
                side.version = (await read_line(process, log))["version"]
                for case in client.cases:
                    side.outcomes[case.name] = await play(case, process, served, log)
    return side


class Played(NamedTuple):
    """A client, and what it saw on both ways."""

    client: Client
    direct: Side
    through: Side


async def both_sides(client: Client, folder: Path) -> Played:
    """Return what *client* saw direct and through the sidecar, played at the same time."""
    direct = asyncio.create_task(play_all(client, folder / "direct", through_sidecar=False))
    through = asyncio.create_task(play_all(client, folder / "sidecar", through_sidecar=True))
    return Played(client, await direct, await through)
