"""Whether an upstream's answer is complete, by a strict reading of its bytes: the oracle of the upstream's wire.

It is independent of the sidecar's code, and answers `UNCLEAR` for whatever a tolerant reader may take in two ways.
"""

from __future__ import annotations

import json
import re
import zlib
from enum import StrEnum
from typing import Any, NamedTuple

from strict_http import Message, NotStrict, read_message

DONE = b"[DONE]"
MAX_FIELDS, MAX_LINE = 100, 8_000
"""Of a head that each reader accepts."""
LINE_END = re.compile(rb"\r\n|\r|\n")
MAY_FINISH = re.compile(rb'\[DONE\]|finish|"usage"|"error"|error:', re.IGNORECASE)
"""Bytes without which no reader may take a stream for complete."""
LARGE_NUMBER = re.compile(rb"\d[eE]\+?\d{3}|\d{16}")
PLAIN_FIELDS = frozenset({b"data", b"", b"id", b"retry"})
FIRST_FINAL_STATUS, OK = 200, 200


class Verdict(StrEnum):
    """How a client may see an answer end."""

    COMPLETE = "complete"
    BROKEN = "broken"
    UNCLEAR = "either"


class Reading(NamedTuple):
    """The verdict, the text of the answer where it is certain, and whether its connection may serve another request."""

    verdict: Verdict
    text: str | None = None
    reusable: bool = False


def final_message(data: bytes) -> Message | None:
    """Return the final response in *data*, behind informational ones. Raise `NotStrict` for an ambiguous one."""
    while (message := read_message(data, controls=True)) is not None and message.status < FIRST_FINAL_STATUS:
        data = data[message.size :]
        if message.status == 101 or message.field(b"upgrade"):
            raise NotStrict("an upgrade")
    if message is not None and (
        len(message.fields) > MAX_FIELDS or max(map(len, data.split(b"\r\n\r\n")[0].split(b"\n"))) > MAX_LINE
    ):
        raise NotStrict("a large head")
    return message if message is None or message.size == len(data) else _surplus(data[message.size :])


def _surplus(data: bytes) -> Message:
    raise NotStrict(f"behind the end: {data[:80]!r}")


def read_answer(data: bytes, schema: str, *, closed: bool) -> Reading:
    """Return the reading of *data*, all that upstream sent for one request in *schema* (`stream`, `chat`, `plain` or `models`).

    *closed*: upstream closed its side behind the bytes, without an error.
    """
    try:
        message = final_message(data)
    except NotStrict:
        finishes = MAY_FINISH.search(data) is not None or schema in ("plain", "models") or b"{" in data
        return Reading(
            Verdict.UNCLEAR if finishes or b"\x1f\x8b" in data or b"encoding" in data.lower() else Verdict.BROKEN
        )
    if message is None:
        has_end = b"\n\n" in data or b"\n\r\n" in data  # by LF alone
        return Reading(Verdict.UNCLEAR if has_end else Verdict.BROKEN)
    ended = message.ended or (message.until_close and closed)
    reusable = message.ended and not message.closes
    if message.status != OK:
        return Reading(Verdict.BROKEN, reusable=reusable)
    body = _decoded(message)
    if body is None:
        return Reading(Verdict.UNCLEAR, reusable=reusable)
    if schema == "models":
        verdict, text = (Verdict.UNCLEAR if ended else Verdict.BROKEN), None
    elif body.lstrip(b" \t\r\n\xef\xbb\xbf")[:1] in (b"{", b"["):
        verdict, text = _read_json(body, ended=ended)
    elif schema == "plain":
        verdict, text = (Verdict.UNCLEAR, None) if ended else (Verdict.BROKEN, None)
    else:
        verdict, text = _read_stream(body, ended=ended)
    if verdict is Verdict.COMPLETE and schema != "plain" and not body.startswith((b"data:", b"{")):
        verdict = Verdict.UNCLEAR  # its first bytes may be taken for another form
    return Reading(verdict, text, reusable=reusable)


def _decoded(message: Message) -> bytes | None:
    """Return the body without its content coding; None for a coding that is unknown, repeated or broken."""
    codings = [value.lower() for name, value in message.fields if name == b"content-encoding"]
    if not codings:
        return message.body
    if codings != [b"gzip"]:
        return None
    inflate = zlib.decompressobj(wbits=31)
    try:
        body = inflate.decompress(message.body)
    except zlib.error:
        return None
    return body if inflate.eof and not inflate.unused_data else None


def _read_json(body: bytes, *, ended: bool) -> tuple[Verdict, str | None]:
    """Return the verdict for one JSON object; only an ordinary one is `COMPLETE`."""
    if not ended:
        return Verdict.BROKEN if body.startswith(b"{") and not body.rstrip().endswith(b"}") else Verdict.UNCLEAR, None
    try:
        choices = json.loads(body)["choices"]
        if type(choices) is not list or len(choices) != 1 or _has_error(json.loads(body)):
            return Verdict.UNCLEAR, None
        (choice,) = choices
        content, finish = choice["message"]["content"], choice.get("finish_reason")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return Verdict.UNCLEAR, None
    if content and _is_plain(content) and type(finish) is str and finish in ("stop", "length") and _is_small(body):
        return Verdict.COMPLETE, content
    return Verdict.UNCLEAR, None


def _read_stream(body: bytes, *, ended: bool) -> tuple[Verdict, str | None]:
    """Return the verdict for a stream: `COMPLETE` if all of its events are ordinary and it has `[DONE]` or each finish."""
    blocks = LINE_END.sub(b"\n", body.removeprefix(b"\xef\xbb\xbf")).split(b"\n\n")
    text, finished, seen, done, certain = "", set[int](), set[int](), False, True
    for block in blocks[:-1]:
        payload, ordinary = _payload(block)
        certain = certain and ordinary
        if not payload:
            continue
        if payload == DONE:
            done = True
            break
        piece = _piece(payload)
        if piece is None:
            certain = False
        elif piece.choice >= 0:
            seen.add(piece.choice)
            if finished:
                certain = False  # output behind a finish
            if piece.finishes:
                finished.add(piece.choice)
            if piece.choice == 0:
                text += piece.text
    has_end = done or bool(seen and finished == seen)
    if not has_end:
        # The last event needs no blank line: its rest may hold the end. TGI counts tokens in the index.
        unsure = (
            not certain or len(seen) > 1 or MAY_FINISH.search(blocks[-1]) is not None or blocks[-1].count(b"\n") > 0
        )
        return (Verdict.UNCLEAR if unsure else Verdict.BROKEN), None
    if not certain or blocks[-1].strip() or not text or seen != {0} or not (done or ended):
        return Verdict.UNCLEAR, None
    return Verdict.COMPLETE, text


class _Piece(NamedTuple):
    choice: int
    """Its index; -1 for a chunk without choices."""
    text: str
    finishes: bool


def _payload(block: bytes) -> tuple[bytes, bool]:
    """Return the data of an event, and whether all of its lines are ordinary."""
    data, ordinary = [], True
    for line in block.split(b"\n"):
        name, _, value = line.partition(b":")
        if name == b"data":
            data.append(value.removeprefix(b" "))
        ordinary = ordinary and name in PLAIN_FIELDS
    return b"\n".join(data), ordinary and len(data) <= 1


def _piece(payload: bytes) -> _Piece | None:
    """Return what an ordinary chunk adds; None for any other."""
    try:
        text = payload.decode()
        data = json.loads(text)
        if type(data) is not dict or _has_error(data) or not _is_small(payload):
            return None
        choices = data.get("choices")
        if choices == [] and "usage" in data:
            return _Piece(-1, "", finishes=False)
        only: Any = choices
        (choice,) = only
        delta, finish, index = choice["delta"], choice.get("finish_reason"), choice.get("index", 0)
        content = delta.get("content")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    ordinary = (
        type(index) is int and 0 <= index < 8 and delta.keys() <= {"role", "content"} and data.get("message") is None
    )
    if not ordinary or (finish is not None and finish not in ("stop", "length")):
        return None
    if content is not None and not _is_plain(content):
        return None
    return _Piece(index, content or "", finishes=finish is not None)


def _has_error(data: dict[str, Any]) -> bool:
    return any(each in data for each in ("error", "message", "detail", "code", "object_error"))


def _is_plain(content: Any) -> bool:
    return type(content) is str and content.encode("utf-8", "replace").decode() == content


def _is_small(payload: bytes) -> bool:
    """Whether each decoder takes *payload*: by its size, nesting, numbers, and one spelling of each key."""
    keys = re.findall(rb'"((?:[^"\\]|\\.)*)"\s*:', payload)
    if LARGE_NUMBER.search(payload):
        return False
    return (
        len(payload) < 100_000
        and payload.count(b"[") + payload.count(b"{") < 50
        and len(set(keys)) == len(keys)
        and b"\\u" not in payload
    )
