"""How long the program takes from its start to the end of the first answer that it serves."""

from __future__ import annotations

import json
import statistics
import time
from http.client import HTTPConnection
from pathlib import Path

from targets import sidecar
from workloads import WORK, asked


def startup(folder: Path, upstream: int, times: int) -> float:
    """Return the median in seconds; the clients ask as soon as it says that it listens."""
    took = []
    for _ in range(times):
        began = time.monotonic()
        with sidecar(folder, upstream, "mock") as target:
            client = HTTPConnection("127.0.0.1", target.port, timeout=10)
            client.request(
                "POST", target.path, json.dumps(asked(WORK["one"], target.path)), {"content-type": "application/json"}
            )
            answer = client.getresponse()
            said = answer.read()
            took.append(time.monotonic() - began)
            client.close()
        assert answer.status == 200
        assert said.endswith(b"data: [DONE]\n\n")
    return round(statistics.median(took), 2)
