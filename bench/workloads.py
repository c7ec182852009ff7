"""The workloads: requests, connections, and the pace of the answers."""

from __future__ import annotations

from typing import NamedTuple

from targets import CHAT

SHORT_PROMPT = "Hello, write a short story about a fox and a hen."
STORY = 'The fox said: "Good morning, dear hen." \u2013 "Good morning", said the hen, and closed the door.\n'
EARLIER_MESSAGES = 19
"""Messages before the last one in a large prompt."""


class Work(NamedTuple):
    """One workload: answers of `tokens` tokens, `interval` ms apart, the first after `first` ms.

    `closed` connections send one request after the other, and are opened over `spread` seconds. `idle` streams are held
    open; `slow` ones are not read until the proxy is at rest. CPU is divided by the number of `unit`.
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
        """The model name that makes the mock answer in this way."""
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


def request_body(work: Work, path: str) -> dict[str, object]:
    """Return the request body for *work*; on the Chat Nest route the proxy's default model selects the answer."""
    messages = [{"role": "user", "content": SHORT_PROMPT}]
    if size := work.prompt // EARLIER_MESSAGES:
        text = (STORY * (size // len(STORY) + 1))[:size]
        messages = [
            {"role": "assistant" if at % 2 else "user", "content": text} for at in range(EARLIER_MESSAGES)
        ] + messages
    if path == CHAT:
        return {"messages": messages, "profile": "expanded"}
    return {"model": work.model, "messages": messages, "stream": work.stream, "max_tokens": 100_000}
