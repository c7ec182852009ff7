"""CPU per request and per token of the sidecar, beside nginx and a direct call, in one run.

The proxy under test has one core to itself; the mock upstream and the load share the other.  CPU is that of the whole
process, read from the operating system, so that noise on the machine does not matter much; read ratios, not absolutes.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parent
LIMITLESS = 10**15


class Work(NamedTuple):
    """One workload: an answer of *tokens*, *interval* ms apart, the first after *first* ms."""

    tokens: int
    interval: int
    first: int
    connections: int


WORK = {"one": Work(1, 0, 0, 1), "burst": Work(64, 0, 0, 50), "paced": Work(100, 20, 50, 300)}


class Target(NamedTuple):
    """What is measured: a process (0 for a direct call), and where it is asked."""

    name: str
    pid: int
    port: int
    path: str


def cpu_ns(pid: int) -> int:
    """Return the CPU time that *pid* and its children have had, in nanoseconds."""
    total, todo = 0, [pid]
    while todo:
        tasks = Path(f"/proc/{todo.pop()}/task")
        with contextlib.suppress(OSError):
            for task in tasks.iterdir():
                total += int((task / "schedstat").read_text().split()[0])
                todo += [int(child) for child in (task / "children").read_text().split()]
    return total


def resident_mb(pid: int) -> float:
    """Return the resident memory of *pid* in megabytes."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextlib.contextmanager
def started(command: list[str], core: int, folder: Path, *, quiet: bool = False) -> Iterator[tuple[int, str]]:
    """Run *command* on *core*; give its id and its first line, end it afterwards."""
    output = subprocess.DEVNULL if quiet else subprocess.PIPE
    cores = {core} & os.sched_getaffinity(0) or os.sched_getaffinity(0)
    process = subprocess.Popen(
        command, stdout=output, stderr=subprocess.DEVNULL, text=True, cwd=folder,
        preexec_fn=lambda: os.sched_setaffinity(0, cores),  # noqa: PLW1509  # a script of one thread
    )  # fmt: skip
    try:
        line = "" if process.stdout is None else process.stdout.readline().strip()
        yield process.pid, line
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def sidecar_config() -> str:
    """Return the shipped configuration, every policy of it on, with limits that nothing reaches."""
    from sidecar.loading import default_text

    text = default_text()
    text = re.sub(r"requests = [\d_]+", f"requests = {LIMITLESS}", text)
    text = re.sub(r"tokens = [\d_]+", f"tokens = {LIMITLESS}", text)
    text = re.sub(r"request = [\d_]+", f"request = {LIMITLESS}", text)
    text = re.sub(r"output = [\d_]+", "output = 4096", text)
    return text.replace("sqlite:///sidecar.db", "sqlite:///bench.db")


def nginx_config(folder: Path, port: int, upstream: int) -> str:
    return f"""
worker_processes 1; daemon off; pid {folder}/nginx.pid; error_log {folder}/nginx.log crit;
events {{ worker_connections 8192; }}
http {{
  keepalive_requests 1000000; access_log off; client_body_temp_path {folder}/b; proxy_temp_path {folder}/p; fastcgi_temp_path {folder}/f;
  uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  upstream up {{ server 127.0.0.1:{upstream}; keepalive 512; keepalive_requests 1000000; }}
  server {{ listen 127.0.0.1:{port};
    location / {{ proxy_pass http://up; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off; }} }}
}}
"""


def reachable(port: int) -> None:
    for _ in range(500):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.02)
    msg = f"nothing listens on port {port}"
    raise RuntimeError(msg)


def load(target: Target, work: Work, seconds: float, folder: Path, connections: int) -> dict[str, float]:
    messages = [{"role": "user", "content": "Hello, write a short story about a fox and a hen."}]
    body: dict[str, object] = {"messages": messages}
    if target.path.startswith("/v1"):
        body |= {"model": f"mock-{work.tokens}-{work.interval}-{work.first}", "stream": True}
    path = folder / "body.json"
    path.write_text(json.dumps(body))
    command = [sys.executable, str(HERE / "load.py"), "127.0.0.1", str(target.port), target.path, str(path)]
    command += [str(connections), str(seconds)]
    cores = {0} & os.sched_getaffinity(0) or os.sched_getaffinity(0)
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, preexec_fn=lambda: os.sched_setaffinity(0, cores)
    )  # fmt: skip
    counted: dict[str, float] = json.loads(done.stdout)
    return counted


def measure(target: Target, name: str, work: Work, seconds: float, folder: Path) -> dict[str, object]:
    load(target, work, min(1.0, seconds), folder, min(work.connections, 20))
    before = cpu_ns(target.pid) if target.pid else 0
    counted = load(target, work, seconds, folder, work.connections)
    spent = (cpu_ns(target.pid) - before) / 1000 if target.pid else 0.0
    row: dict[str, object] = {"target": target.name, "work": name, **counted}
    row["cpu_us_per_request"] = round(spent / max(1, counted["ok"]), 1)
    row["cpu_us_per_token"] = round(spent / max(1, counted["tokens"]), 2)
    row["resident_mb"] = round(resident_mb(target.pid), 1) if target.pid else 0.0
    return row


def show(rows: list[dict[str, object]]) -> None:
    head = (
        f"{'work':7} {'target':20} {'ok':>7} {'failed':>6} {'us/request':>11} {'us/token':>9} {'first ms':>9} {'MB':>6}"
    )
    print(head)
    for row in rows:
        print(
            f"{row['work']:7} {row['target']:20} {row['ok']:>7} {row['failed']:>6} {row['cpu_us_per_request']:>11}"
            f" {row['cpu_us_per_token']:>9} {row['first_p50_ms']:>9} {row['resident_mb']:>6}",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=4.0, help="for each workload")
    parser.add_argument("--work", default=",".join(WORK), help="which workloads, with commas")
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    given = parser.parse_args()
    rows: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for work in given.work.split(","):
            plan = WORK[work]
            mock = [sys.executable, "-m", "sidecar", "mock", "--port", "0", "--tokens", str(plan.tokens)]
            mock += ["--interval-ms", str(plan.interval), "--first-ms", str(plan.first)]
            with contextlib.ExitStack() as stack:
                _, line = stack.enter_context(started(mock, 0, folder))
                upstream = int(line.removesuffix("/v1").rpartition(":")[2])
                rows += [measure(x, work, plan, given.seconds, folder) for x in targets(stack, folder, upstream)]
    show(rows)
    if given.json:
        given.json.write_text(json.dumps(rows, indent=1))


def targets(stack: contextlib.ExitStack, folder: Path, upstream: int) -> Iterator[Target]:
    """Start and give one target after the other."""
    v1 = "/v1/chat/completions"
    yield Target("direct", 0, upstream, v1)
    if (nginx := shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")) is not None:
        port = free_port()
        (folder / "nginx.conf").write_text(nginx_config(folder, port, upstream))
        command = [nginx, "-c", str(folder / "nginx.conf"), "-p", str(folder)]
        pid, _ = stack.enter_context(started(command, 1, folder, quiet=True))
        reachable(port)
        yield Target("nginx", pid, port, v1)
    (folder / "sidecar.toml").write_text(sidecar_config())
    command = [sys.executable, "-m", "sidecar", "serve", "--config", "sidecar.toml", "--port", "0", "--model", "mock"]
    command += ["--upstream", f"http://127.0.0.1:{upstream}/v1"]
    pid, line = stack.enter_context(started(command, 1, folder))
    port = int(line.rpartition(":")[2])
    yield Target("sidecar /v1", pid, port, v1)
    yield Target("sidecar /api/chat", pid, port, "/api/chat")


if __name__ == "__main__":
    main()
