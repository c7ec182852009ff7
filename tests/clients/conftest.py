"""The clients, played once each, and the table of figures at the end."""

from __future__ import annotations

import asyncio

import pytest
from contract import DIFFERENCES, REQUESTS, verdict
from libraries import CLIENTS, missing
from sides import Client, Played, both_sides

PLAYED = pytest.StashKey[dict[str, Played]]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[PLAYED] = {}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test with `played` for each case of each client."""
    if "played" in metafunc.fixturenames:
        pairs = [(client, case) for client in CLIENTS for case in client.cases]
        names = [f"{client.name}: {case.name}" for client, case in pairs]
        metafunc.parametrize(("played", "case"), pairs, indirect=["played"], ids=names)


@pytest.fixture
def played(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Played:
    """Return what one client saw of all its cases, which are played once."""
    client: Client = request.param
    if reason := missing(client):
        pytest.skip(reason)
    results = request.config.stash[PLAYED]
    if client.name not in results:
        results[client.name] = asyncio.run(both_sides(client, tmp_path_factory.mktemp("played")))
    return results[client.name]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print a line for each client, and the reasons of the differences."""
    lines: list[tuple[str, ...]] = [("client", "version", "cases", "equal", "by contract", "different")]
    for client, direct, through in config.stash[PLAYED].values():
        found = [verdict(case, direct, through) for case in client.cases]
        counts = [str(found.count(each)) for each in ("equal", "by contract", "different")]
        lines.append((client.name, direct.version, str(len(found)), *counts))
    totals = [str(sum(int(line[at]) for line in lines[1:])) for at in range(2, len(lines[0]))]
    lines.append((f"{len(lines) - 1} clients", "", *totals))
    if not config.stash[PLAYED]:
        return
    terminalreporter.section("clients, direct and through the sidecar")
    for line in lines:
        terminalreporter.write_line("{:34} {:24} {:>6} {:>6} {:>12} {:>10}".format(*line))
    for title, table in (("different by contract", DIFFERENCES), ("another number of requests", REQUESTS)):
        terminalreporter.write_line(f"\n{title}:")
        for name, each in table.items():
            terminalreporter.write_line(f"- {name}: {each.reason}")
