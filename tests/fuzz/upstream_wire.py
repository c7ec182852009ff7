"""The upstream's wire: mutated answers towards the sidecar, and the rules that hold for each of them."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import partial
from random import Random
from typing import Any

import msgspec
from byte_mutations import mutate_bytes, split
from client_wire import is_answered
from complete_answers import Reading, Verdict, final_message, read_answer
from fuzz_seeds import AnswerSeed, answers
from fuzzed import CHAT, COMPLETIONS, EVENTS, LIST, MODELS, STREAM, USUAL, WHOLE, Fuzzed, ordinary_answer, received
from http_mutations import ANSWER_LINES, Parts, framed, mutate_lines, mutate_status_line, parts_of
from json_mutations import mutate_json
from sse_mutations import mutate_events
from strict_http import Message, NotStrict, read_responses
from watching import Settled

OK = 200
FAILURES = range(400, 600)
REFUSED_CEILING = re.compile(rb"(?:HTTP/1\.\d 1\d\d[^\0]*?\n\r?\n|\s)*HTTP/\d\.\d +(?:400|413|422|429|500)")
"""The start of an answer to which the sidecar may adapt the request: the documented statuses."""
NUMBER = re.compile(rb"\d+")
MANY_DIGITS = 7
DONE_MARK, CHAT_DONE = b"data: [DONE]\n\n", b"event: done\ndata: \n\n"
BYTES_PER_PROMPT = 64
"""More tokens than the sidecar estimates for the prompt of a case."""
PATHS = {"stream": COMPLETIONS, "plain": COMPLETIONS, "chat": CHAT, "models": MODELS}
BODIES = {"stream": USUAL | {"stream": True}, "plain": USUAL, "chat": {"messages": USUAL["messages"]}}
ORDINARY = {"stream": STREAM, "plain": WHOLE, "chat": EVENTS, "models": LIST}


class UpstreamCase(msgspec.Struct, frozen=True, tag="upstream"):
    """The answer to a request in *schema*, in the pieces in which it is sent, and how its connection ends."""

    schema: str
    pieces: list[bytes]
    end: str


def make_upstream_case(chance: Random) -> UpstreamCase:
    """Return one case; equal states of *chance* make equal cases."""
    seed: AnswerSeed = chance.choice(answers())
    data = seed.data
    how = chance.random()
    if how < 0.62:
        data = _restructured(data, chance)
    if how > 0.5 and how < 0.95:
        data = mutate_bytes(data, chance, [each.data for each in (chance.choice(answers()), chance.choice(answers()))])
    return UpstreamCase(chance.choice(seed.schemas), split(data, chance), _end(data, seed.end, chance))


def _end(data: bytes, end: str, chance: Random) -> str:
    """Return how the connection ends: it may stay open only behind an answer that is complete for every reader."""
    try:
        message = final_message(data)
    except NotStrict:
        message = None
    if message is not None and message.ended and chance.random() < 0.8:
        return ""
    return chance.choice((end or "fin", "fin", "fin", "reset"))


def _restructured(data: bytes, chance: Random) -> bytes:
    """Return *data* with changed events, JSON, header lines, status or framing; the framing stays valid."""
    try:
        message = final_message(data)
    except NotStrict:
        return data
    if message is None:
        return data
    parts = Parts(message.start, [b": ".join(field) for field in message.fields], message.body)
    how = chance.random()
    if b"data:" in parts.body and how < 0.75:
        parts = parts._replace(body=mutate_events(parts.body, chance))
    elif parts.body.startswith(b"{") and how < 0.75:
        parts = parts._replace(body=mutate_json(parts.body, chance))
    if chance.random() < 0.12:
        parts = mutate_status_line(parts, chance)
    data = framed(parts, chance, zipped=chance.random() < 0.1)
    if chance.random() < 0.2:
        data = mutate_lines(parts_of(data), chance, ANSWER_LINES).joined()
    return data


def request_of(schema: str) -> bytes:
    """Return the client's request in *schema*."""
    if schema not in BODIES:
        return f"GET {PATHS[schema]} HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n".encode()
    body = json.dumps(BODIES[schema]).encode()
    lines = f"POST {PATHS[schema]} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
    return lines.encode() + b"content-length: %d\r\n\r\n" % len(body) + body


async def call(target: Fuzzed, schema: str) -> tuple[bytes, str]:
    """Make one call in *schema*; return what the client received, and how its connection ended."""
    enough = partial(is_answered, methods=[], wanted=1)
    return await received(target.port, [request_of(schema)], enough, leave=False)


def spent(settled: Settled) -> int:
    """Return what all calls were charged."""
    return sum(each.spent for each in settled.accounts if each.policy == "budget")


async def check_upstream_case(case: UpstreamCase, target: Fuzzed) -> list[str]:
    """Answer one request with *case*, and the next one in an ordinary way; return the faults."""
    data, up = b"".join(case.pieces), target.up
    reading = read_answer(data, case.schema, closed=case.end == "fin")
    if case.end == "reset" and reading.verdict is Verdict.COMPLETE:  # a reset may destroy what was sent before
        reading = reading._replace(verdict=Verdict.UNCLEAR)
    before = spent(await target.settled())
    up.clear_requests()
    first = iter([case.pieces])

    def answer(request: Message) -> Sequence[bytes]:
        return next(first, None) or ordinary_answer(request)

    up.answer, up.end = answer, case.end
    raw, end = await call(target, case.schema)
    up.answer, up.end = ordinary_answer, ""
    settled = await target.settled()
    faults = target.faults_of(settled)
    if end in ("timeout", "reset"):
        faults.append(f"the client's connection ended by a {end}: {raw[-200:]!r}")
    if len(up.requests) > 1 and _may_repeat(data, case.end):
        reading = reading._replace(verdict=Verdict.UNCLEAR, text=None)
    elif len(up.requests) != 1:
        faults.append(f"{len(up.requests)} requests reached upstream")
    try:
        (response,) = read_responses(raw)
    except (NotStrict, ValueError) as error:
        faults.append(f"not one valid response: {error}: {raw[:300]!r}")
    else:
        complete = _looks_complete(response, case.schema)
        faults += _faults_of(response, complete, reading, case.schema)
        charged = spent(settled) - before
        if case.schema == "models":
            faults += [f"charged {charged} for a list"] if charged else []
        else:
            faults += _charge_faults(data, charged, complete=complete is True)
        if [each.request_id.encode() for each in settled.records] != [response.field(b"x-request-id")]:
            faults.append(f"not one record of the call: {settled.records}")
    return faults + await _next_faults(case, reading, target)


def _may_repeat(data: bytes, end: str) -> bool:
    """Whether the sidecar may send the request again: a connection that closed without a byte, or a refused ceiling."""
    return not data or end == "reset" or REFUSED_CEILING.match(data) is not None


async def _next_faults(case: UpstreamCase, reading: Reading, target: Fuzzed) -> list[str]:
    """Return what is wrong with the next call, which must get its own answer."""
    up = target.up
    raw, _ = await call(target, case.schema)
    await target.settled()
    responses = read_responses(raw)
    if len(responses) != 1 or responses[0].status != OK or responses[0].body != ORDINARY[case.schema]:
        return [f"the next call got another answer: {raw[:300]!r}"]
    if not reading.reusable and up.used[0] in up.used[1:]:
        return ["the connection of an ambiguous answer was reused"]
    return []


def _looks_complete(response: Message, schema: str) -> bool | str:
    """Return whether the client takes the answer for complete; a text says what is wrong with it."""
    if response.status != OK:
        return False if response.status in FAILURES and _has_code(response.body) else f"status {response.status}"
    if schema == "models":
        return True  # the list is passed on as it is
    if schema == "plain":
        return _is_object(response.body) or "an answer that is no JSON object"
    if schema == "chat":
        return _chat_end(response.body)
    body = response.body
    if not body.endswith(DONE_MARK):
        return "a stream without [DONE]"
    *events, last = body.removesuffix(DONE_MARK).split(b"\n\n")
    payloads = [_payload(event) for event in events]
    if last or b"[DONE]" in [each.strip() for each in payloads]:
        return "a stream with something behind its end"
    return not payloads or not _has_code(payloads[-1])


def _payload(event: bytes) -> bytes:
    """Return the data of an event."""
    return b"\n".join(line[5:].removeprefix(b" ") for line in event.split(b"\n") if line.startswith(b"data:"))


def _chat_end(body: bytes) -> bool | str:
    *events, last = body.decode().split("\n\n")
    names = [event.partition("\n")[0] for event in events]
    if last or not names or names[0] != "event: start":
        return "no start, or half an event"
    if set(names[1:-1]) - {"event: token", "event: ping"} or names[-1] not in ("event: done", "event: error"):
        return f"not one end: {names[-3:]}"
    for event in events:
        value = event.partition("data: ")[2]
        if event.startswith(("event: token", "event: error")) and not _is_json(value.encode()):
            return f"an event that is no JSON: {value[:100]!r}"
    return names[-1] == "event: done"


def _is_json(data: bytes) -> bool:
    try:
        json.loads(data)
    except (ValueError, RecursionError):
        return False
    return True


def _is_object(data: bytes) -> bool:
    return data.lstrip().startswith(b"{") and _is_json(data)


def _has_code(body: bytes) -> bool:
    """Whether *body* is an error object with a code, which is not that of a fault of the sidecar."""
    try:
        error: Any = json.loads(body)["error"]
        return "code" in error and error["code"] != "internal_error"
    except (ValueError, KeyError, TypeError, RecursionError):
        return False


def _faults_of(response: Message, complete: bool | str, reading: Reading, schema: str) -> list[str]:  # noqa: FBT001  # a verdict, not a flag
    if isinstance(complete, str):
        return [f"improper answer: {complete}: {response.status} {response.body[-300:]!r}"]
    if b"internal_error" in response.body:
        return [f"internal error: {response.body[-300:]!r}"]
    if complete and reading.verdict is Verdict.BROKEN:
        return [f"a broken answer looks complete: {response.body[-300:]!r}"]
    if not complete and reading.verdict is Verdict.COMPLETE:
        return [f"a complete answer looks broken: {response.status} {response.body[-300:]!r}"]
    if complete and reading.text is not None and (text := _text_of(response.body, schema)) != reading.text:
        return [f"another text: {text[:200]!r} instead of {reading.text[:200]!r}"]
    return []


def _text_of(body: bytes, schema: str) -> str:
    """Return the text of the first choice, as a client of *schema* reads it."""
    if schema == "plain":
        return str(json.loads(body)["choices"][0]["message"]["content"])
    payloads = [_payload(event) for event in body.split(b"\n\n")]
    if schema == "chat":
        return "".join(json.loads(each) for each in payloads if each.startswith(b'"'))
    chunks = [json.loads(each) for each in payloads if each.startswith(b"{")]
    return "".join(
        (each["choices"][0].get("delta") or {}).get("content") or "" for each in chunks if each.get("choices")
    )


def _charge_faults(data: bytes, charged: int, *, complete: bool) -> list[str]:
    """Return what is wrong with the charge: no refund, nothing free, and no more than was read or reported."""
    if charged < 0 or (complete and not charged):
        return [f"charged {charged} for an answer"]
    try:
        message = final_message(data)
    except NotStrict:
        return []
    if message is None or message.field(b"content-encoding"):
        return []
    numbers = NUMBER.findall(message.body)
    if any(len(number) > MANY_DIGITS for number in numbers):
        return []
    most = BYTES_PER_PROMPT + len(data) + 4 * sum(map(int, numbers))
    return [f"charged {charged}, more than {most}"] if charged > most else []
