"""Run a Redis server for a measurement, and read its memory and its traffic."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from processes import OTHERS, free_port, reachable, started


class RedisProcess(NamedTuple):
    """A running server."""

    pid: int
    port: int

    @property
    def url(self) -> str:
        """The URL of its first database."""
        return f"redis://127.0.0.1:{self.port}/0"


class RedisUsage(NamedTuple):
    """Bytes in memory without buffers, bytes received and sent since the start, and bytes of the append-only file."""

    memory: int
    network: int
    journal: int


@contextlib.contextmanager
def redis_process(folder: Path, core: int | None = OTHERS, prefix: Sequence[str] = ()) -> Iterator[RedisProcess | None]:
    """Run Redis or Valkey on *core* with an append-only file that is never rewritten; None if it is not installed.

    *prefix* is what its command line begins with, such as a profiler.
    """
    program = shutil.which("redis-server") or shutil.which("valkey-server")
    if program is None:
        yield None
        return
    port = free_port()
    command = [*prefix, program, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "yes"]
    command += ["--auto-aof-rewrite-percentage", "0", "--dir", str(folder)]
    with started(command, core, folder, quiet=True) as (pid, _):
        reachable(port, pid=pid)
        yield RedisProcess(pid, port)


def redis_usage(port: int) -> RedisUsage:
    """Ask the server on *port*. The answer itself, 7 kB, counts as traffic of the next reading."""
    from redis import Redis

    client = Redis(host="127.0.0.1", port=port)
    found = client.info()
    client.close()
    assert isinstance(found, dict)
    network = int(found["total_net_input_bytes"]) + int(found["total_net_output_bytes"])
    buffers = int(found["mem_clients_normal"]) + int(found["mem_aof_buffer"])
    return RedisUsage(int(found["used_memory"]) - buffers, network, int(found["aof_current_size"]))
