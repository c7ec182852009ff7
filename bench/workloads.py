"""The workloads: what is asked, by how many, and how fast it is answered."""

from __future__ import annotations

from typing import NamedTuple

from targets import CHAT

HELLO = "Hello, write a short story about a fox and a hen."
STORY = 'The fox said: "Good morning, dear hen." \u2013 "Good morning", said the hen, and closed the door.\n'
EARLIER = 19
"""Messages before the last one of a large prompt."""


class Work(NamedTuple):
    """One workload: an answer of *tokens*, *interval* ms apart, the first after *first* ms.

    `closed` connections ask again and again, beginning over *spread* seconds; `idle` streams are held open, `slow` ones not
    read until the proxy comes to rest.  *unit* is what its CPU is divided by.
    """

    tokens: int
    interval: int
    first: int
    connections: int
    spread: float = 0.0
    prompt: int = 0
    stream: bool = True
    kind: str = "closed"
    unit: str = "request"

    @property
    def model(self) -> str:
        """The name by which the mock knows what to answer."""
        return f"mock-{self.tokens}-{self.interval}-{self.first}"


WORK = {
    "one": Work(1, 0, 0, 1),
    "burst": Work(64, 0, 0, 50),
    "paced": Work(100, 20, 50, 300, spread=1.0, unit="token"),
    "prompts": Work(1, 0, 0, 10, prompt=100_000),
    "plain": Work(64, 0, 0, 50, stream=False),
    "slow": Work(16_000, 0, 0, 50, kind="slow", unit="token"),
    "idle": Work(1000, 5000, 0, 300, kind="idle", unit="stream-s"),
    "many": Work(1000, 5000, 0, 2000, kind="idle", unit="stream-s"),
}


def asked(work: Work, path: str) -> dict[str, object]:
    """Return the body that asks for *work*; on the Chat Nest route the proxy's default model says what to answer."""
    messages = [{"role": "user", "content": HELLO}]
    if size := work.prompt // EARLIER:
        text = (STORY * (size // len(STORY) + 1))[:size]
        messages = [{"role": "assistant" if at % 2 else "user", "content": text} for at in range(EARLIER)] + messages
    if path == CHAT:
        return {"messages": messages, "profile": "expanded"}
    return {"model": work.model, "messages": messages, "stream": work.stream, "max_tokens": 100_000}
