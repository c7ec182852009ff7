"""What the log says of a store: one line when it goes down, with the consequence; one per further cause; one when it is back."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from serving import settings_of

from policies.api.store import StoreDown
from policies.stores.memory import MemoryStore
from policies.testing import FakeClock
from sidecar.observers.entry_format import EntryFormat
from sidecar.observers.state_log import StateLog
from sidecar.server.store_check import WARNING_INTERVAL_HEARTBEATS, StoreWarnings
from sidecar.server.store_state import (
    MAX_LOGGED_CAUSES,
    MAX_NEEDED_ANSWERS,
    STABLE_AFTER_HEARTBEATS,
    StoreState,
    consequence,
    expect_store,
    limits_meanwhile,
)

SETTLED = "; settlements are queued (at most 10,000) and sent when it is back"
RATE, BUDGET = '[[policy]]\nuse = "rate"\nrequests = 9\n', '[[policy]]\nuse = "budget"\ntokens = 9\n'
OWN = """\
from policies import Policy
class Tiers(Policy):
    async def admit(self, call):
        return None
"""


class Log:
    """The lines of a `StoreState`, with a clock and a queue of settlements."""

    def __init__(self, fault: str = "") -> None:
        self.lines: list[dict[str, Any]] = []
        self.now, self.pending = 1_000.0, 0
        states = StateLog(
            lambda line: self.lines.append(json.loads(line)), EntryFormat("json"), "info", clock=lambda: self.now
        )
        expect_store(states, fault, self.now)
        self.state = StoreState(states, "refused", lambda: self.pending, known_cause=fault)

    @property
    def states(self) -> list[str]:
        """The states of all lines."""
        return [line["state"] for line in self.lines]


@pytest.mark.parametrize(
    ("text", "limits", "expected"),
    [
        (RATE + BUDGET, {"rate": "admit", "budget": "refuse"}, "'budget' refuses calls (503 store_unavailable), 'rate' admits them uncounted"),
        (RATE, {"rate": "admit"}, "'rate' admits calls uncounted"),
        (
            RATE + 'when_store_fails = "refuse"\n' + BUDGET + '[[policy]]\nuse = "budget"\nname = "week"\ntokens = 9\n',
            {"rate": "refuse", "budget": "refuse", "week": "refuse"},
            "'rate', 'budget' and 'week' refuse calls (503 store_unavailable)",
        ),
        (
            BUDGET + 'when_store_fails = "admit"\n[[policy]]\nuse = "trim"\nmax_messages = 4\n',
            {"budget": "admit"},
            "'budget' admits calls uncounted",
        ),
        ('[[policy]]\nuse = "tiers:Tiers"\nname = "tiers"\n', {"tiers": "refuse"}, "'tiers' refuses calls (503 store_unavailable)"),
    ],
    ids=["both", "rate", "strict", "lenient", "own"],
)  # fmt: skip
def test_consequence_follows_the_policies(tmp_path: Path, text: str, limits: dict[str, str], expected: str) -> None:
    """The line names each policy with limits and what it does with calls, by its `when_store_fails`."""
    (tmp_path / "tiers.py").write_text(OWN)
    found = limits_meanwhile(settings_of(tmp_path, "http://127.0.0.1:9/v1", text))
    assert found == limits
    assert consequence(found) == expected + SETTLED


def test_consequence_without_limits(tmp_path: Path) -> None:
    """Without a policy that counts, the line says that calls are served."""
    settings = settings_of(tmp_path, "http://127.0.0.1:9/v1", '[[policy]]\nuse = "retry"\n')
    assert consequence(limits_meanwhile(settings)) == "no policy has limits, so calls are served"


def test_consequence_of_many_policies_is_short() -> None:
    """Of many policies eight are named, so that the line is not cut."""
    assert consequence({f"b{at}": "refuse" for at in range(30)}).startswith(
        "'b0', 'b1', 'b2', 'b3', 'b4', 'b5', 'b6', 'b7' and 22 more refuse calls"
    )


def test_policies_of_keys_are_named(tmp_path: Path) -> None:
    """Limits that only a key has are named too."""
    digest = "a" * 64
    text = f'[[key]]\nid = "k"\ntenant = "t"\nsha256 = "{digest}"\nlimits = {{ rate = {{ requests = 3 }} }}\n{RATE}'
    assert limits_meanwhile(settings_of(tmp_path, "http://127.0.0.1:9/v1", text)) == {"rate": "admit"}


def test_outage_is_one_line() -> None:
    """However many operations and heartbeats fail, an outage is one line, and its end is one, with time and settlements."""
    log = Log()
    for _ in range(50):
        log.state.failed("a: gone")
        log.state.heartbeat_failed("a: gone")
        log.pending += 1
    log.now += 12.5
    assert log.state.heartbeat_answered()
    assert not log.state.heartbeat_answered()
    down, up = log.lines
    assert (down["level"], down["state"], down["was"], down["cause"]) == ("error", "down", "up", "a: gone")
    assert down["meanwhile"] == "refused"
    assert (up["level"], up["was"], up["was_seconds"], up["settlements_queued"]) == ("info", "down", 12.5, 50)


def test_settlements_that_were_sent_before_the_end_of_an_outage_count() -> None:
    """A call may have sent the queue before the heartbeat that ends the outage; the line names what was queued, and the next none."""
    log = Log()
    log.pending = 3
    log.state.heartbeat_failed("a: gone")
    log.pending = 0
    assert log.state.heartbeat_answered()
    log.state.heartbeat_failed("a: gone")
    assert [log.state.heartbeat_answered() for _ in range(2)] == [False, True]
    assert [line["settlements_queued"] for line in log.lines if line["state"] == "up"] == [3, 0]


def test_failure_of_a_call_alone_is_over() -> None:
    """A failure that only a call has seen is over after the second heartbeat that is answered."""
    log = Log()
    log.state.failed("a: gone")
    assert [log.state.heartbeat_answered() for _ in range(2)] == [False, True]
    assert log.states == ["down", "up"]


def test_each_cause_is_one_line() -> None:
    """A further cause of an outage is one more line, a cause that returns is none, and their number is bounded."""
    log = Log()
    for cause in ("a", "b", "a", "b", *(f"{at}" for at in range(50))):
        log.state.failed(cause)
    assert [line["cause"] for line in log.lines] == ["a", "b", *(f"{at}" for at in range(MAX_LOGGED_CAUSES - 2))]
    assert log.lines[1]["was"] == "down"


def test_outage_of_the_start_is_known() -> None:
    """A cause that was written at start is not repeated; another one is, and the end of that outage is a line."""
    log = Log("refused")
    log.state.heartbeat_failed("refused")
    assert log.lines == []
    log.state.heartbeat_failed("no password")
    log.now += 3
    log.state.heartbeat_answered()
    assert [(line["state"], line["was"], line["was_seconds"]) for line in log.lines] == [
        ("down", "down", 0),
        ("up", "down", 3),
    ]


def test_store_that_fails_now_and_then_is_one_outage() -> None:
    """A store whose heartbeats succeed while some operations fail writes few lines, not one per operation."""
    log = Log()
    for _ in range(1_000):
        log.state.failed("damaged")
        for _ in range(20):
            log.state.heartbeat_answered()
    assert len(log.lines) < 20
    for _ in range(MAX_NEEDED_ANSWERS + 1):
        log.state.heartbeat_answered()
    assert log.states[-1] == "up"
    for _ in range(STABLE_AFTER_HEARTBEATS):
        log.state.heartbeat_answered()
    log.state.heartbeat_failed("again")
    assert log.state.heartbeat_answered(), "after a quiet time one answer is enough again"


class AdvisedMemory(MemoryStore):
    """A store with warnings that a test sets; it may fail."""

    def __init__(self) -> None:
        super().__init__(clock=FakeClock())
        self.found: Sequence[str] = ()
        self.fault: Exception | None = None
        self.asked = 0

    async def warnings(self) -> Sequence[str]:
        """Return or raise what the test has set."""
        self.asked += 1
        if self.fault is not None:
            raise self.fault
        return self.found


async def settled(condition: Callable[[], bool]) -> None:
    """Let tasks run until *condition* holds."""
    for _ in range(20):
        if condition():
            return
        await asyncio.sleep(0)


@pytest.mark.anyio
async def test_warnings_are_logged_once() -> None:
    """Warnings are asked for after an outage and every five minutes; each is logged once, a known one never."""
    store, lines = AdvisedMemory(), []
    warnings = StoreWarnings(store, lambda _, line: lines.append(line), ["known"])
    store.found = ["known", "evicts"]
    warnings.heartbeat_answered(is_back=True)
    await settled(lambda: bool(lines))
    assert (lines, store.asked) == (["evicts"], 1)
    store.found = ["evicts", "in memory"]
    for _ in range(WARNING_INTERVAL_HEARTBEATS):
        warnings.heartbeat_answered(is_back=False)
        await asyncio.sleep(0)
    await settled(lambda: len(lines) > 1)
    assert (lines, store.asked) == (["evicts", "in memory"], 2)
    await warnings.aclose()


@pytest.mark.anyio
@pytest.mark.parametrize("fault", [StoreDown("gone"), ValueError("broken")], ids=repr)
async def test_failed_check_of_warnings_is_silent(fault: Exception, caplog: pytest.LogCaptureFixture) -> None:
    """A check that fails is silent, because heartbeats report the store, and the next one is made."""
    store, lines = AdvisedMemory(), []
    warnings = StoreWarnings(store, lambda _, line: lines.append(line))
    store.fault = fault
    warnings.heartbeat_answered(is_back=True)
    await settled(lambda: store.asked == 1)
    await asyncio.sleep(0)
    store.fault, store.found = None, ["evicts"]
    warnings.heartbeat_answered(is_back=True)
    await settled(lambda: bool(lines))
    assert lines == ["evicts"]
    assert caplog.records == []
    await warnings.aclose()


@pytest.mark.anyio
async def test_check_of_warnings_ends_with_the_gateway() -> None:
    """Closing ends a check that hangs."""

    class Hanging(AdvisedMemory):
        async def warnings(self) -> Sequence[str]:
            await asyncio.Event().wait()
            return ()

    warnings = StoreWarnings(Hanging(), lambda *_: None)
    warnings.heartbeat_answered(is_back=True)
    await asyncio.sleep(0)
    before = len(asyncio.all_tasks())
    await warnings.aclose()
    assert len(asyncio.all_tasks()) == before - 1
