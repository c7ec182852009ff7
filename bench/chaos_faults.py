"""The faults of `chaos.py`: processes that are killed or suspended, and a program that locks the file."""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
import sqlite3
import sys
import time
from pathlib import Path

from chaos_audit import Disturbances
from chaos_load import STEADY_NODE
from process import Program, program

SUSPENDED_SECONDS = 33.0
"""Longer than the 30 seconds after which a process without heartbeats counts as dead."""
LOCKED_SECONDS = 5.0
LOCK = """
import sqlite3, sys, time
file = sqlite3.connect(sys.argv[1], timeout=100, isolation_level=None)
file.execute("BEGIN EXCLUSIVE")
time.sleep(float(sys.argv[2]))
"""
START_PAUSE_SECONDS = 0.5
"""Pause before a process that could not start, because the file was locked, is started again."""


class Node:
    """One of the processes, which is started anew after each kill. *ports* has its port while clients may choose it."""

    def __init__(self, number: int, serve: tuple[str, ...], folder: Path, ports: dict[int, tuple[int, int]]) -> None:
        self._number, self._serve, self._folder, self._ports = number, serve, folder, ports
        self._stack = contextlib.ExitStack()
        self._running: Program | None = None
        self.instance = number
        self.is_suspended = False

    @property
    def is_running(self) -> bool:
        """Whether the process runs and is not suspended."""
        return self._running is not None and not self.is_suspended

    async def start(self, instance: int) -> None:
        """Start the process; try again while it cannot start."""
        while True:
            log = self._folder / f"{instance}.log"
            entered = self._stack.enter_context
            arguments = program(*self._serve, folder=self._folder, log=log)
            running = await asyncio.to_thread(entered, arguments)
            if running.line:
                break
            await asyncio.to_thread(self._stack.close)
            await asyncio.sleep(START_PAUSE_SECONDS)
        self.instance, self._running = instance, running
        self._ports[self._number] = running.port, instance

    async def kill(self) -> None:
        """End the process by SIGKILL."""
        running, self._running = self._running, None
        assert running is not None
        running.popen.kill()
        await asyncio.to_thread(self._stack.close)
        self._ports.pop(self._number, None)

    def suspend(self) -> None:
        """Stop the process by SIGSTOP; clients may still connect."""
        assert self._running is not None
        self.is_suspended = True
        self._running.popen.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let a suspended process run on."""
        if self.is_suspended and self._running is not None:
            self._running.popen.send_signal(signal.SIGCONT)
        self.is_suspended = False

    def close(self) -> None:
        """End the process by SIGTERM."""
        self.resume()
        self._stack.close()


class Faults:
    """Kills, suspends and locks at random until *end* (monotonic seconds). `disturbances` has their times.

    The first process to be suspended is the steady one, for `SUSPENDED_SECONDS`.
    """

    def __init__(self, nodes: list[Node], store: Path, chance: random.Random, end: float) -> None:
        self._nodes, self._store, self._chance, self._end = nodes, store, chance, end
        self._mortal = [node for at, node in enumerate(nodes) if at != STEADY_NODE]
        self._instances = len(nodes)
        self.disturbances = Disturbances()
        self.suspensions: list[float] = []
        self.suspended: set[int] = set()
        self.locks = self.locked_suspensions = 0

    async def run(self) -> None:
        """Make faults until the end; the process that is suspended then runs on."""
        async with asyncio.TaskGroup() as group:
            for each in (self._kill, self._suspend, self._lock):
                group.create_task(each())

    async def _pause(self, least: float, most: float) -> bool:
        """Wait; return False if the end has come."""
        seconds = self._chance.uniform(least, most)
        await asyncio.sleep(max(0.0, min(seconds, self._end - time.monotonic())))
        return time.monotonic() < self._end

    async def _kill(self) -> None:
        while await self._pause(4, 9):
            candidates = [node for node in self._mortal if node.is_running]
            if candidates and sum(node.is_running for node in self._nodes) > 1:
                await self._restart(self._chance.choice(candidates))

    async def _restart(self, node: Node) -> None:
        self.disturbances.killed[node.instance] = time.time()
        await node.kill()
        await asyncio.sleep(self._chance.uniform(0, 2))
        self._instances += 1
        await node.start(self._instances - 1)

    async def _suspend(self) -> None:
        while await self._pause(2, 8):
            candidates = [node for node in self._nodes if node.is_running]
            if not candidates:
                continue
            is_first = not self.suspensions
            node = self._nodes[STEADY_NODE] if is_first else self._chance.choice(candidates)
            left = self._end - time.monotonic()
            seconds = SUSPENDED_SECONDS if is_first or left > SUSPENDED_SECONDS + 5 else self._chance.uniform(0.5, 6)
            self.suspensions.append(seconds)
            self.suspended.add(node.instance)
            node.suspend()
            began = time.time()
            has_locked = await asyncio.to_thread(is_locked, self._store, min(seconds, 2 * LOCKED_SECONDS))
            await asyncio.sleep(seconds - (time.time() - began))
            if has_locked:
                self.locked_suspensions += 1
                self.disturbances.locked.append((began, time.time()))
            if node not in self._mortal or self._chance.random() < 0.6:
                node.resume()
            else:
                node.is_suspended = False
                await self._restart(node)

    async def _lock(self) -> None:
        while await self._pause(4, 14):
            self.locks += 1
            command = ("-c", LOCK, str(self._store), str(LOCKED_SECONDS))
            began = time.time()
            locking = await asyncio.create_subprocess_exec(sys.executable, *command)
            await locking.wait()
            self.disturbances.locked.append((began, time.time()))


def is_locked(store: Path, seconds: float) -> bool:
    """Return whether the file is locked for all of *seconds*."""
    file = sqlite3.connect(store, timeout=seconds, isolation_level=None)
    try:
        file.execute("BEGIN IMMEDIATE")
    except sqlite3.OperationalError:
        return True
    else:
        return False
    finally:
        file.close()
