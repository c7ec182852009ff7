"""Count the files of a request, and the moves between them. `structure.py --trace` runs this in its own process.

The main thread runs `python -m sidecar serve` with a profile hook, in front of the mock in another process.  A second thread
is the client: on one kept connection it sends a request that is not counted, then five that are, and prints their median.
A move is a call of a Python function in another file than the function called before it.  Only files of `sidecar/` and
`policies/` count, and only the serving thread.  The second number of moves also counts the returns to a caller's file.
"""

from __future__ import annotations

import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from statistics import median
from types import FrameType
from typing import Any

STREAMS = {
    "/v1, 3 tokens 20 ms apart": ("/v1/chat/completions", "mock-3-20-0"),
    "/v1, 3 tokens at once": ("/v1/chat/completions", "mock-3-0-0"),
    "/api/chat, 64 tokens 5 ms apart": ("/api/chat", ""),
}
"""Path and model of each stream; the mock's model names the number of tokens and the milliseconds between two of them."""
CHAT_MODEL = "mock-64-5-0"
"""The default model, for requests on `/api/chat`, which name none."""
REPEATS = 5
MAX_PAIRS = 30
"""Limit of the pairs of files that `--files` prints."""
MESSAGES = [{"role": "user", "content": "Hello there"}]
SETTLED = 0.2
"""Seconds after the last byte within which the call is settled."""


class Counted:
    """The function calls per file, and the moves between files, of one request."""

    def __init__(self) -> None:
        self.files: Counter[str] = Counter()
        self.pairs: Counter[tuple[str, str]] = Counter()
        self.moves = self.moves_and_returns = 0
        self.called = self.ran = ""


class Recorder:
    """Counts the calls of the serving thread in `counted`, unless it is None."""

    def __init__(self, root: Path) -> None:
        self._prefixes = tuple(f"{root / package}{os.sep}" for package in ("sidecar", "policies"))
        self.counted: Counted | None = None

    def hook(self, frame: FrameType, event: str, _: Any) -> None:
        """Count one event of `sys.setprofile`."""
        counted, name = self.counted, frame.f_code.co_filename
        if counted is None or event not in ("call", "return") or not name.startswith(self._prefixes):
            return
        if event == "call":
            counted.files[name] += 1
            if counted.called not in ("", name):
                counted.moves += 1
                counted.pairs[counted.called, name] += 1
            counted.called = name
        counted.moves_and_returns += counted.ran not in ("", name)
        counted.ran = name


class Client(threading.Thread):
    """Sends the requests to *port* once it is open, calls *report* with each result, and ends the program."""

    def __init__(self, port: int, recorder: Recorder, report: Callable[[str, list[Counted]], None]) -> None:
        super().__init__(daemon=True)
        self._port, self._recorder, self._report = port, recorder, report
        self.failed = False

    def run(self) -> None:
        """Send all requests, then end the program; a failure is printed first."""
        try:
            for name, (path, model) in STREAMS.items():
                with connected(self._port) as client:
                    self._recorded(client, path, model)
                    self._report(name, [self._recorded(client, path, model) for _ in range(REPEATS)])
        except (OSError, ValueError):
            self.failed = True
            traceback.print_exc()
        finally:
            os.kill(os.getpid(), signal.SIGTERM)

    def _recorded(self, client: socket.socket, path: str, model: str) -> Counted:
        self._recorder.counted = counted = Counted()
        ask(client, path, model)
        time.sleep(SETTLED)
        self._recorder.counted = None
        return counted


def connected(port: int) -> socket.socket:
    """Return a connection to *port*, retried for up to 30 seconds."""
    deadline = time.monotonic() + 30
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port), timeout=30)
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def ask(client: socket.socket, path: str, model: str) -> None:
    """Send one request on *client* and read the whole answer; raise ValueError unless it is a finished stream."""
    body = json.dumps({"model": model, "stream": True, "messages": MESSAGES}).encode()
    head = f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    client.sendall(head.encode() + body)
    answer = b""
    while not answer.endswith(b"0\r\n\r\n"):
        if not (piece := client.recv(65536)):
            raise ValueError(f"the connection was closed after {answer!r}")
        answer += piece
    if not answer.startswith(b"HTTP/1.1 200") or not (b"[DONE]" in answer or b"event: done" in answer):
        raise ValueError(f"this is not a finished stream: {answer!r}")


def free_port() -> int:
    """Return a port on which no process listens."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def main() -> int:
    """Serve and record; return the exit code."""
    root = Path(sys.argv[1])
    command = [sys.executable, "-m", "sidecar", "mock", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as mock:
        try:
            assert mock.stdout is not None
            upstream = mock.stdout.readline().rpartition(" ")[2].strip()
            return serve(root, upstream)
        finally:
            mock.terminate()


def serve(root: Path, upstream: str) -> int:
    """Run the program in this thread, in front of *upstream*; return the exit code."""
    results: list[str] = []
    names_files = "--files" in sys.argv

    def report(name: str, requests: list[Counted]) -> None:
        files = median(len(each.files) for each in requests)
        moves = median(each.moves for each in requests)
        returns = median(each.moves_and_returns for each in requests)
        results.append(f"{name:<32}{files} files, {moves} moves ({returns} with returns)")
        if names_files:
            calls = requests[-1].files.most_common()
            results.extend(f"  {count:5} calls in {Path(file).relative_to(root)}" for file, count in calls)
            for pair, count in requests[-1].pairs.most_common(MAX_PAIRS):
                results.append(f"  {count:5} moves {' -> '.join(str(Path(file).relative_to(root)) for file in pair)}")

    recorder, port = Recorder(root), free_port()
    client = Client(port, recorder, report)
    sys.argv[:] = [*sys.argv[:1], "serve", "--upstream", upstream, "--model", CHAT_MODEL, "--port", str(port)]
    client.start()
    sys.setprofile(recorder.hook)
    try:
        runpy.run_module("sidecar", run_name="__main__")
    except SystemExit as end:
        code = int(end.code or 0)
    else:
        code = 0
    finally:
        sys.setprofile(None)
    print("\n".join(results))
    return 1 if client.failed else code


if __name__ == "__main__":
    sys.exit(main())
