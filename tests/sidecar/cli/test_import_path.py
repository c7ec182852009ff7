"""No command imports a module from the working directory, where any program may have put a file."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from places import ROOT
from process import environment, program, ran
from wire import Client

pytestmark = pytest.mark.anyio

NAMES = (
    *(
        "__future__",
        "argparse",
        "asyncio",
        "dataclasses",
        "gc",
        "inspect",
        "json",
        "logging",
        "pathlib",
        "re",
        "socket",
    ),
    *("sqlite3", "subprocess", "tempfile", "tomllib", "typing", "httpx", "httptools", "litestar", "msgspec", "openai"),
    *("policies", "uvicorn", "uvloop"),
)
"""Modules that the program, or a library of it, imports after Python has found its package."""
SERVE = ("serve", "--upstream", "http://127.0.0.1:9/v1", "--port", "0", "--workers")
MODULE = ("-m", "sidecar")
WITHOUT_WORKING_DIRECTORY = ("-P", "-m", "sidecar")
SCRIPT = "import sys\n\nfrom sidecar.cli.main import main\n\nsys.exit(main())\n"
"""What an installer makes of the entry point `sidecar`."""
MARK = "imported from the working directory"


def hostile_folder(folder: Path, *names: str) -> Path:
    """Return a new folder in *folder* with modules that note that they were imported."""
    hostile = folder / "hostile"
    hostile.mkdir()
    for name in names or NAMES:
        text = f"import sys\nsys.stderr.write('{name} {MARK}')\nraise SystemExit(9)\n"
        (hostile / f"{name}.py").write_text(text)
    return hostile


def commands(folder: Path) -> dict[str, tuple[str, ...]]:
    """Return the ways to start the program, by name; the installed script is written into *folder*."""
    script = folder / "bin" / "sidecar"
    script.parent.mkdir()
    script.write_text(SCRIPT)
    return {"module": MODULE, "safe path": WITHOUT_WORKING_DIRECTORY, "script": (str(script),)}


WAYS = pytest.mark.parametrize("way", ["module", "safe path", "script"])


@WAYS
@pytest.mark.parametrize(
    "arguments", [("check",), ("config",), ("usage",), ("key", "new", "--tenant", "t"), ("--help",)]
)
def test_commands_do_not_import_from_the_working_directory(
    tmp_path: Path, way: str, arguments: tuple[str, ...]
) -> None:
    """Commands that end by themselves import nothing from the working directory, however they are started."""
    folder = hostile_folder(tmp_path)
    upstream = {"SIDECAR_UPSTREAM": "http://h/v1"}
    code, _, errors = ran(*arguments, folder=folder, environ=upstream, command=commands(tmp_path)[way])

    assert MARK not in errors
    assert code == (2 if arguments == ("usage",) else 0), errors  # there is no database


@WAYS
@pytest.mark.parametrize("workers", ["1", "2"])
def test_workers_do_not_import_from_the_working_directory(tmp_path: Path, way: str, workers: str) -> None:
    """A serving process and its workers import nothing from the working directory."""
    folder, log = hostile_folder(tmp_path), tmp_path / "log"
    with program(*SERVE, workers, folder=folder, command=commands(tmp_path)[way], log=log) as sidecar:
        assert sidecar.line.startswith("sidecar listening on "), log.read_text()
        assert sidecar.stop() == 0
    assert MARK not in log.read_text()


@pytest.mark.parametrize("way", ["safe path", "script"])
async def test_demo_does_not_import_from_the_working_directory(tmp_path: Path, way: str) -> None:
    """The demo's mock is a child process: it does not look for our package in the working directory either."""
    folder, log = hostile_folder(tmp_path, *NAMES, "sidecar"), tmp_path / "log"
    with program("demo", "--port", "0", folder=folder, command=commands(tmp_path)[way], log=log) as demo:
        assert demo.line.startswith("sidecar listening on "), log.read_text()
        client = await Client.to(demo.port)
        await client.post(
            "/v1/chat/completions", {"model": "mock-2-0-0", "messages": [{"role": "user", "content": "a"}]}
        )
        assert (await client.answer())[0] == 200
        client.close()
    assert MARK not in log.read_text()


def test_python_setting_has_the_same_effect(tmp_path: Path) -> None:
    """`PYTHONSAFEPATH` keeps the working directory away, and no other entry of the import path is lost."""
    folder = hostile_folder(tmp_path, *NAMES, "sidecar")
    upstream = {"SIDECAR_UPSTREAM": "http://h/v1", "PYTHONSAFEPATH": "1"}
    code, _, errors = ran("check", folder=folder, environ=upstream)

    assert (code, errors) == (0, "")


@pytest.mark.parametrize("command", [("check",), ("demo", "--port", "0")])
def test_checkout_runs_without_installation(tmp_path: Path, command: tuple[str, ...]) -> None:
    """In a checkout both packages come from it, also with another version installed; other modules there are ignored."""
    checkout, log = hostile_folder(tmp_path, *(name for name in NAMES if name != "policies")), tmp_path / "log"
    for package in ("sidecar", "policies"):
        shutil.copytree(ROOT / package, checkout / package, ignore=shutil.ignore_patterns("__pycache__"))
        with (checkout / package / "__init__.py").open("a") as file:
            file.write(f"\nimport sys\n\nsys.stderr.write('{package} of the checkout\\n')\n")
    environ = environment({"SIDECAR_UPSTREAM": "http://h/v1"}) | {"PYTHONPATH": ""}
    with program(*command, folder=checkout, environ=environ, log=log) as running:
        assert running.line.startswith(("ok: ", "sidecar listening on ")), log.read_text()

    times = 2 if command[0] == "demo" else 1  # the demo and its mock
    assert log.read_text().count("sidecar of the checkout") == times
    assert log.read_text().count("policies of the checkout") == times
    assert MARK not in log.read_text()


def test_policy_modules_are_found_beside_the_configuration(tmp_path: Path) -> None:
    """A policy's module is found beside the configuration, also if that is the working directory; libraries go first."""
    folder = hostile_folder(tmp_path, "httpx", "msgspec")
    text = "import httpx\nfrom policies import Call, Policy\n\n\nclass Mine(Policy, frozen=True):\n"
    (folder / "mine.py").write_text(text + "    async def admit(self, call: Call) -> None: ...\n")
    (folder / "s.toml").write_text('[[policy]]\nuse = "mine:Mine"\n')
    code, out, errors = ran("check", "s.toml", folder=folder)

    assert (code, errors) == (0, "")
    assert "Mine" in out or "mine" in out
