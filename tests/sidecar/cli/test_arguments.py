"""The command line as a process: exit codes and messages of right and wrong arguments."""

from __future__ import annotations

from pathlib import Path

import pytest
from process import ran


@pytest.mark.parametrize(
    ("arguments", "environ", "lines"),
    [
        (["serve"], {}, "defaults: upstream: no upstream is configured; give --upstream URL, set SIDECAR_UPSTREAM or OPENAI_API_KEY, or add an [[upstream]]"),
        (["serve", "--config", "none.toml"], {}, "none.toml: file: not found; create one with `sidecar config > sidecar.toml`"),
        (["serve", "--upstream", "nonsense"], {}, "defaults: --upstream: 'nonsense' is not an http:// or https:// URL; write it like 'http://127.0.0.1:11434/v1'"),
        (["serve", "--port", "x"], {}, "sidecar serve: argument --port: invalid value 'x': expected a whole number from 0 to 65535; see `sidecar serve --help`"),
        (["serve", "--port", "70000"], {}, "sidecar serve: argument --port: invalid value '70000': expected a whole number from 0 to 65535; see `sidecar serve --help`"),
        (["serve", "--workers", "0"], {}, "sidecar serve: argument --workers: invalid value '0': expected a whole number >= 1; see `sidecar serve --help`"),
        (["serve", "--nope"], {}, "sidecar: unrecognized arguments: --nope; see `sidecar --help`"),
        (["check", "--config", "bad.toml"], {}, "bad.toml: server.port: invalid value 'x': expected a whole number; omit port for the default 8787\nbad.toml: policy[0].max_messages: invalid value 0: expected a whole number >= 1; see `sidecar config` for an example"),
        (["check"], {"SIDECAR_PORT": "x"}, "defaults: SIDECAR_PORT: invalid value 'x': expected a whole number from 0 to 65535; correct or unset the variable"),
        (["serve", "--upstream", "http://h/v1"], {"SIDECAR_STORE": "sqlite:///none/x.db"}, "sidecar: store.url: {folder}/none/x.db: unable to open database file; make the folder {folder}/none first"),
        ([], {}, "sidecar: the following arguments are required: COMMAND; see `sidecar --help`"),
        (["explain"], {}, "sidecar: argument COMMAND: invalid choice: 'explain' (choose from 'serve', 'demo', 'mock', 'config', 'usage', 'budget', 'key', 'check'); see `sidecar --help`"),
    ],
)  # fmt: skip
def test_wrong_command_line_is_reported_with_its_cure(
    tmp_path: Path, arguments: list[str], environ: dict[str, str], lines: str
) -> None:
    """Wrong flags, variables and files give one line each on stderr and exit code 2, without a traceback."""
    (tmp_path / "bad.toml").write_text("[server]\nport = 'x'\n[[policy]]\nuse = 'trim'\nmax_messages = 0\n")
    code, out, err = ran(*arguments, folder=tmp_path, environ=environ)

    assert (code, out, err.strip()) == (2, "", lines.format(folder=tmp_path))


def test_printed_configuration_passes_the_check(tmp_path: Path) -> None:
    """`sidecar check` accepts the configuration that `sidecar config` prints, by flag and by variable."""
    code, text, _ = ran("config", folder=tmp_path)
    (tmp_path / "s.toml").write_text(text)
    assert (code, ran("check", "--config", "s.toml", folder=tmp_path)[:2]) == (
        0,
        (0, "ok: rate → trim → max_tokens → budget → fallback → retry; profiles: balanced, constrained, expanded\n"),
    )
    assert ran("check", folder=tmp_path)[0] == 0
    assert ran("--version", folder=tmp_path)[1].startswith("sidecar 0.1.0")
    assert ran("check", folder=tmp_path, environ={"SIDECAR_CONFIG": "s.toml"})[0] == 0
