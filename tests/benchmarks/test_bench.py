"""The bench: its counting, its statistics, and that it needs only Python."""

from __future__ import annotations

import contextlib
import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from places import BENCH
from process import environment

pytestmark = [
    pytest.mark.skipif(not BENCH.exists(), reason="the bench is not part of an installed package"),
    pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="CPU time is read from Linux's /proc"),
]


@pytest.fixture
def part(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that imports one of the bench's files."""
    monkeypatch.syspath_prepend(BENCH)
    return importlib.import_module


HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
CHUNKED = HEAD + b'transfer-encoding: chunked\r\n\r\n20\r\ndata: {"content":" tok0"}\ndata: " tok1\r\n0\r\n\r\n'
BODY = b'{"content":" tok0", "0\r\n\r\n"}'
WHOLE = HEAD + b"Content-Length: %d\r\n\r\n%b" % (len(BODY), BODY)


@pytest.mark.parametrize(("answer", "tokens"), [(CHUNKED, 2), (WHOLE, 1)])
def test_tokens_are_counted_across_reads(answer: bytes, tokens: int, part: Any) -> None:
    """Tokens and the end of a response are found for any split into reads; a content-length is obeyed."""
    load = part("load")
    for first in range(1, len(answer)):
        for second in range(first, len(answer)):
            taking, counted = load.Answering(), 0
            for piece in (answer[:first], answer[first:second], answer[second:]):
                if piece:
                    assert not taking.over
                    counted += taking.take(piece)
            assert (counted, taking.over, taking.refused) == (tokens, True, False), (first, second)


def test_calmer_half_of_the_rounds_counts(part: Any) -> None:
    """The table has medians and ratios of the calmer half of the rounds, and sums of counts."""
    table = part("table")

    def one(nginx: float, ours: float, others: int) -> list[dict[str, Any]]:
        row = {"work": "one", "unit": "request", "ok": 10, "others_percent": others}
        return [row | {"target": "nginx", "cpu_us_per_unit": nginx}, row | {"target": "us", "cpu_us_per_unit": ours}]

    rounds = [one(50.0, 500.0, 2), one(90.0, 510.0, 60), one(100.0, 1000.0, 5), one(50.0, 520.0, 9), one(99.0, 1.0, 80)]
    nginx, ours = table.merged(rounds)

    assert (nginx["x_nginx"], ours["x_nginx"], ours["ok"], ours["cpu_us_per_unit"]) == (1.0, 10.0, 50, 520.0)
    assert len(table.line(ours)) == len(table.head())


def test_missing_nginx_is_reported(tmp_path: Path, part: Any, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """A machine without nginx gets a message and no error."""
    targets = part("targets")
    monkeypatch.setattr(targets.shutil, "which", lambda *_, **__: None)
    with contextlib.ExitStack() as stack:
        assert list(targets.installed(stack, tmp_path, 1)) == []
    assert "nginx: not installed" in capsys.readouterr().out


def test_dead_proxy_is_not_waited_for(tmp_path: Path, part: Any, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """A proxy that ends at once gets a message and no error, and is not waited for."""
    targets = part("targets")
    (tmp_path / "litellm").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "litellm").chmod(0o755)
    monkeypatch.setattr(targets, "nginx_program", lambda: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    with contextlib.ExitStack() as stack:
        assert list(targets.installed(stack, tmp_path, 1)) == []
    assert "litellm: did not start" in capsys.readouterr().out


def test_running_proxy_is_described(part: Any) -> None:
    """A proxy that is running is described by name, process, port, path and headers."""
    targets = part("targets")
    assert targets.peer("node=7,4000,/v1/x,a: b") == targets.Target("node", 7, 4000, "/v1/x", ("a: b",))
    with pytest.raises(ValueError, match="unpack"):
        targets.peer("node=7")


def test_bench_needs_only_python(tmp_path: Path) -> None:
    """The bench runs without a compiler and other programs, and writes its figures as JSON."""
    command = [sys.executable, str(BENCH / "run.py"), "--alone", "--quick", "--seconds", "0.2", "--work", "one,plain"]
    command += ["--patience", "0", "--figures", "idle-policy", "--json", "found.json"]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment({"PATH": str(tmp_path)}),
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "found.json").read_text())

    assert set(found) == {"machine", "rows", "figures"}
    assert [(row["work"], row["target"], row["failed"]) for row in found["rows"]] == [
        ("one", "direct", 0),
        ("one", "sidecar /v1", 0),
        ("one", "sidecar /api/chat", 0),
        ("plain", "direct", 0),
        ("plain", "sidecar /v1", 0),
    ]
    assert all(row["ok"] > 0 and "x_nginx" not in row for row in found["rows"])
    assert {figure["name"] for figure in found["figures"]} >= {"CPU of an idle policy, per event"}
