"""The access log of the program has one line for each request, and observers cannot break a request."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import msgspec
import pytest
from process import program
from recording import HI, V1, Keeps, says_ab
from serving import settings_of, sidecar
from wire import eventually, upstream

from policies import Observer, Record

pytestmark = pytest.mark.anyio


class Fails(Observer, frozen=True):
    """Cannot observe."""

    def observe(self, record: Record) -> None:
        raise RuntimeError("secret")


async def test_failing_observer_breaks_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """An observer that raises breaks no request and no other observer; the log names its class once."""
    keeps = Keeps()
    async with upstream(says_ab) as up:
        settings = msgspec.structs.replace(settings_of(tmp_path, up.url), observers=(Fails(), keeps))
        async with sidecar(settings) as served:
            for _ in range(3):
                status, _, _ = await served.post(V1, HI)
                assert status == 200
            await eventually(lambda: len(keeps.records) == 3)

    assert caplog.text.count("Fails") == 1
    assert "secret" not in caplog.text


OBSERVERS = """
import msgspec
from policies import Observer, Record


class ToFile(Observer, frozen=True):
    path: str

    def observe(self, record: Record) -> None:
        with open(self.path, "ab") as file:
            file.write(msgspec.json.encode(record) + b"\\n")
"""


def test_access_log_and_observer_of_the_program(tmp_path: Path) -> None:
    """The program writes one access line a request to stderr, and hands the record to the observers of its configuration."""
    (tmp_path / "seen.py").write_text(OBSERVERS)
    config = tmp_path / "sidecar.toml"
    config.write_text(
        f'[store]\nurl = "memory://"\n[log]\nformat = "json"\n[[observer]]\nuse = "seen:ToFile"\npath = "{tmp_path / "out"}"\n'
    )
    log = tmp_path / "log"
    serve = ["serve", "--config", str(config), "--upstream", "http://127.0.0.1:9/v1", "--port", "0"]
    with program(*serve, folder=tmp_path, log=log) as running:
        answer = httpx.post(
            f"http://127.0.0.1:{running.port}{V1}", json=HI, headers={"authorization": "Bearer sk-hidden"}
        )
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    requests = [line for line in lines if line["event"] == "request"]

    assert [(line["status"], line["request_id"]) for line in requests] == [
        (answer.status_code, answer.headers["x-request-id"])
    ]
    assert [json.loads(line)["request_id"] for line in (tmp_path / "out").read_text().splitlines()] == [
        requests[0]["request_id"]
    ]
    assert "hunter2" not in log.read_text()
    assert "sk-hidden" not in log.read_text()
    assert sum("upstream" in str(line) for line in lines) == 1, "one line for one failure"


def test_access_log_can_be_switched_off(tmp_path: Path) -> None:
    """With `access = false` a request is not logged, and a failure is one line beside state changes of the server."""
    config = tmp_path / "sidecar.toml"
    config.write_text('[store]\nurl = "memory://"\n[log]\naccess = false\n')
    log = tmp_path / "log"
    serve = ["serve", "--config", str(config), "--upstream", "http://127.0.0.1:9/v1", "--port", "0"]
    with program(*serve, folder=tmp_path, log=log) as running:
        httpx.post(f"http://127.0.0.1:{running.port}{V1}", json={})
        assert "request id=" not in log.read_text()
        httpx.post(f"http://127.0.0.1:{running.port}{V1}", json=HI)
    (line,) = [line for line in log.read_text().splitlines() if " state " not in line]

    assert "failed: connect" in line
