"""The clients, played once each, and the table of figures at the end."""

from __future__ import annotations

import asyncio

import pytest
from cases import CASES
from contract import DIFFERENCES, REQUESTS, verdict
from libraries import CLIENTS, missing
from sides import Client, Played, both_sides

PLAYED = pytest.StashKey[list[Played]]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[PLAYED] = []


@pytest.fixture(scope="session", params=CLIENTS, ids=lambda client: client.name)
def played(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Played:
    """Play all cases with one client."""
    client: Client = request.param
    if reason := missing(client):
        pytest.skip(reason)
    result = asyncio.run(both_sides(client, tmp_path_factory.mktemp("played")))
    request.config.stash[PLAYED].append(result)
    return result


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print a line for each client, and the reasons of the differences."""
    lines: list[tuple[str, ...]] = [("client", "version", "cases", "equal", "by contract", "different")]
    for client, direct, through in config.stash[PLAYED]:
        found = [verdict(case, direct, through) for case in CASES]
        counts = [str(found.count(each)) for each in ("equal", "by contract", "different")]
        lines.append((client.name, direct.version, str(len(found)), *counts))
    if len(lines) == 1:
        return
    terminalreporter.section("clients, direct and through the sidecar")
    for line in lines:
        terminalreporter.write_line("{:30} {:20} {:>6} {:>6} {:>12} {:>10}".format(*line))
    for title, table in (("different by contract", DIFFERENCES), ("another number of requests", REQUESTS)):
        terminalreporter.write_line(f"\n{title}:")
        for name, each in table.items():
            terminalreporter.write_line(f"- {name}: {each.reason}")
