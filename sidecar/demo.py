"""The whole thing with nothing to configure: a mock upstream, and a sidecar in front of it."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import msgspec

from .loading import load
from .settings import Flags, StoreSettings

TRY = """\
Once it listens, try in another terminal:

  curl -N http://127.0.0.1:{port}/api/chat -H 'content-type: application/json' \\
    -d '{{"messages": [{{"role": "user", "content": "Hello!"}}]}}'

  curl -N http://127.0.0.1:{port}/v1/chat/completions -H 'content-type: application/json' \\
    -d '{{"model": "mock-20-50-200", "stream": true, "messages": [{{"role": "user", "content": "Hello!"}}]}}'

The model mock-20-50-200 sends 20 tokens, 50 ms apart, the first after 200 ms.  Ctrl+C ends the demo.
"""


def demo(port: int) -> int:
    """Run the demo on *port* until a signal; return the exit code.  The mock ends with it."""
    command = [sys.executable, "-m", "sidecar", "mock", "--port", "0", "--interval-ms", "30"]
    with tempfile.TemporaryDirectory() as folder, subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as mock:
        try:
            address = (mock.stdout.readline() if mock.stdout else "").rpartition(" ")[2].strip()
            if not address:
                return 1
            settings = load(None, environ={}, flags=Flags(upstream=address, port=port))
            settings = msgspec.structs.replace(
                settings,
                server=msgspec.structs.replace(settings.server, cors_origins=("*",)),
                store=StoreSettings(f"sqlite:///{Path(folder) / 'demo.db'}"),
            )
            print(TRY.format(port=port), file=sys.stderr, flush=True)
            from .server import run

            return run(settings)
        finally:
            mock.terminate()
