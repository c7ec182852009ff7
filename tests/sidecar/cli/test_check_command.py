"""`sidecar check` and the flags of `serve`, by real processes: exit codes and streams."""

from __future__ import annotations

from pathlib import Path

import pytest
from process import program, ran

HERE = "http://127.0.0.1:1/v1"
FAULTY = """
unknown = 1
[server]
port = "x"
heartbeat = 0
cors_origins = ["nope", "neither"]
[store]
url = "mysql://user:secret@h"
[[upstream]]
base_url = "http://h/v1/chat/completions"
api_key_env = "NOT_SET"
[[key]]
tenant = ""
sha256 = "x"
[[policy]]
use = "rate"
requests = 0
[[policy]]
use = "budget"
tokens = 5
timezone = "Mars/Base"
[profile.guest]
rate = { requests = "few" }
"""
FAULTY_PATHS = [
    "unknown", "server.port", "server.heartbeat", "server.cors_origins[0]", "server.cors_origins[1]", "store.url",
    "upstream[0].base_url", "key[0].tenant", "key[0].sha256", "policy[0].requests", "policy[1].timezone",
    "profile.guest.rate.requests",
]  # fmt: skip


def paths(lines: str) -> list[str]:
    return [line.split(": ")[1] for line in lines.splitlines()]


@pytest.mark.parametrize("arguments", [("s.toml",), ("--config", "s.toml"), ("./s.toml", "--config", "s.toml")])
def test_file_is_named_by_position_or_flag(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    """The file may stand alone or behind `--config`, or both if they are one file; it needs no secret to be set."""
    upstream = f'[[upstream]]\nbase_url = "{HERE}"\n'
    (tmp_path / "s.toml").write_text(f'{upstream}api_key_env = "NOT_SET"\n{upstream}api_key_file = "none"\n')
    ok = "ok: rate → trim → max_tokens → budget → fallback → retry; profiles: balanced, constrained, expanded\n"
    assert ran("check", *arguments, folder=tmp_path) == (
        0,
        f"{ok}upstream upstream-1: {HERE}, serves what it lists\nupstream upstream-2: {HERE}, serves what it lists\n",
        "",
    )

    (tmp_path / "s.toml").write_text("[server]\nport = 'x'\n")
    code, out, err = ran("check", *arguments, folder=tmp_path, environ={"SIDECAR_CONFIG": "none.toml"})
    assert (code, out, err.partition(": ")[0].removeprefix("./"), paths(err)) == (2, "", "s.toml", ["server.port"])


def test_two_files_are_refused(tmp_path: Path) -> None:
    """Two different files are exit code 2 with the cure, and neither is read."""
    code, out, err = ran("check", "a.toml", "--config", "b.toml", folder=tmp_path)
    assert (code, out, err) == (
        2,
        "",
        "sidecar check: two files: 'a.toml' and --config 'b.toml'; name one of them\n",
    )


def test_twelve_faults_are_twelve_lines(tmp_path: Path) -> None:
    """A file with twelve faults has twelve lines on stderr, each with file, key path, problem and cure."""
    (tmp_path / "s.toml").write_text(FAULTY)
    code, out, err = ran("check", "s.toml", folder=tmp_path)

    assert (code, out, sorted(paths(err))) == (2, "", sorted(FAULTY_PATHS))
    assert all(line.startswith("s.toml: ") and "; " in line for line in err.splitlines())
    assert "secret" not in err


def test_start_reports_flags_environment_and_file_together(tmp_path: Path) -> None:
    """`serve` reports invalid flags, variables, missing secrets and the file's faults in one run; syntax errors are one fault."""
    (tmp_path / "s.toml").write_text(FAULTY)
    serve = ("serve", "--config", "s.toml", "--store", "x://me:secret@h")
    code, out, err = ran(*serve, folder=tmp_path, environ={"SIDECAR_PORT": "y"})
    assert (code, out) == (2, "")
    assert sorted(paths(err)) == sorted([*FAULTY_PATHS, "upstream[0].api_key_env", "SIDECAR_PORT", "--store"])
    assert "secret" not in err

    code, _, err = ran(*serve, "--port", "x", "--workers", "0", folder=tmp_path)
    lines = err.splitlines()
    assert code == 2
    assert lines[0].startswith("sidecar serve: argument --port: invalid value 'x': expected ")
    assert lines[1].startswith("sidecar serve: argument --workers: invalid value '0': expected ")
    assert sorted(paths("\n".join(lines[2:]))) == sorted([*FAULTY_PATHS, "--store"])

    (tmp_path / "s.toml").write_text("[server\n")
    code, _, err = ran("serve", "--config", "s.toml", folder=tmp_path, environ={"SIDECAR_PORT": "y"})
    assert (code, paths(err)) == (2, ["line 1, column 8", "SIDECAR_PORT"])


@pytest.mark.parametrize("overridden", [{}, {"SIDECAR_STORE": "sqlite:///variable.db"}, {"SIDECAR_STORE": ""}])
def test_store_flag(tmp_path: Path, overridden: dict[str, str]) -> None:
    """`--store` overrides SIDECAR_STORE, which overrides the file; a relative file is beside the configuration."""
    folder = tmp_path / "etc"
    folder.mkdir()
    (folder / "s.toml").write_text('[store]\nurl = "sqlite:///file.db"\n')
    serve = ("serve", "--upstream", HERE, "--port", "0", "--config", "etc/s.toml")
    with program(*serve, "--store", "sqlite:///flag.db", folder=tmp_path, environ=overridden) as running:
        assert running.line.startswith("sidecar listening on ")
        summary = [running.read_line() for _ in range(2)]
        assert running.stop() == 0
    assert summary[1] == f"store     sqlite:///{folder}/flag.db"
    assert sorted(path.name for path in folder.glob("*.db")) == ["flag.db"]


def test_password_of_the_store_is_not_printed(tmp_path: Path) -> None:
    """A password in `--store` or SIDECAR_STORE is in no line of the start; one in the file is refused, also with an empty variable."""
    url = "redis://me:hidden-1@127.0.0.1:1/0?prefix=p"
    for more, environ in ((("--store", url), {}), ((), {"SIDECAR_STORE": url})):
        log = tmp_path / "log"
        serve = ("serve", "--upstream", HERE, "--port", "0", *more)
        with program(*serve, folder=tmp_path, environ=environ, log=log) as running:
            printed = [running.line, running.read_line(), running.read_line()]
            assert running.stop() == 0
        assert printed[2] == "store     redis://127.0.0.1:1/0"
        assert "hidden-1" not in log.read_text()

    (tmp_path / "s.toml").write_text(f'[store]\nurl = "{url}"\n')
    code, _, err = ran("check", "s.toml", folder=tmp_path, environ={"SIDECAR_STORE": ""})
    assert (code, paths(err), "hidden-1" in err) == (2, ["store.url"], False)


def test_key_file_is_read_at_start(tmp_path: Path) -> None:
    """`serve` ends with 2 and the key path where the key file is missing; its content is printed nowhere."""
    (tmp_path / "s.toml").write_text(f'[[upstream]]\nbase_url = "{HERE}"\napi_key_file = "key"\n')
    code, out, err = ran("serve", "--config", "s.toml", "--port", "0", folder=tmp_path)
    assert (code, out, paths(err)) == (2, "", ["upstream[0].api_key_file"])

    (tmp_path / "key").write_text("sk-hidden-1\n")
    log = tmp_path / "log"
    with program("serve", "--config", "s.toml", "--port", "0", folder=tmp_path, log=log) as running:
        assert running.stop() == 0
        assert running.popen.stdout is not None
        printed = running.line + running.popen.stdout.read()
    assert printed.startswith("sidecar listening on ")
    assert "sk-hidden-1" not in printed + log.read_text()
