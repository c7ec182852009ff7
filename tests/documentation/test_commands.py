"""The commands in the documents exist, with their flags, targets, routes and variables."""

from __future__ import annotations

import re
import shlex
from collections import defaultdict
from pathlib import Path

import pytest
from documents import DOCUMENTS, blocks, inline_code, name_of
from places import BENCH, ROOT

from sidecar.cli.arguments import Run, make_parser
from sidecar.server.app import DATA_ROUTES

TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
ROUTES = {*DATA_ROUTES, "/healthz", "/readyz"}
OTHER_PROGRAMS = frozenset({"pip", "docker", "git"})
DOCKER_FLAGS = frozenset({"--stop-timeout", "--add-host"})
COMMANDS: dict[str, Run] = defaultdict(lambda: lambda _: 0)
"""A function that does nothing for each command that the parser asks for."""
PARSER = make_parser(COMMANDS)
PLACEHOLDERS = {"H", "P", "N"}
FIRST_LINE = "sidecar listening"
"""Start of the program's first line, which is no command."""


def commands(document: Path) -> list[list[str]]:
    """Return the words of each command in the shell blocks of *document* and in its inline code."""
    lines = [line for block in blocks(document, "sh") for line in block.replace("\\\n", " ").splitlines()]
    lines += [code for code in inline_code(document) if re.match(r"(\w+=\S+ )*(sidecar|make) [a-z]", code)]
    return [words for line in lines if (words := shlex.split(line, comments=True)) and not line.startswith(FIRST_LINE)]


def check_sidecar(arguments: list[str]) -> None:
    if ">" in arguments:
        arguments = arguments[: arguments.index(">")]
    PARSER.parse_args(["1" if word in PLACEHOLDERS else word for word in arguments])


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_commands_exist(document: Path) -> None:
    """Each `sidecar` command parses, each `make` target and each script exists, each curl line asks a route that is served."""
    for words in commands(document):
        variables = [word for word in words if re.match(r"[A-Z_]+=", word)]
        program, *arguments = words[len(variables) :] if words[: len(variables)] == variables else words
        if program == "sidecar":
            check_sidecar(arguments)
        elif program == "make":
            assert arguments[0] in TARGETS, words
        elif program == "curl":
            (url,) = (word for word in arguments if word.startswith("http://"))
            assert "/" + url.split("/", 3)[3] in ROUTES, words
        elif program == ".venv/bin/python":
            assert (ROOT / arguments[0]).is_file(), words
        else:
            assert program in OTHER_PROGRAMS, words


@pytest.fixture
def help_texts(capsys: pytest.CaptureFixture[str]) -> str:
    """The `--help` of all commands."""
    for command in COMMANDS:
        with pytest.raises(SystemExit):
            PARSER.parse_args([*command.split(), "--help"])
    return capsys.readouterr().out


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_flags_exist(document: Path, help_texts: str) -> None:
    """Each flag in inline code is a flag of a command."""
    flags = {*DOCKER_FLAGS, *re.findall(r"--[a-z-]+", help_texts)}
    if document.parent.name == "bench":
        flags.update(flag for script in BENCH.glob("*.py") for flag in re.findall(r'"(--[a-z-]+)"', script.read_text()))
    used = {flag for code in inline_code(document) for flag in re.findall(r"(?:^|\s)(--[a-z-]+)", code)}
    assert used <= flags


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_variables_exist(document: Path, help_texts: str) -> None:
    """Each environment variable of ours is one that `--help` explains."""
    assert set(re.findall(r"\bSIDECAR_[A-Z_]+", document.read_text())) <= set(
        re.findall(r"SIDECAR_[A-Z_]+", help_texts)
    )


def test_targets_are_described() -> None:
    """Every target of the Makefile says what it does."""
    assert set(re.findall(r"^([a-z-]+):.* ## \S", (ROOT / "Makefile").read_text(), re.MULTILINE)) == TARGETS
