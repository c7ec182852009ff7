"""`sidecar budget reset` and `sidecar budget grant`: which counters they correct, what they print and what they refuse."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from correctable_store import CorrectableMemory

from policies import Budget
from policies.api.claim import IDENTITY_SEPARATOR, OVERFLOW_SUFFIX, Claim, Unit
from policies.api.window import Calendar, Window
from policies.stores.memory import MemoryStore
from policies.testing import FakeClock, make_call
from sidecar.cli import main as cli
from sidecar.cli.budget_correction import STORE_LOGGER
from sidecar.observers.entry_format import EntryFormat
from sidecar.observers.log_handler import LineHandler

NOW = 1_799_971_200.0 + 3_600  # 2027-01-15T01:00:00Z
CONFIG_TEXT = (
    "".join(
        f'[[key]]\ntenant = "{name}"\nsha256 = "{sha256(name.encode()).hexdigest()}"\n' for name in ("acme", "zeta")
    )
    + """
[store]
url = "redis://store.example/0"
[prices."*"]
input = 1
output = 2
[[policy]]
use = "rate"
requests = 60
[[policy]]
use = "budget"
name = "daily"
tokens = 500
[[policy]]
use = "budget"
name = "money"
usd = 0.25
window = "month"
timezone = "Europe/Berlin"
[[policy]]
use = "budget"
name = "all"
tokens = 5_000
by = "global"
[[policy]]
use = "budget"
name = "users"
tokens = 50
by = "user"
[[policy]]
use = "budget"
name = "models"
tokens = 70
by = ["tenant", "model"]
only = { tenant = "acme" }
"""
)
DAY, MONTH = Calendar("day"), Calendar("month", "Europe/Berlin")
ANN, BOB = (f"acme{IDENTITY_SEPARATOR}{name}" for name in ("ann", "bob"))
OTHERS = f"acme{OVERFLOW_SUFFIX}"
SPENT: list[tuple[str, str, Unit, Window, int]] = [
    ("daily", "acme", "tokens", DAY, 400),
    ("daily", "zeta", "tokens", DAY, 10),
    ("money", "acme", "usd", MONTH, 200_000),
    ("all", "", "tokens", DAY, 900),
    ("users", ANN, "tokens", DAY, 30),
    ("users", BOB, "tokens", DAY, 20),
    ("users", f"zeta{IDENTITY_SEPARATOR}ann", "tokens", DAY, 7),
    ("daily", "acme", "tokens", Calendar("day", "Asia/Tokyo"), 5),
]


class Commands:
    """Runs commands against one store in memory, in place of the configured one."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        monkeypatch.delenv("SIDECAR_STORE", raising=False)
        monkeypatch.setattr("sidecar.cli.shared_store.open_store", lambda *_, **__: self.store)
        self.store: Any = CorrectableMemory(NOW)
        self._config, self._capsys = folder / "s.toml", capsys
        self._config.write_text(CONFIG_TEXT)

    def spend(self, *rows: tuple[str, str, Unit, Window, int]) -> None:
        async def spend() -> None:
            for policy, identity, unit, window, amount in rows:
                claim = Claim(policy=policy, identity=identity, unit=unit, limit=10**9, window=window, base=amount)
                await self.store.reserve(policy + identity, [claim])
                await self.store.settle(policy + identity, {claim.key: amount})

        asyncio.run(spend())

    def run(self, *arguments: str) -> tuple[int, str, str]:
        """Return exit code, stdout and stderr of `sidecar ARGUMENTS --config FILE`."""
        code = cli.main([*arguments, "--config", str(self._config)])
        return (code, *self._capsys.readouterr())

    def spent(self) -> Mapping[tuple[str, str, str], int]:
        return {(each.policy, each.identity, each.window): each.spent for each in asyncio.run(self.store.accounts())}


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Commands:
    """Commands whose store has the counters of `SPENT`."""
    found = Commands(tmp_path, monkeypatch, capsys)
    found.spend(*SPENT)
    return found


def rows_of(table: str) -> list[list[str]]:
    """Return the cells of the table that a command has printed below the name of the store."""
    store, _, lines = table.partition("\n\n")
    assert store == "store: redis://store.example/0"
    return [[cell for cell in line.split("  ") if cell] for line in lines.splitlines()]


def test_reset_clears_what_the_tenant_has_spent(commands: Commands) -> None:
    """All open counters of the tenant are set to 0, in each budget that counts by tenant; others and old windows stay."""
    before = commands.spent()
    code, out, err = commands.run("budget", "reset", "--tenant", "acme")
    after = commands.spent()

    assert code == 0
    assert {at: spent for at, spent in after.items() if spent != before[at]} == dict.fromkeys(
        [
            ("daily", "acme", DAY.key), ("money", "acme", MONTH.key),
            ("users", ANN, DAY.key), ("users", BOB, DAY.key),
        ], 0,
    )  # fmt: skip
    assert [[cell.strip() for cell in row] for row in rows_of(out)] == [
        ["budget", "for", "window", "limit", "spent before", "spent", "reserved", "left", "resets at"],
        ["daily", "acme", "day", "500", "400", "0", "0", "500", "2027-01-16 00:00 UTC"],
        ["money", "acme", "month", "$0.250000", "$0.200000", "$0.000000", "$0.000000", "$0.250000", "2027-02-01 00:00 CET"],
        ["users", "acme, user ann", "day", "50", "30", "0", "0", "50", "2027-01-16 00:00 UTC"],
        ["users", "acme, user bob", "day", "50", "20", "0", "0", "50", "2027-01-16 00:00 UTC"],
    ]  # fmt: skip
    assert [text for text, _ in map(named, commands.store.notes)] == [
        "budget 'daily' of tenant 'acme' was reset: 400 → 0 tokens, by the command line",
        "budget 'money' of tenant 'acme' was reset: $0.2 → $0, by the command line",
        "budget 'users' of tenant 'acme' was reset in 2 counters: 50 → 0 tokens, by the command line",
    ]
    lines = err.splitlines()
    assert len(lines) == 3
    for line, note in zip(lines, commands.store.notes, strict=True):
        assert line.endswith(f'WARNING log logger=sidecar.store message="{note}"')


@pytest.mark.parametrize(
    ("flags", "cleared"),
    [
        (["--policy", "daily"], [("daily", "acme")]),
        (["--user", "ann"], [("users", ANN)]),
        (["--policy", "users"], [("users", ANN), ("users", BOB)]),
        (["--policy", "users", "--user", "cid"], []),
        (["--policy", "models"], []),
    ],
)
def test_reset_is_narrowed_by_flags(commands: Commands, flags: list[str], cleared: list[tuple[str, str]]) -> None:
    """`--policy` selects one budget, `--user`, `--model` and `--ip` the counters of this name; none is no fault."""
    before = commands.spent()
    code, out, _ = commands.run("budget", "reset", "--tenant", "acme", *flags)
    after = commands.spent()
    assert code == 0
    assert [(policy, name) for policy, name, window in after if after[policy, name, window] != before[policy, name, window]] == cleared  # fmt: skip
    assert cleared or out.endswith("nothing to reset: 'acme' has no open counter\n")


def test_grant_gives_room_beyond_the_limit(commands: Commands) -> None:
    """A grant is subtracted from what is spent, below 0 too; `sidecar usage` then shows more left than the limit."""
    code, out, err = commands.run("budget", "grant", "--tenant", "acme", "--policy", "daily", "--tokens", "1000")
    assert (code, commands.spent()["daily", "acme", DAY.key]) == (0, -600)
    assert [cell.strip() for cell in rows_of(out)[1][3:8]] == ["500", "400", "-600", "0", "1,100"]
    assert "budget 'daily' of tenant 'acme' was granted 1,000 tokens, by the command line" in err

    _, out, _ = commands.run("usage", "--tenant", "acme", "--json")
    (daily,) = (row for row in json.loads(out) if row["policy"] == "daily")
    assert (daily["limit"], daily["spent"], daily["reserved"], daily["left"]) == (500, -600, 0, 1_100)
    _, table, _ = commands.run("usage", "--tenant", "acme")
    assert "  -600   " in table


def test_grant_of_dollars(commands: Commands) -> None:
    """`--usd` selects the budget in dollars, and grants micro-dollars exactly."""
    code, out, _ = commands.run("budget", "grant", "--tenant", "acme", "--usd", "0.300001")
    assert (code, commands.spent()["money", "acme", MONTH.key]) == (0, -100_001)
    assert [cell.strip() for cell in rows_of(out)[1][3:8]] == [
        "$0.250000", "$0.200000", "-$0.100001", "$0.000000", "$0.350001",
    ]  # fmt: skip
    assert [text for text, _ in map(named, commands.store.notes)] == [
        "budget 'money' of tenant 'acme' was granted $0.300001, by the command line"
    ]


def named(note: str) -> tuple[str, str]:
    """Return the text of *note*, and the random name of the correction."""
    text, _, name = note.partition(" (correction ")
    return text, name.removesuffix(")")


def test_log_shows_each_of_two_equal_grants(commands: Commands) -> None:
    """The log writes a repeated line once, so the notes of two grants of one amount differ."""
    for _ in range(2):
        commands.run("budget", "grant", "--tenant", "acme", "--policy", "daily", "--tokens", "7")
    lines: list[bytes] = []
    handler = LineHandler(lines.append, EntryFormat("text"))
    for note in commands.store.notes:
        handler.handle(logging.LogRecord(STORE_LOGGER, logging.WARNING, "", 0, "%s", (note,), None))
    assert len(lines) == 2
    assert {named(note)[0] for note in commands.store.notes} == {
        "budget 'daily' of tenant 'acme' was granted 7 tokens, by the command line"
    }


@pytest.mark.parametrize(
    ("policy", "by", "flags", "body"),
    [
        ("models", ["tenant", "model"], ["--model", "GPT-X"], {"model": "gpt-x"}),
        ("users", "user", ["--user", "cid"], {"user": "cid"}),
        ("users", "user", ["--user", "u" * 200], {"user": "u" * 200}),
    ],
)
def test_grant_opens_the_counter_that_calls_use(
    commands: Commands, policy: str, by: Any, flags: list[str], body: dict[str, Any]
) -> None:
    """A counter that is not open yet is made, with the identity that calls of this model or user are counted by."""
    code, _, _ = commands.run("budget", "grant", "--tenant", "acme", "--policy", policy, "--tokens", "5", *flags)
    call = make_call("hi", tenant="acme", body=body)
    (claim,) = Budget(name=policy, tokens=1, by=by).limits_for(call)
    assert (code, commands.spent()[policy, claim.identity, DAY.key]) == (0, -5)


def test_grant_to_those_that_share_a_counter(commands: Commands) -> None:
    """A user that has no counter of its own beside a full table is refused; the shared counter can be named."""
    commands.spend(("users", OTHERS, "tokens", DAY, 9))
    grant = ("budget", "grant", "--tenant", "acme", "--policy", "users", "--tokens", "5")
    code, _, err = commands.run(*grant, "--user", "cid")
    assert (code, err) == (2, "sidecar: --user: 'users' has no open counter of this name; it is counted with others, so grant to them: --user '(others)'\n")  # fmt: skip
    assert commands.run(*grant, "--user", "(others)")[0] == 0
    assert commands.run(*grant, "--user", "ann")[0] == 0
    spent = commands.spent()
    assert (spent["users", OTHERS, DAY.key], spent["users", ANN, DAY.key]) == (4, 25)
    code, _, err = commands.run("budget", "grant", "--tenant", "zeta", "--policy", "users", "--tokens", "5", "--user", "(others)")  # fmt: skip
    assert (code, err) == (2, "sidecar: --user: 'users' has no open counter of this name; name another one\n")


KNOWN = "budgets that count by tenant: daily, money, users, models"


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["reset", "--tenant", "acmee"], "--tenant: unknown tenant 'acmee': no [[key]] has it and no budget has counted it; known tenants: acme, zeta"),
        (["reset", "--tenant", "acme", "--policy", "dayly"], f"--policy: unknown budget 'dayly'; {KNOWN}"),
        (["reset", "--tenant", "acme", "--policy", "rate"], f"--policy: unknown budget 'rate'; {KNOWN}"),
        (["reset", "--tenant", "acme", "--policy", "all"], "--policy: 'all' counts by global, so that tenants share its counters; change its limit in the configuration instead"),
        (["reset", "--tenant", "zeta", "--policy", "models"], "--tenant: the budgets models are not for 'zeta' (`only`)"),
        (["reset", "--tenant", "acme", "--ip", "::1"], "--ip: no budget counts by it: daily by tenant, money by tenant, users by user, models by tenant and model"),
        (["grant", "--tenant", "acme", "--policy", "money", "--tokens", "5"], "--tokens: no budget counts tokens: money in usd"),
        (["grant", "--tenant", "acme", "--policy", "daily", "--usd", "5"], "--usd: no budget counts usd: daily in tokens"),
        (["grant", "--tenant", "acme", "--tokens", "5"], "--policy: a grant corrects one budget; name one of: daily, users, models"),
        (["grant", "--tenant", "acme", "--policy", "users", "--tokens", "5"], "--user: a grant corrects one counter, and 'users' counts by user; add --user; open counters: ann, bob"),
        (["grant", "--tenant", "acme", "--policy", "models", "--tokens", "5"], "--model: a grant corrects one counter, and 'models' counts by tenant and model; add --model; open counters: none"),
    ],
)  # fmt: skip
def test_ambiguous_or_unknown_names_are_refused(commands: Commands, arguments: list[str], line: str) -> None:
    """A correction that names no known counter, or more than one for a grant, is exit code 2 and changes nothing."""
    before = commands.spent()
    assert commands.run("budget", *arguments) == (2, "", f"sidecar: {line}\n")
    assert (commands.spent(), commands.store.notes) == (before, [])


DOLLARS = "expected a number of dollars from 0.000001 to 1,000,000,000"
TOKENS = "expected a whole number from 1 to 1,000,000,000,000,000"


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["reset"], "reset: the following arguments are required: --tenant"),
        (["grant", "--tenant", "a"], "grant: one of the arguments --tokens --usd is required"),
        (["grant", "--tenant", "a", "--tokens", "1", "--usd", "1"], "grant: argument --usd: not allowed with argument --tokens"),
        (["grant", "--tenant", "a", "--tokens", "0"], f"grant: argument --tokens: invalid value '0': {TOKENS}"),
        (["grant", "--tenant", "a", "--tokens", "-5"], f"grant: argument --tokens: invalid value '-5': {TOKENS}"),
        (["grant", "--tenant", "a", "--tokens", "1" * 16], f"grant: argument --tokens: invalid value '{'1' * 16}': {TOKENS}"),
        (["grant", "--tenant", "a", "--usd", "0"], f"grant: argument --usd: invalid value '0': {DOLLARS}"),
        (["grant", "--tenant", "a", "--usd", "nan"], f"grant: argument --usd: invalid value 'nan': {DOLLARS}"),
        (["grant", "--tenant", "a", "--usd", "inf"], f"grant: argument --usd: invalid value 'inf': {DOLLARS}"),
        (["grant", "--tenant", "a", "--usd", "0.0000001"], f"grant: argument --usd: invalid value '0.0000001': {DOLLARS}"),
        (["grant", "--tenant", "a", "--usd", "1e99999"], f"grant: argument --usd: invalid value '1e99999': {DOLLARS}"),
        (["grant", "--tenant", "a", "--usd", "five"], f"grant: argument --usd: invalid value 'five': {DOLLARS}"),
    ],
)  # fmt: skip
def test_invalid_flag_is_one_line(arguments: list[str], line: str, capsys: pytest.CaptureFixture[str]) -> None:
    """An invalid flag is one line on stderr and exit code 2."""
    command = f"sidecar budget {line.partition(':')[0]}"
    assert cli.main(["budget", *arguments]) == 2
    assert capsys.readouterr() == ("", f"sidecar budget {line}; see `{command} --help`\n")


def test_many_counters_are_corrected_in_steps(commands: Commands) -> None:
    """A reset of many counters is made in steps of 200, so that calls do not wait for all of them; each leaves a note."""
    commands.spend(*[("users", f"acme{IDENTITY_SEPARATOR}{at:04}", "tokens", DAY, 1) for at in range(450)])
    code, out, _ = commands.run("budget", "reset", "--tenant", "acme", "--policy", "users")
    assert (code, len(rows_of(out))) == (0, 453)
    assert [note.partition(" was ")[2].partition(":")[0] for note in commands.store.notes] == [
        "reset in 200 counters", "reset in 200 counters", "reset in 52 counters",
    ]  # fmt: skip


def test_what_was_corrected_before_a_fault_is_printed(commands: Commands) -> None:
    """If the store fails between two steps, the first one is printed, and the fault is exit code 1."""
    commands.store.failing = 1
    code, out, err = commands.run("budget", "reset", "--tenant", "acme")
    assert (code, [row[0].strip() for row in rows_of(out)]) == (1, ["budget", "daily"])
    assert err.splitlines()[1:] == ["sidecar: store.url: 127.0.0.1:1/0: no answer"]


def test_uncertain_grant_says_so(commands: Commands) -> None:
    """A store that may have executed the correction is exit code 1, with the advice to look before a second one."""
    commands.store.failing, commands.store.taken = 0, True
    code, out, err = commands.run("budget", "grant", "--tenant", "acme", "--policy", "daily", "--tokens", "5")
    assert (code, out) == (1, "")
    assert err == (
        "sidecar: store.url: 127.0.0.1:1/0: no answer; "
        "the correction may have been made: look at `sidecar usage` before you repeat it\n"
    )


class NotCorrectable:
    """A store of a deployment that has only the members of `Store` that the command needs."""

    def __init__(self, store: MemoryStore) -> None:
        self.accounts, self.aclose = store.accounts, store.aclose


def test_store_that_cannot_correct_is_refused(commands: Commands) -> None:
    """A store without `correct`, and one in memory, are exit code 2 with the reason."""
    commands.store = NotCorrectable(MemoryStore(clock=FakeClock(NOW)))
    assert commands.run("budget", "reset", "--tenant", "acme") == (2, "", "sidecar: store.url: redis://store.example/0 cannot correct counters: its package has no `correct`; see `CorrectableStore` in docs/stores.md\n")  # fmt: skip
    code, out, err = commands.run("budget", "reset", "--tenant", "acme", "--store", "memory://")
    assert (code, out) == (2, "")
    assert err.startswith("sidecar: store.url: memory:// cannot be read from outside: its counters are in the process")


def test_names_of_clients_cannot_forge_lines(commands: Commands) -> None:
    """The name of a user that a client has chosen is quoted in the log line and cannot end it."""
    commands.spend(("users", f"acme{IDENTITY_SEPARATOR}x' \"→ y", "tokens", DAY, 1))
    code, _, err = commands.run("budget", "reset", "--tenant", "acme", "--policy", "users", "--user", "x' \"→ y")
    assert (code, len(err.splitlines())) == (0, 1)
