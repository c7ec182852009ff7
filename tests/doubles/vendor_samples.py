"""Samples of what vendors' servers send, read from the TOML files in `tests/conformance/vendors`, and an upstream that plays them.

The README in that folder describes the fields for people who add a sample.
"""

from __future__ import annotations

import asyncio
import re
import tomllib
from typing import Any, Literal

import msgspec
from places import VENDORS
from scripts import whole_answer
from wire import Connection, Script, chunk

CEILING_ASKED = 32_768
"""The ceiling that the sidecar writes into a call before a server refuses it."""
PROMPT_TOKENS = 12
"""What servers count for the prompt, in texts with `<prompt>`."""
CEILING_FIELDS = ("max_completion_tokens", "max_tokens")
SOURCES = ("verbatim: ", "from documentation: ", "from memory")
SCHEMAS = {
    "stream": ("stream", "chat"),
    "whole": ("plain", "chat"),
    "error": ("stream", "plain", "chat"),
    "ceiling": ("stream", "plain", "chat"),
}
"""How a sample of each kind is requested: on `/v1` as a stream or as a whole, or on `/api/chat`."""
_EVENT_END = re.compile(rb"(?<=\n\n)|(?<=\r\n\r\n)")
_CUT = b"<cut>"


class ExpectedError(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The error object on `/v1`: what it has, texts that its message contains, and texts that must not reach any client."""

    code: str = ""
    type: str = ""
    says: tuple[str, ...] = ()
    hides: tuple[str, ...] = ()
    fields: dict[str, Any] = {}


class Expected(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What clients receive, what is charged and how often upstream is asked. Values that are None are not checked."""

    status: int = 200
    text: str = ""
    finish: str = "stop"
    error: ExpectedError | None = None
    chat: str = ""
    input: int | None = None
    output: int | None = None
    cached: int = 0
    kind: str = ""
    requests: int = 1
    requests_at_most: int = 0
    final: bool = True
    retry_after: int | None = None

    @property
    def chat_end(self) -> str:
        """The last Chat Nest event: `done`, `error`, or the code of the `error` event."""
        return self.chat or ("error" if self.error else "done")


class Sample(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One answer of one server."""

    name: str
    source: str
    kind: Literal["stream", "whole", "error", "ceiling"]
    body: str
    expect: Expected = Expected()
    status: int = 200
    headers: tuple[str, ...] = ()
    content_type: str | None = None
    framing: Literal["", "chunked", "length", "close", "length and chunked"] = ""
    request: dict[str, Any] = {}
    schemas: tuple[Literal["stream", "plain", "chat"], ...] = ()
    above: int = 0
    then_above: int = 0
    then_body: str = ""
    field: str = ""
    server: str = ""

    def __str__(self) -> str:
        return f"{self.server}: {self.name}"

    @property
    def asked_as(self) -> tuple[str, ...]:
        """The schemas in which it is requested."""
        return self.schemas or SCHEMAS[self.kind]

    @property
    def pieces(self) -> tuple[bytes, ...]:
        """Its bytes on the wire, each event of a stream separately."""
        return self._answer(self.body.encode())

    def refusal(self, request: dict[str, Any]) -> tuple[bytes, ...] | None:
        """Return the answer to *request* of a server that refuses ceilings or a field; None if it accepts *request*."""
        asked = next((request[name] for name in CEILING_FIELDS if request.get(name)), 0)
        if self.field:
            return self._answer(self.body.encode()) if self.field in request else None
        numbers = {"<asked>": asked, "<prompt>": PROMPT_TOKENS, "<total>": asked + PROMPT_TOKENS}
        for above, text in ((self.above, self.body), (self.then_above, self.then_body)):
            if above and asked > above:
                for mark, number in numbers.items():
                    text = text.replace(mark, str(number))  # noqa: PLW2901  # three short replacements
                return self._answer(text.encode())
        return None

    def _answer(self, body: bytes) -> tuple[bytes, ...]:
        is_stream = self.kind == "stream"
        framing = self.framing or ("chunked" if is_stream else "length")
        kind = self.content_type
        if kind is None:
            kind = "text/event-stream" if is_stream else "application/json"
        lines = [f"HTTP/1.1 {self.status} X", *self.headers]
        lines += [f"content-type: {kind}"] if kind else []
        lines += [f"content-length: {len(body)}"] if "length" in framing else []
        lines += ["transfer-encoding: chunked"] if "chunked" in framing else []
        head = "\r\n".join(lines).encode() + b"\r\n\r\n"
        parts = [part for part in _EVENT_END.split(body) if part] if is_stream else [body]
        if "chunked" in framing:
            return (head, *map(chunk, parts), b"0\r\n\r\n")
        return (head, *parts, *([_CUT] if framing == "close" else []))


def plays_sample(sample: Sample) -> Script:
    """Return a script that sends *sample*, or refuses until its ceiling is accepted, each piece in a loop iteration of its own."""

    async def script(connection: Connection) -> None:
        pieces = sample.refusal(connection.body) if sample.kind == "ceiling" else sample.pieces
        if pieces is None:
            if connection.body.get("stream"):
                await connection.stream("ok")
            else:
                await connection.answer(200, whole_answer("ok"))
            return
        for piece in pieces:
            if piece == _CUT:
                connection.close()
            else:
                await connection.send(piece)
                await asyncio.sleep(0)

    return script


def load_samples() -> list[Sample]:
    """Return the samples of all files. Raises `msgspec.ValidationError` for an unknown or missing field."""
    return [sample for path in sorted(VENDORS.glob("*.toml")) for sample in read_samples(path.read_text("utf-8"))]


def read_samples(text: str) -> list[Sample]:
    """Return the samples in the TOML *text* of one server."""
    data = tomllib.loads(text)
    return [msgspec.convert({**each, "server": data["server"]}, Sample) for each in data["sample"]]
