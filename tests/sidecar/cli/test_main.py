"""The command line: what it prints, what it refuses, and how it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from process import PATIENCE, environment, program, ran

from sidecar import __version__
from sidecar.cli import main as cli
from sidecar.cli.demo import demo_settings
from sidecar.config.settings import Settings

LATE = ("litestar", "openai", "uvicorn", "uvloop", "httpx", "anyio")
SERVE = "sidecar serve: argument"
MOCK = "sidecar mock: argument"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "sidecar: the following arguments are required: COMMAND; see `sidecar --help`"),
        (["serve", "--upstream", ""], f"{SERVE} --upstream: it is empty; leave it out, or say what it is to be; see `sidecar serve --help`"),
        (["serve", "--host", " "], f"{SERVE} --host: it is empty; leave it out, or say what it is to be; see `sidecar serve --help`"),
        (["serve", "--port", "-1"], f"{SERVE} --port: -1 is no port, it must be from 0 to 65535; see `sidecar serve --help`"),
        (["serve", "--workers", "two"], f"{SERVE} --workers: 'two' is no whole number; see `sidecar serve --help`"),
        (["demo", "--port", "65536"], "sidecar demo: argument --port: 65536 is no port, it must be from 0 to 65535; see `sidecar demo --help`"),
        (["mock", "--tokens", "0"], f"{MOCK} --tokens: 0 is too small, it must be at least 1; see `sidecar mock --help`"),
        (["mock", "--interval-ms", "-1"], f"{MOCK} --interval-ms: '-1' is no number of milliseconds; see `sidecar mock --help`"),
        (["mock", "--first-ms", "nan"], f"{MOCK} --first-ms: 'nan' is no number of milliseconds; see `sidecar mock --help`"),
        (["serve", "--config", "."], ".: file: cannot be read: [Errno 21] Is a directory: '.', name a TOML file in UTF-8"),
        (["check", "--config", "none.toml"], "none.toml: file: does not exist, `sidecar config > sidecar.toml` writes one to start from"),
        (["serve"], "defaults: upstream: there is none, give --upstream URL, set SIDECAR_UPSTREAM or OPENAI_API_KEY, or write an [[upstream]]"),
    ],
)  # fmt: skip
def test_refused(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wrong flags and files are one line on stderr and exit 2."""
    for name in [name for name in os.environ if name.startswith(("SIDECAR_", "OPENAI_"))]:
        monkeypatch.delenv(name)
    code = cli.main(arguments)

    assert (code, *capsys.readouterr()) == (2, "", said + "\n")


def test_workers_of_a_memory(tmp_path: Path) -> None:
    """Several workers with a store that each would have for itself are refused before anything listens."""
    environ = {"SIDECAR_STORE": "memory://"}
    code, out, err = ran("serve", "--upstream", "http://h/v1", "--workers", "2", folder=tmp_path, environ=environ)

    assert (code, out) == (2, "")
    assert err == (
        "defaults: SIDECAR_STORE: 'memory://' cannot serve 2 workers, "
        "several workers need one store: write 'sqlite:///FILE', or serve with one worker\n"
    )


def test_check_says_all(tmp_path: Path) -> None:
    """A check says every fault of a file, a line for each, and needs neither an upstream nor a store."""
    (tmp_path / "bad.toml").write_text(
        "[server]\nport = 'x'\n[[upstream]]\nbase_url = 'http://h'\napi_key_env = 'NO'\n"
    )
    code, out, err = ran("check", "--config", "bad.toml", folder=tmp_path)

    assert (code, out) == (2, "")
    assert err == (
        "bad.toml: server.port: 'x' does not do, it must be a whole number\n"
        "bad.toml: upstream[0].api_key_env: NO is not set, export NO, or leave api_key_env out\n"
    )
    assert ran("check", folder=tmp_path)[0] == 0
    assert [path.name for path in tmp_path.iterdir()] == ["bad.toml"]


def test_check_on_a_narrow_terminal(tmp_path: Path) -> None:
    """A terminal that has no arrows is no reason to fail."""
    code, out, err = ran("check", folder=tmp_path, environ={"PYTHONIOENCODING": "ascii"})

    assert (code, err) == (0, "")
    assert out.startswith("ok: rate ? trim ? max_tokens")


def test_config_prints_a_file(tmp_path: Path) -> None:
    """What `config` prints is TOML that `check` accepts, from the flag as from the environment."""
    code, text, err = ran("config", folder=tmp_path)
    (tmp_path / "s.toml").write_text(text)

    assert (code, err) == (0, "")
    assert tomllib.loads(text)["server"]["port"] == 8787
    assert ran("check", "--config", "s.toml", folder=tmp_path)[0] == 0
    assert ran("check", folder=tmp_path, environ={"SIDECAR_CONFIG": "s.toml"})[0] == 0
    assert ran("check", folder=tmp_path, environ={"SIDECAR_CONFIG": "none.toml"})[0] == 2


def test_version_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    """Each command explains itself on stdout."""
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"sidecar {__version__}\n"
    for command in ("serve", "demo", "mock", "config", "check"):
        assert cli.main([command, "--help"]) == 0
        assert f"sidecar {command}" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["config", "check", "--help"])
def test_quick(command: str, tmp_path: Path) -> None:
    """What prints and ends imports nothing that serves."""
    script = f"import sys; from sidecar.cli.main import main; main([{command!r}]); print(*sys.modules, file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=PATIENCE, check=True, env=environment()
    )

    assert "sidecar.cli.main" in done.stderr.split()
    assert not set(LATE[:-1]) & set(done.stderr.split())


@pytest.mark.parametrize("command", [["config"], ["check"], ["--help"]])
def test_broken_pipe(command: list[str], tmp_path: Path) -> None:
    """Whoever stops reading our output hears no complaint."""
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "sidecar", *command],
        stdout=write,
        stderr=subprocess.PIPE,
        text=True,
        timeout=PATIENCE,
        check=False,
        cwd=tmp_path,
        env=environment(),
    )
    os.close(write)

    assert (done.returncode, done.stderr) == (0, "")


def test_interrupted(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl+C ends quietly, with the code that shells expect."""

    def interrupted(_: Settings) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("sidecar.server.run.run", interrupted)
    assert cli.main(["serve", "--upstream", "http://h/v1"]) == 130
    assert capsys.readouterr().err == ""


def test_serve_is_given_what_was_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flags arrive in the settings, and the server's code is the program's."""
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


def test_mock_is_given_what_was_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mock's flags arrive, and its defaults are as documented."""
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
    """The demo is the shipped configuration, open to every origin, with a store that goes with it."""
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
def test_demo_ends(tmp_path: Path, number: int) -> None:
    """Whatever ends the demo ends its mock, and leaves no file."""
    environ = {"TMPDIR": str(tmp_path)}
    with program("demo", "--port", "0", folder=tmp_path, environ=environ) as demo:
        children = Path(f"/proc/{demo.popen.pid}/task/{demo.popen.pid}/children").read_text().split()
        assert demo.line.startswith("sidecar listening on http://127.0.0.1:")
        assert len(children) == 1
        assert len(list(tmp_path.iterdir())) == 1
        demo.stop(number)

    assert not Path(f"/proc/{children[0]}").exists()
    assert not list(tmp_path.iterdir())


def test_demo_says_what_to_try(tmp_path: Path) -> None:
    """The demo prints commands to try, beside the line that says where it listens."""
    command = [sys.executable, "-m", "sidecar", "demo", "--port", "0"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path, env=environment()
    ) as demo:
        assert demo.stdout is not None
        line = demo.stdout.readline()
        demo.terminate()
        _, err = demo.communicate(timeout=PATIENCE)

    assert line.startswith("sidecar listening on http://127.0.0.1:")
    assert "curl -N http://127.0.0.1:PORT/api/chat" in err
    assert "curl -N http://127.0.0.1:PORT/v1/chat/completions" in err
    assert "Traceback" not in err
