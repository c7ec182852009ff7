"""Send operations to the Redis server that has the keys: one script, one pipelined connection, any number in flight.

1. An operation is an opaque payload. It is written at once, as EVALSHA, behind those that are in flight. There is no pool that
   could be exhausted. Its reply is matched by order.
2. A temporary error (the script is unknown, the keys are on another node, the server loads its data) stops further writes. When all
   replies have arrived, the payloads without a result are sent again in their order, to the server that has the keys now. The
   first one has the source of the script where that is needed.
3. A connection is lost when its server closes it, or sends nothing for `timeout` seconds while something is in flight. It is
   replaced at once, once, and what was in flight is sent again: operations are idempotent. Where another server may take over
   (cluster, sentinels), the link looks for it for `timeout` seconds more. Then all waiting operations fail with `StoreDown`, and
   further ones fail at once for half a second (`Outage`).

Slowness of our own process is not a failure of the server: see `pipeline`. For writes and failovers see `replication`.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from hashlib import sha1

from redis.exceptions import AskError, MovedError, NoScriptError

from policies.api.store import StoreDown
from policies.stores.batching.group_commit import UncancellableFuture
from policies.stores.batching.outage import Outage

from .retry_state import RetryState
from .servers.classification import Reaction, reaction_to
from .servers.connection import CannotConnect, ConnectionLost, Reply, encoded
from .servers.failures import describe_failure
from .servers.node import Node
from .servers.nodes import Nodes
from .servers.pipeline import MAX_COMMANDS_PER_WRITE
from .servers.topology import UNKNOWN_HOSTS, NoAddress
from .servers.url import Address, RedisUrl

DEFAULT_TIMEOUT_SECONDS = 2.0
MAX_WAITING_PAYLOADS, MAX_WAITING_BYTES = 10_000, 64 * 1024 * 1024
"""Most payloads without a result, and their size. Beyond that an operation fails at once, and the store is not down for others."""


class Submission:
    """A payload without a result yet. `is_written`: it may have been executed. `ask_at`: the node for its next attempt alone."""

    __slots__ = ("ask_at", "future", "is_written", "payload")

    def __init__(self, payload: bytes, future: asyncio.Future[bytes]) -> None:
        self.payload, self.future = payload, future
        self.is_written = False
        self.ask_at: Address | None = None


class ScriptLink:
    """Executes one Lua script on the server that has *keys*, all of one hash tag. Each payload is its only argument.

    The script must be idempotent: a payload is executed again if its reply was lost. It must raise the errors of the commands that it
    runs, not return them: READONLY and such tell the link to look for another server. All *keys* should exist from the first write on:
    while their slot moves, a cluster refuses commands of which some keys exist and some do not.

    *timeout* is in seconds; see the module. *monotonic* is a clock in seconds, *sleep* waits for so many seconds.
    """

    def __init__(
        self,
        url: RedisUrl,
        source: str,
        keys: Sequence[str],
        *,
        timeout: float = DEFAULT_TIMEOUT_SECONDS,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._url = url
        self._nodes = Nodes(url, keys[0], timeout=timeout, monotonic=monotonic, on_idle=self._on_idle)
        digest = sha1(source.encode(), usedforsecurity=False).hexdigest()  # the name of a script in Redis
        self._by_digest = _without_payload("EVALSHA", digest, keys)
        self._by_source = _without_payload("EVAL", source, keys)
        self._outage = Outage(monotonic)
        self._retry_state = RetryState(timeout, sleep)
        self._queue: deque[Submission] = deque()
        """Payloads that are to be sent, in order. It is empty while `_active` is set."""
        self._held: list[Submission] = []
        """Payloads that were sent without a result; they go back to the head of the queue."""
        self._held_for: tuple[Node, Exception] | None = None
        """The node and the error of the last one of them."""
        self._active: Node | None = None
        """The node to which payloads are written at once."""
        self._is_closed = False
        self._waiting = self._waiting_bytes = 0
        self._recovery: asyncio.Task[None] | None = None

    def submit(self, payload: bytes) -> asyncio.Future[bytes]:
        """Send *payload*; return the future of the script's reply. It is executed even if the future's task is cancelled.

        The future raises `StoreDown`, with `taken` if the payload may have been executed.
        """
        future = UncancellableFuture(loop=asyncio.get_running_loop())
        try:
            self._check_room(payload)
        except StoreDown as error:
            _fail(future, error)
            return future
        self._waiting += 1
        self._waiting_bytes += len(payload)
        submission = Submission(payload, future)
        if self._active is not None:
            self._send(self._active, submission)
        else:
            self._queue.append(submission)
            self._start_recovery()
        return future

    def _check_room(self, payload: bytes) -> None:
        if self._is_closed:
            raise StoreDown(f"{self._shown}: the store is closed")
        if not self._outage.is_up:
            self._outage.check()
        if self._waiting >= MAX_WAITING_PAYLOADS or self._waiting_bytes + len(payload) > MAX_WAITING_BYTES:
            raise StoreDown(f"{self._shown}: {self._waiting} operations wait already; see that it is fast enough")

    def _send(self, node: Node, submission: Submission) -> None:
        start, node.lacks_script = (self._by_source if node.lacks_script else self._by_digest), False
        submission.ask_at = None
        payload = submission.payload
        command = b"%b$%d\r\n%b\r\n" % (start, len(payload), payload)
        node.send_script(command, partial(self._receive, node, submission))

    def _receive(self, node: Node, submission: Submission, reply: Reply) -> None:
        if not isinstance(reply, Exception):
            if self._retry_state.cause is not None or not self._outage.is_up:
                self._nodes.note_success()
                self._retry_state.end()
                self._outage.end()
            self._finish(submission).set_result(reply)
            return
        if not isinstance(reply, ConnectionLost | NoScriptError | AskError):
            reaction = reaction_to(reply)
            if reaction in (Reaction.REFUSE, Reaction.FAIL):
                error = StoreDown(describe_failure(reply, self._shown), taken=reaction is Reaction.FAIL)
                if reaction is Reaction.REFUSE:
                    self._outage.begin(str(error))
                _fail(self._finish(submission), error)
                return
        submission.is_written |= isinstance(reply, ConnectionLost)
        self._held.append(submission)
        self._held_for, self._active = (node, reply), None
        if isinstance(reply, NoScriptError):
            node.lacks_script = True
        elif isinstance(reply, AskError):  # and `MovedError`, its subclass
            address = Address(node.address.host if reply.host in UNKNOWN_HOSTS else reply.host, reply.port)
            if isinstance(reply, MovedError):
                self._nodes.note_move(address)
            else:
                submission.ask_at = address
        elif _must_leave(reply):
            self._nodes.note_failure(node.address)

    def _on_idle(self) -> None:
        """Put back what was sent without a result, when no reply is expected any more."""
        if self._active is not None and self._active.pipeline.is_lost:
            self._active = None
        if self._held_for is None or not self._held_for[0].pipeline.is_idle:
            return  # it was another node that became idle
        (node, cause), self._held_for = self._held_for, None
        self._queue.extendleft(reversed(self._held))
        self._held.clear()
        if isinstance(cause, AskError | NoScriptError):
            self._retry_state.note_redirection(cause)
        else:
            self._retry_state.note(cause)
        if _must_leave(cause):
            node.pipeline.close()
        self._start_recovery()

    def _start_recovery(self) -> None:
        """Send the queue, unless replies are expected that may come before it."""
        if self._recovery is None and self._held_for is None and not self._is_closed:
            self._recovery = asyncio.get_running_loop().create_task(self._recover())

    async def _recover(self) -> None:
        """Send the queue to the server that has the keys, or fail it."""
        try:
            while self._queue:
                if self._retry_state.is_over(can_move=self._nodes.can_move):
                    self._give_up()
                    return
                await self._retry_state.pause()
                ask_at = self._queue[0].ask_at
                try:
                    node = await (self._nodes.owner() if ask_at is None else self._nodes.at(ask_at))
                except (CannotConnect, NoAddress) as error:
                    self._queue[0].ask_at = None
                    self._retry_state.note(error)
                    continue
                if await self._send_queue(node, ask_at):
                    self._active = node
                else:
                    await node.pipeline.wait_until_idle()
        except asyncio.CancelledError:  # the loop ends: callers, which cannot be cancelled, would wait for ever
            self._give_up()
            raise
        except Exception as error:  # noqa: BLE001  # also a fault of ours must not leave callers waiting
            self._retry_state.cause = error
            self._give_up()
        finally:
            self._recovery = None

    async def _send_queue(self, node: Node, ask_at: Address | None) -> bool:
        """Send the queue to *node*, or the head of it that *ask_at* alone can execute. Return whether *node* takes further payloads."""
        sent = 0
        while self._queue and self._held_for is None and not node.pipeline.is_lost:
            if ask_at is not None:
                if self._queue[0].ask_at != ask_at:
                    return False
                node.pipeline.send(encoded("ASKING"), _ignore)
            self._send(node, self._queue.popleft())
            sent += 1
            if sent % MAX_COMMANDS_PER_WRITE == 0:
                await asyncio.sleep(0)
        return ask_at is None and self._held_for is None and not node.pipeline.is_lost

    async def warnings(self) -> Sequence[str]:
        """Return what is wrong with the server for a store, for the summary at start. Raises `StoreDown`."""
        try:
            return await self._nodes.warnings()
        except (CannotConnect, NoAddress) as error:
            raise StoreDown(describe_failure(error, self._shown)) from error

    def _give_up(self) -> None:
        """Fail all waiting operations."""
        cause = describe_failure(self._retry_state.cause or TimeoutError(), self._shown)
        self._retry_state.end()
        self._outage.begin(cause)
        while self._queue:
            submission = self._queue.popleft()
            _fail(self._finish(submission), StoreDown(cause, taken=submission.is_written))

    def _finish(self, submission: Submission) -> asyncio.Future[bytes]:
        self._waiting -= 1
        self._waiting_bytes -= len(submission.payload)
        return submission.future

    @property
    def _shown(self) -> str:
        """The servers of the URL, without credentials."""
        return self._url.shown.partition("://")[2]

    async def aclose(self) -> None:
        """Close all connections. Operations without a result fail; callers have awaited them before."""
        self._is_closed = True
        if self._recovery is not None:  # it may connect meanwhile
            self._recovery.cancel()
            await asyncio.gather(self._recovery, return_exceptions=True)
        await self._nodes.aclose()
        self._give_up()


def _without_payload(command: str, script: str, keys: Sequence[str]) -> bytes:
    """Return the start of a command, up to its last argument."""
    return encoded(command, script, len(keys), *keys, b"").removesuffix(b"$0\r\n\r\n")


def _must_leave(error: Exception) -> bool:
    """Return whether another server may have the keys, after *error* of one that was thought to have them."""
    return isinstance(error, ConnectionLost) or reaction_to(error) is Reaction.LEAVE


def _fail(future: asyncio.Future[bytes], error: StoreDown) -> None:
    with suppress(RuntimeError, asyncio.InvalidStateError):  # its loop is closed
        future.set_exception(error)
        future.exception()  # marks it as retrieved, also where its caller is cancelled in the same iteration


def _ignore(reply: Reply) -> None:
    """Ignore the reply to ASKING: the script behind it is answered by a redirection if it had no effect."""
