"""The command line: output, refused arguments, settings from flags, and exit codes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from process import EXIT_TIMEOUT_SECONDS, environment, program, ran

from sidecar import __version__
from sidecar.cli import main as cli
from sidecar.cli.demo import demo_settings
from sidecar.config.settings import Settings

HEAVY_MODULES = ("litestar", "openai", "uvicorn", "uvloop", "httpx")
SERVE_ARGUMENT = "sidecar serve: argument"
MOCK_ARGUMENT = "sidecar mock: argument"


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ([], "sidecar: the following arguments are required: COMMAND; see `sidecar --help`"),
        (["serve", "--upstream", ""], f"{SERVE_ARGUMENT} --upstream: the value is empty: omit the flag, or give a value; see `sidecar serve --help`"),
        (["serve", "--host", " "], f"{SERVE_ARGUMENT} --host: the value is empty: omit the flag, or give a value; see `sidecar serve --help`"),
        (["serve", "--port", "-1"], f"{SERVE_ARGUMENT} --port: invalid value '-1': expected a whole number from 0 to 65535; see `sidecar serve --help`"),
        (["serve", "--workers", "two"], f"{SERVE_ARGUMENT} --workers: invalid value 'two': expected a whole number >= 1; see `sidecar serve --help`"),
        (["demo", "--port", "65536"], "sidecar demo: argument --port: invalid value '65536': expected a whole number from 0 to 65535; see `sidecar demo --help`"),
        (["mock", "--tokens", "0"], f"{MOCK_ARGUMENT} --tokens: invalid value '0': expected a whole number >= 1; see `sidecar mock --help`"),
        (["mock", "--interval-ms", "-1"], f"{MOCK_ARGUMENT} --interval-ms: invalid value '-1': expected a number of milliseconds >= 0; see `sidecar mock --help`"),
        (["mock", "--first-ms", "nan"], f"{MOCK_ARGUMENT} --first-ms: invalid value 'nan': expected a number of milliseconds >= 0; see `sidecar mock --help`"),
        (["serve", "--config", "."], ".: file: cannot be read: [Errno 21] Is a directory: '.'; name a TOML file in UTF-8"),
        (["check", "--config", "none.toml"], "none.toml: file: not found; create one with `sidecar config > sidecar.toml`"),
        (["serve"], "defaults: upstream: no upstream is configured; give --upstream URL, set SIDECAR_UPSTREAM or OPENAI_API_KEY, or add an [[upstream]]"),
    ],
)  # fmt: skip
def test_invalid_arguments_exit_with_2(
    arguments: list[str], line: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An invalid flag or file gives one line on stderr and exit code 2."""
    for name in [name for name in os.environ if name.startswith(("SIDECAR_", "OPENAI_"))]:
        monkeypatch.delenv(name)
    code = cli.main(arguments)

    assert (code, *capsys.readouterr()) == (2, "", line + "\n")


def test_workers_need_a_shared_store(tmp_path: Path) -> None:
    """Several workers with a store in memory are refused before the server listens."""
    environ = {"SIDECAR_STORE": "memory://"}
    code, out, err = ran("serve", "--upstream", "http://h/v1", "--workers", "2", folder=tmp_path, environ=environ)

    assert (code, out) == (2, "")
    assert err == (
        "defaults: SIDECAR_STORE: 'memory://' cannot serve 2 workers: each would count separately; "
        "use 'sqlite:///FILE' or 'redis://HOST:PORT/DB', or one worker\n"
    )


def test_check_reports_every_fault(tmp_path: Path) -> None:
    """`check` prints one line for each fault, and needs neither an upstream nor a store nor a secret."""
    (tmp_path / "bad.toml").write_text(
        "[server]\nport = 'x'\nheartbeat = 0\n[[upstream]]\nbase_url = 'http://h'\napi_key_env = 'NO'\n"
    )
    code, out, err = ran("check", "--config", "bad.toml", folder=tmp_path)

    assert (code, out) == (2, "")
    assert err == (
        "bad.toml: server.port: invalid value 'x': expected a whole number; omit port for the default 8787\n"
        "bad.toml: server.heartbeat: invalid value 0: expected a number of seconds > 0; omit heartbeat for the default 15\n"
    )
    assert ran("check", folder=tmp_path)[0] == 0
    assert [path.name for path in tmp_path.iterdir()] == ["bad.toml"]


def test_check_prints_ascii_where_needed(tmp_path: Path) -> None:
    """`check` works on a terminal that cannot print arrows."""
    code, out, err = ran("check", folder=tmp_path, environ={"PYTHONIOENCODING": "ascii"})

    assert (code, err) == (0, "")
    assert out.startswith("ok: rate ? trim ? max_tokens")


def test_config_prints_a_valid_file(tmp_path: Path) -> None:
    """`check` accepts the output of `config`, named by the flag or by SIDECAR_CONFIG."""
    code, text, err = ran("config", folder=tmp_path)
    (tmp_path / "s.toml").write_text(text)

    assert (code, err) == (0, "")
    assert tomllib.loads(text)["server"]["port"] == 8787
    assert ran("check", "--config", "s.toml", folder=tmp_path)[0] == 0
    assert ran("check", folder=tmp_path, environ={"SIDECAR_CONFIG": "s.toml"})[0] == 0
    assert ran("check", folder=tmp_path, environ={"SIDECAR_CONFIG": "none.toml"})[0] == 2


def test_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    """`--version` prints the name and the version on stdout."""
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"sidecar {__version__}\n"


@pytest.mark.parametrize("command", ["config", "check", "--help", "--version"])
def test_fast_commands_import_no_server(command: str, tmp_path: Path) -> None:
    """Commands that only print do not import the server, the HTTP client or the OpenAI SDK."""
    script = f"import sys; from sidecar.cli.main import main; main([{command!r}]); print(*sys.modules, file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        timeout=EXIT_TIMEOUT_SECONDS,
        check=True,
        env=environment(),
    )

    assert "sidecar.cli.main" in done.stderr.split()
    assert not set(HEAVY_MODULES) & set(done.stderr.split())


@pytest.mark.parametrize("command", [["config"], ["check"], ["--help"]])
def test_closed_stdout_is_no_error(command: list[str], tmp_path: Path) -> None:
    """A closed stdout is not an error."""
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "sidecar", *command],
        stdout=write,
        stderr=subprocess.PIPE,
        text=True,
        timeout=EXIT_TIMEOUT_SECONDS,
        check=False,
        cwd=tmp_path,
        env=environment(),
    )
    os.close(write)

    assert (done.returncode, done.stderr) == (0, "")


def test_interrupt_exits_with_130(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl+C exits with 130 and prints nothing."""

    def interrupted(_: Settings) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("sidecar.server.run.run", interrupted)
    assert cli.main(["serve", "--upstream", "http://h/v1"]) == 130
    assert capsys.readouterr().err == ""


def test_serve_flags_reach_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flags of `serve` are in the settings, and the exit code is the server's."""
    given: list[Settings] = []

    def run(settings: Settings) -> int:
        given.append(settings)
        return 7

    monkeypatch.setattr("sidecar.server.run.run", run)
    flags = ["--upstream", "http://h/v1", "--model", "m", "--host", "::1", "--port", "0", "--workers", "3"]
    assert cli.main(["serve", *flags]) == 7
    (settings,) = given
    assert (settings.server.host, settings.server.port, settings.workers) == ("::1", 0, 3)
    assert [(each.base_url, each.model) for each in settings.upstreams] == [("http://h/v1", "m")]


def test_mock_flags_reach_the_mock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flags of `mock` reach the mock, and its defaults are as documented."""
    given: list[Any] = []

    def serve_mock(*place: Any, **pace: Any) -> int:
        given.append((place, pace))
        return 7

    monkeypatch.setattr("sidecar.cli.mock.serve_mock", serve_mock)
    assert cli.main(["mock"]) == 7
    cli.main(["mock", "--port", "1", "--tokens", "2", "--interval-ms", "3.5", "--first-ms", "4"])

    assert given == [
        (("127.0.0.1", 8788), {"tokens": 64, "interval_ms": 0.0, "first_ms": 0.0}),
        (("127.0.0.1", 1), {"tokens": 2, "interval_ms": 3.5, "first_ms": 4.0}),
    ]


def test_demo_settings(tmp_path: Path) -> None:
    """The demo uses the shipped configuration, every CORS origin and a temporary store."""
    settings = demo_settings("http://127.0.0.1:1/v1", 0, tmp_path)

    assert settings.server.cors_origins == ("*",)
    assert settings.store.url == f"sqlite:///{tmp_path}/demo.db"
    assert [policy.name for policy in settings.base.policies] == [
        "rate",
        "trim",
        "max_tokens",
        "budget",
        "fallback",
        "retry",
    ]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_demo_cleans_up(tmp_path: Path, number: int) -> None:
    """SIGTERM and SIGINT end the demo and its mock, and no file remains."""
    environ = {"TMPDIR": str(tmp_path)}
    with program("demo", "--port", "0", folder=tmp_path, environ=environ) as demo:
        children = Path(f"/proc/{demo.popen.pid}/task/{demo.popen.pid}/children").read_text().split()
        assert demo.line.startswith("sidecar listening on http://127.0.0.1:")
        assert len(children) == 1
        assert len(list(tmp_path.iterdir())) == 1
        demo.stop(number)

    assert not Path(f"/proc/{children[0]}").exists()
    assert not list(tmp_path.iterdir())


def test_demo_prints_commands(tmp_path: Path) -> None:
    """The demo prints curl commands on stderr, and the listening line on stdout."""
    command = [sys.executable, "-m", "sidecar", "demo", "--port", "0"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path, env=environment()
    ) as demo:
        assert demo.stdout is not None
        line = demo.stdout.readline()
        demo.terminate()
        _, err = demo.communicate(timeout=EXIT_TIMEOUT_SECONDS)

    assert line.startswith("sidecar listening on http://127.0.0.1:")
    assert "curl -N http://127.0.0.1:PORT/api/chat" in err
    assert "curl -N http://127.0.0.1:PORT/v1/chat/completions" in err
    assert "Traceback" not in err
