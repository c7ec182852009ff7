"""Measure the time from the start of the program to the end of its first answer."""

from __future__ import annotations

import json
import statistics
import time
from http.client import HTTPConnection
from pathlib import Path

from targets import sidecar
from workloads import WORK, request_body


def startup(folder: Path, upstream: int, times: int) -> float:
    """Return the median of *times* starts, in seconds; the request follows the announcement of the address."""
    took = []
    for _ in range(times):
        began = time.monotonic()
        with sidecar(folder, upstream, "mock") as target:
            client = HTTPConnection("127.0.0.1", target.port, timeout=10)
            client.request(
                "POST",
                target.path,
                json.dumps(request_body(WORK["one"], target.path)),
                {"content-type": "application/json"},
            )
            answer = client.getresponse()
            content = answer.read()
            took.append(time.monotonic() - began)
            client.close()
        assert answer.status == 200
        assert content.endswith(b"data: [DONE]\n\n")
    return round(statistics.median(took), 2)
