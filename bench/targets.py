"""The measured targets: a direct call, nginx, the sidecar on both routes, and other proxies."""

from __future__ import annotations

import contextlib
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from processes import PROXY, free_port, reachable, started

LIMITLESS = 10**15
V1, CHAT = "/v1/chat/completions", "/api/chat"
SIDECAR = "sidecar /v1"
START_TIMEOUT_SECONDS = 90.0
"""Limit for the slowest proxy to start."""


class Target(NamedTuple):
    """A process id (0 for a direct call), and the port, path and headers of its requests."""

    name: str
    pid: int
    port: int
    path: str
    headers: tuple[str, ...] = ()


def sidecar_config(text: str | None = None) -> str:
    """Return the configuration *text*, the shipped one if it is None, with limits that are never reached."""
    if text is None:
        from sidecar.config.loader import default_text

        text = default_text()
    text = re.sub(r"requests = [\d_]+", f"requests = {LIMITLESS}", text)
    text = re.sub(r"tokens = [\d_]+", f"tokens = {LIMITLESS}", text)
    text = re.sub(r"request = [\d_]+", f"request = {LIMITLESS}", text)
    text = re.sub(r"output = [\d_]+", "output = 100000", text)
    text = re.sub(r"chat_deadline = [\d_]+", "chat_deadline = 3600", text)
    text = text.replace("access = true", "access = false")  # measured on its own: bench/access_log_cost.py
    return text.replace("sqlite:///sidecar.db", "sqlite:///bench.db")


@contextlib.contextmanager
def mock(folder: Path, port: int = 0) -> Iterator[tuple[int, int]]:
    """Run the mock upstream of all targets; yield its process id and its port."""
    command = [sys.executable, "-m", "sidecar", "mock", "--port", str(port)]
    with started(command, 0, folder) as (pid, line):
        yield pid, int(line.removesuffix("/v1").rpartition(":")[2])


@contextlib.contextmanager
def sidecar(
    folder: Path, upstream: int, model: str, *, path: str = V1, core: int | None = PROXY, workers: int = 1
) -> Iterator[Target]:
    """Run the sidecar with its own store; *model* is the default model."""
    name = SIDECAR if path == V1 else f"sidecar {path}"
    home = folder / f"sidecar-{free_port()}"
    home.mkdir()
    (home / "sidecar.toml").write_text(sidecar_config())
    command = [sys.executable, "-m", "sidecar", "serve", "--config", "sidecar.toml", "--port", "0", "--model", model]
    command += ["--upstream", f"http://127.0.0.1:{upstream}/v1", "--workers", str(workers)]
    with started(command, core, home) as (pid, line):
        yield Target(name, pid, int(line.rpartition(":")[2]), path)


def nginx_program() -> str | None:
    """Return the path of nginx, None if it is not installed."""
    return shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")


def _nginx_config(folder: Path, port: int, upstream: int) -> str:
    return f"""
worker_processes 1; daemon off; pid {folder}/nginx.pid; error_log {folder}/nginx.log crit;
events {{ worker_connections 8192; }}
http {{
  keepalive_requests 1000000; access_log off; client_body_temp_path {folder}/b; proxy_temp_path {folder}/p; fastcgi_temp_path {folder}/f;
  uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s; client_max_body_size 16m; client_body_buffer_size 256k;
  upstream up {{ server 127.0.0.1:{upstream}; keepalive 512; keepalive_requests 1000000; }}
  server {{ listen 127.0.0.1:{port} backlog=4096;
    location / {{ proxy_pass http://up; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off;
      proxy_read_timeout 600s; }} }}
}}
"""


@contextlib.contextmanager
def nginx(program: str, folder: Path, upstream: int) -> Iterator[Target]:
    """Run nginx as a plain reverse proxy without buffering."""
    port = free_port()
    (folder / "nginx.conf").write_text(_nginx_config(folder, port, upstream))
    command = [program, "-c", str(folder / "nginx.conf"), "-p", str(folder)]
    with started(command, PROXY, folder, quiet=True) as (pid, _):
        reachable(port, pid=pid)
        yield Target("nginx", pid, port, V1)


@contextlib.contextmanager
def litellm(program: str, folder: Path, upstream: int) -> Iterator[Target]:
    """Run LiteLLM's proxy, configured only to forward every model."""
    port = free_port()
    (folder / "litellm.yaml").write_text(f"""
model_list:
  - model_name: "*"
    litellm_params: {{ model: "openai/*", api_base: "http://127.0.0.1:{upstream}/v1", api_key: "none" }}
general_settings: {{ master_key: "sk-bench" }}
""")
    command = [program, "--config", str(folder / "litellm.yaml"), "--host", "127.0.0.1", "--port", str(port)]
    environ = {"LITELLM_TELEMETRY": "False", "LITELLM_LOG": "ERROR", "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    with started(command, PROXY, folder, quiet=True, environ=environ) as (pid, _):
        reachable(port, START_TIMEOUT_SECONDS, pid=pid)
        yield Target("litellm", pid, port, V1, ("authorization: Bearer sk-bench",))


def peer(option: str) -> Target:
    """Parse `NAME=PID,PORT,PATH[,HEADER...]`. Raises `ValueError` for another form."""
    name, _, rest = option.partition("=")
    pid, port, path, *headers = rest.split(",")
    return Target(name, int(pid), int(port), path, tuple(headers))


def installed(stack: contextlib.ExitStack, folder: Path, upstream: int) -> Iterator[Target]:
    """Start and yield the installed proxies besides the sidecar; print those that are missing or do not start."""
    if (program := nginx_program()) is not None:
        yield stack.enter_context(nginx(program, folder, upstream))
    else:
        print("nginx: not installed, so there are no ratios to it")
    if (program := shutil.which("litellm")) is not None:
        try:
            yield stack.enter_context(litellm(program, folder, upstream))
        except RuntimeError as error:
            print(f"litellm: did not start ({error})")
