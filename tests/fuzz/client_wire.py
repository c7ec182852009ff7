"""The client's wire: mutated requests towards the sidecar, and the rules that hold for each of them."""

from __future__ import annotations

import json
import re
from collections import Counter
from functools import partial
from random import Random
from typing import Any

import httptools
import msgspec
from byte_mutations import mutate_bytes, split
from fuzz_seeds import raw_requests, request_parts
from fuzzed import Fuzzed, received
from governed_apis import is_complete_stream, is_forwarded, lacks_prompt
from http_mutations import REQUEST_LINES, Parts, framed, mutate_lines, mutate_request_line, parts_of
from json_mutations import mutate_json
from strict_http import Message, NotStrict, read_responses
from watching import Settled

CLIENT_CLOSED = 499
OK, NO_CONTENT, NOT_FOUND = 200, 204, 404
SMALL_MODELS = 500
PROMPT_NAMES = frozenset({"messages", "prompt", "input"})
OFFERS = re.compile(rb"(\n)(upgrade|http2-settings)(?=[ \t]*:)", re.IGNORECASE)


class ClientCase(msgspec.Struct, frozen=True, tag="client"):
    """The bytes of a client, in the pieces in which they are sent."""

    pieces: list[bytes]


class Predicted(msgspec.Struct):
    """The methods of the complete requests in the bytes of a client; *broken*: further bytes are no request."""

    methods: list[bytes] = msgspec.field(default_factory=list)
    broken: bool = False


def make_client_case(chance: Random) -> ClientCase:
    """Return one case; equal states of *chance* make equal cases."""
    how = chance.random()
    if how < 0.12:
        data = chance.choice(raw_requests())
        data = data if chance.random() < 0.3 else mutate_bytes(data, chance, raw_requests())
    else:
        data = _mutated_request(chance)
        if how > 0.85:
            data = mutate_bytes(data, chance, raw_requests())
        if chance.random() < 0.05:
            data += _mutated_request(chance)
    return ClientCase(split(data, chance))


def _mutated_request(chance: Random) -> bytes:
    parts = chance.choice(request_parts())
    if parts.body and chance.random() < 0.06:
        parts = parts._replace(body=parts.body.replace(b'"m"', b'"small-%d"' % chance.randrange(SMALL_MODELS)))
    if parts.body and chance.random() < 0.55:
        parts = parts._replace(body=mutate_json(parts.body, chance))
    elif parts.body and chance.random() < 0.3:
        parts = parts._replace(body=mutate_bytes(parts.body, chance))
    if chance.random() < 0.1:
        parts = mutate_request_line(parts, chance)
    if not parts.body:
        return mutate_lines(parts, chance, REQUEST_LINES).joined()
    data = framed(parts, chance, zipped=chance.random() < 0.06)
    if chance.random() < 0.3:
        framed_parts: Parts = parts_of(data)
        data = mutate_lines(framed_parts, chance, REQUEST_LINES).joined()
    return data


def predicted(data: bytes) -> Predicted:
    """Return what complete requests *data* has. It decides only whether the fuzzer waits for an answer.

    Offers of another protocol are read as other headers, as the sidecar does.
    """
    seen, data = Predicted(), OFFERS.sub(rb"\1x-\2", data)

    class Notes:
        def on_message_complete(self) -> None:
            seen.methods.append(parser.get_method())

    parser = httptools.HttpRequestParser(Notes())
    try:
        parser.feed_data(data)
    except httptools.HttpParserUpgrade:  # CONNECT, which is complete behind its head
        pass
    except httptools.HttpParserError:
        seen.broken = True
    return seen


def is_answered(raw: bytes, methods: list[bytes], wanted: int) -> bool:
    """Whether *raw* has *wanted* complete responses, the last of which keeps the connection; or is invalid."""
    if b"\r\n\r\n" not in raw:
        return False
    try:
        found = read_responses(raw, methods=methods)
    except NotStrict:
        return True
    return len(found) >= wanted and found[-1].ended and not found[-1].closes


def _read(raw: bytes, methods: list[bytes]) -> list[Message]:
    """Return the responses in *raw*; one to a HEAD that is not valid HTTP may have a body."""
    try:
        return read_responses(raw, methods=methods)
    except NotStrict:
        return read_responses(raw)


async def check_client_case(case: ClientCase, target: Fuzzed) -> list[str]:
    """Send *case*; return the faults."""
    data = b"".join(case.pieces)
    seen = predicted(data)
    wanted = max(1, len(seen.methods)) if seen.methods or seen.broken else 0
    methods = seen.methods or [data.lstrip().split(b" ", 1)[0]]
    target.up.clear_requests()
    enough = partial(is_answered, methods=methods, wanted=wanted)
    raw, end = await received(target.port, case.pieces, enough, leave=not wanted)
    settled = await target.settled()
    faults = target.faults_of(settled)
    if end == "timeout":
        faults.append(f"no answer to {len(seen.methods)} complete requests: {raw[:200]!r}")
    try:
        responses = _read(raw, methods)
    except NotStrict as error:
        return [*faults, f"invalid response: {error}"]
    if end == "reset" and wanted and not (responses and responses[-1].ended):
        faults.append("reset without an answer")
    if end == "server" and seen.methods and not responses:
        faults.append("closed without an answer to a complete request")
    if responses and responses[-1].until_close and end == "server":
        responses[-1] = responses[-1]._replace(ended=True)
    for at, response in enumerate(responses):
        faults += faults_of_response(response, methods[at] if at < len(methods) else b"", target)
    return faults + _record_faults(responses, settled, target, lost=end == "reset")


def faults_of_response(response: Message, method: bytes, target: Fuzzed) -> list[str]:
    """Return what is wrong with one response to *method*: its status, its code or its body."""
    status, body = response.status, response.body
    is_head = method == b"HEAD"
    if status == NO_CONTENT and method == b"OPTIONS":
        return []  # the framework's answer on the operation routes
    if not response.ended:
        return []  # `_record_faults` checks that its call was cancelled
    if status == OK:
        if response.field(b"content-type").startswith(b"text/event-stream"):
            ends = (b"data: [DONE]\n\n", b"event: done\ndata: \n\n")
            if is_complete_stream(body):
                return []
            problem = body.count(b"error") > 0 or not body.endswith(ends) or sum(map(body.count, ends)) != 1
            return [f"a stream without a proper end: {body[-200:]!r}"] if problem else []
        return [] if is_head or _is_json(body) else [f"an answer that is no JSON: {body[:200]!r}"]
    if is_head and not body:
        return [] if status in target.refusals else [f"undocumented status: {status}"]
    code = _code(body)
    if code not in target.refusals.get(status, ()):
        return [f"undocumented refusal: {status} {code} {body[:200]!r}"]
    return []


def _is_json(body: bytes) -> bool:
    try:
        json.loads(body)
    except ValueError:
        return False
    return True


def _code(body: bytes) -> Any:
    """Return the code of an error in either form; None where it has none."""
    try:
        data = json.loads(body)
        error = data["error"]
        if isinstance(error, dict):
            is_whole = {"message", "type"} <= error.keys() and ("param" in error or data.get("type") == "error")
            return error["code"] if is_whole else None
        return data["code"] if isinstance(error, str) else None
    except (ValueError, KeyError, TypeError):
        return None


def _record_faults(responses: list[Message], settled: Settled, target: Fuzzed, *, lost: bool) -> list[str]:
    """Return what is wrong with the records: one for each response, and others only of clients that left.

    *lost*: a response may have been lost by a reset.
    """
    faults = []
    got = Counter(each.field(b"x-request-id").decode("latin-1") for each in responses)
    noted = Counter(each.request_id for each in settled.records if each.status != CLIENT_CLOSED)
    cancelled = {each.request_id for each in settled.records if each.ending == "cancelled"}
    unknown, extra = got - noted, [name for name in (noted - got) if name not in cancelled]
    if unknown and len(settled.records) == len(responses) and b"not valid HTTP" in responses[-1].body:
        faults.append("the id of a 400 is not in its record")
    elif unknown:
        faults.append(f"responses without a record: {unknown}, {settled.records}")
    elif extra and not lost:
        faults.append(f"records without a response: {extra}")
    faults += [
        f"a truncated response: {response.status} {response.body[-200:]!r}"
        for response in responses
        if not response.ended and response.field(b"x-request-id").decode("latin-1") not in cancelled
    ]
    asked, attempts = len(target.up.requests), sum(each.attempts for each in settled.records)
    if asked > attempts:
        faults.append(f"{asked} requests reached upstream, {attempts} attempts are recorded")
    for request in target.up.requests:
        path = request.start.split(b" ")[1]
        if not is_forwarded(path):
            faults.append(f"request to upstream has another target: {path!r}")
        if request.body:
            faults += _body_faults(path, request.body)
    return faults


def _body_faults(path: bytes, body: bytes) -> list[str]:
    """Return what is wrong with a forwarded body: upstream must read it as the sidecar did."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs) and not PROMPT_NAMES.isdisjoint(found):
            raise ValueError(f"repeated keys {sorted(key for key, _ in pairs)}")
        return found

    try:
        data = json.loads(body, object_pairs_hook=once, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        return [f"request to upstream is no JSON: {error}: {body[:200]!r}"]
    if not isinstance(data, dict) or lacks_prompt(path, data):
        return [f"request to upstream has no prompt: {body[:200]!r}"]
    return []


def _refuse(constant: str) -> None:
    raise ValueError(constant)
