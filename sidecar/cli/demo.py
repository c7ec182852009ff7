"""Run `sidecar demo`: a mock upstream and a sidecar in front of it, with nothing to configure."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import msgspec

import sidecar
from policies.stores.opening import StoreUrl
from sidecar.config.loader import load
from sidecar.config.settings import Flags, Settings, StoreSettings

MOCK_STOP_SECONDS = 5.0
"""Seconds that the mock gets to stop after SIGTERM before it is killed."""
DEMO_COMMANDS = """\
When the sidecar listens, try in another terminal:

  curl -N http://127.0.0.1:{port}/api/chat -H 'content-type: application/json' \\
    -d '{{"messages": [{{"role": "user", "content": "Hello!"}}]}}'

  curl -N http://127.0.0.1:{port}/v1/chat/completions -H 'content-type: application/json' \\
    -d '{{"model": "mock-20-50-200", "stream": true, "messages": [{{"role": "user", "content": "Hello!"}}]}}'

The model mock-20-50-200 sends 20 tokens, 50 ms apart, the first after 200 ms. Ctrl+C ends the demo.
"""


def demo(port: int) -> int:
    """Run the demo on *port* until a signal; return the exit code. Stops the mock and removes the store at the end."""
    signal.signal(signal.SIGTERM, _stop)
    with tempfile.TemporaryDirectory() as folder, _mock() as address:
        if not address:
            print("sidecar: the mock upstream did not start; see its error above", file=sys.stderr)
            return 1
        settings = demo_settings(address, port, Path(folder))
        print(DEMO_COMMANDS.format(port=port or "PORT"), file=sys.stderr, flush=True)
        from sidecar.server.run import run

        return run(settings)


def demo_settings(upstream: str, port: int, folder: Path) -> Settings:
    """Return the shipped settings with *upstream*, a store in *folder* and every CORS origin allowed."""
    settings = load(None, environ={}, flags=Flags(upstream=upstream, port=port))
    return msgspec.structs.replace(
        settings,
        server=msgspec.structs.replace(settings.server, cors_origins=("*",)),
        store=StoreSettings(StoreUrl.for_file(folder / "demo.db")),
    )


@contextlib.contextmanager
def _mock() -> Iterator[str]:
    """Run the mock as a child process on a free port; yield its URL, or an empty string if it did not start."""
    program = Path(sidecar.__file__).with_name("__main__.py")
    # Not `-m sidecar`: Python would look for the package in the working directory first.
    command = [sys.executable, "-P", str(program), "mock", "--port", "0", "--interval-ms", "30"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as mock:
        try:
            yield (mock.stdout.readline() if mock.stdout else "").rpartition(" ")[2].strip()
        finally:
            mock.terminate()
            try:
                mock.wait(MOCK_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                mock.kill()


def _stop(*_: object) -> NoReturn:
    raise SystemExit(0)
