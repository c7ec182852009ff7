"""Answers of an upstream that are made to hold the event loop: the bytes of whole HTTP responses, made when needed.

`ANSWERS` maps a name to an `Answer`. To add a case, add a line: its name, a function without arguments that returns the
response, and how it is asked for. `NORMAL` are answers of the same sizes that must succeed.
"""

from __future__ import annotations

import base64
import gzip
import json
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

from hostile_bodies import between_floats

MB = 1_000_000
LARGE_BODY_BYTES = 1_100_000
"""Answers of more bytes, decoded, may hold the loop for 100 ms; others for 20 ms."""
OK = b"HTTP/1.1 200 OK\r\n"
STREAM = b"content-type: text/event-stream\r\n"
JSON = b"content-type: application/json\r\n"
GZIP = b"content-encoding: gzip\r\n"
DONE = b"data: [DONE]\n\n"
TOKEN = b'data: {"choices":[{"index":0,"delta":{"content":"a"},"finish_reason":null}]}\n\n'
STOP = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
NESTED = b"[" * 90 + b"]" * 90


CHAT_PATH, COMPLETIONS_PATH, EMBEDDINGS_PATH = "/v1/chat/completions", "/v1/completions", "/v1/embeddings"
QUESTIONS: dict[str, dict[str, Any]] = {
    CHAT_PATH: {"model": "m", "messages": [{"role": "user", "content": "hi"}]},
    COMPLETIONS_PATH: {"model": "m", "prompt": "hi"},
    EMBEDDINGS_PATH: {"model": "m", "input": "hi"},
}


class Answer(NamedTuple):
    """*streams*: the call asks for a stream.  *large*: the answer may hold the loop for 100 ms instead of 20 ms.

    *succeeds*: the client gets it as a complete answer; None where that depends on how the bytes arrive.  *lists_models*: it
    answers `GET /models`.  *pieces*: it is sent in as many, with a pause behind each.  *path*: the API that it answers.
    """

    response: Callable[[], bytes]
    streams: bool = True
    large: bool = False
    succeeds: bool | None = False
    lists_models: bool = False
    pieces: int = 1
    path: str = CHAT_PATH

    @property
    def question(self) -> dict[str, Any]:
        """The body of a request that it answers."""
        return QUESTIONS[self.path] | {"stream": self.streams}


def sized(body: bytes, *headers: bytes, status: bytes = b"200 OK") -> bytes:
    """Return a response with the *headers*, each with its line ending, and a length."""
    length = b"content-length: %d\r\n" % len(body)
    return b"HTTP/1.1 " + status + b"\r\n" + b"".join(headers) + length + b"\r\n" + body


def events(body: bytes, *headers: bytes) -> bytes:
    """Return a stream of events with the text `aa` and an end around *body*."""
    return sized(TOKEN * 2 + body + STOP + DONE, STREAM, *headers)


def chunked(body: bytes, size: int = 1) -> bytes:
    """Return a stream in chunks of *size* bytes."""
    pieces = b"".join(
        b"%x\r\n%b\r\n" % (len(piece), piece) for at in range(0, len(body), size) if (piece := body[at : at + size])
    )
    return OK + STREAM + b"transfer-encoding: chunked\r\n\r\n" + pieces + b"0\r\n\r\n"


def until(pattern: bytes, size: int) -> bytes:
    """Return *pattern* as often as it fits into *size* bytes."""
    return pattern * (size // len(pattern))


def choice(content: object = "hi", **more: Any) -> dict[str, Any]:
    return {"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": "stop", **more}


def answer(filler: bytes, *, field: bytes = b"x") -> bytes:
    """Return a whole answer with the JSON *filler* in a list under *field*."""
    return b'{"choices":[' + json.dumps(choice()).encode() + b'],"%b":[' % field + filler + b"0]}"


def event(filler: bytes) -> bytes:
    """Return one event with the JSON *filler* in its choice."""
    return b'data: {"choices":[{"index":0,"delta":{"content":"a"},' + filler + b"}]}\n\n"


def logprobs(tokens: int, top: int = 20) -> dict[str, Any]:
    one = {"token": "word", "logprob": -0.123456, "bytes": [119, 111, 114, 100]}
    return {"content": [{**one, "top_logprobs": [one] * top} for _ in range(tokens)]}


def floats(digits: int, size: int = MB) -> bytes:
    return until(between_floats(digits) + b",", size)


def whole(filler: bytes) -> Callable[[], bytes]:
    return lambda: sized(answer(filler), JSON)


def completed(filler: bytes, size: int, *, streams: bool = False, **more: Any) -> Answer:
    """Return the whole answer to a text completion with *filler*, which ends with a comma, as its choices."""
    body = lambda: sized(b'{"choices":[' + (filler * (size // len(filler) or 1))[:-1] + b"]}", JSON)  # noqa: E731
    return Answer(body, streams=streams, path=COMPLETIONS_PATH, **more)


def embedded(filler: bytes, *, large: bool = True, **more: Any) -> Answer:
    """Return the answer to a request for embeddings with the JSON *filler* in its data."""
    return Answer(
        lambda: sized(b'{"data":[' + filler + b"]}", JSON), streams=False, large=large, path=EMBEDDINGS_PATH, **more
    )


def many(pattern: bytes, size: int = 250_000) -> Callable[[], bytes]:
    return lambda: events(until(pattern, size))


def error(body: Any, status: bytes = b"503 X") -> Callable[[], bytes]:
    return lambda: sized(json.dumps(body).encode(), JSON, status=status)


def nested_text(depth: int, size: int) -> str:
    """Return an error object as JSON in JSON, *depth* times, of about *size* characters."""
    text = "rate limit, " * (size // 12 >> depth)
    for _ in range(depth):
        text = json.dumps({"error": {"message": text, "metadata": {"raw": text[: size // 8]}}})
    return text


def listed(entry: bytes, size: int = 4 * MB) -> Callable[[], bytes]:
    return lambda: sized(b'{"object":"list","data":[{"id":"m"},' + until(entry, size) + b'{"id":"z"}]}', JSON)


def multi(count: int, body: bytes) -> bytes:
    return b'{"choices":[' + b",".join([body] * count) + b"]}"


ANSWERS: dict[str, Answer] = {
    # one JSON object under a stream
    "57 MB of nested arrays": Answer(lambda: sized(until(b"[],", 57 * MB).join((b'{"x":[', b"0]}")), JSON), large=True),
    "30 MB of nested arrays": Answer(lambda: sized(answer(until(NESTED + b",", 30 * MB)), JSON), large=True),
    "1 MB of nested arrays": Answer(whole(until(b"[],", MB)), succeeds=True),
    "57 MB of arrays in 58 kB of gzip": Answer(
        lambda: sized(gzip.compress(answer(until(b"[],", 57 * MB))), JSON, GZIP), large=True
    ),
    "57 MB of arrays in 58 kB of gzip, in pieces": Answer(
        lambda: sized(gzip.compress(answer(until(b"[],", 57 * MB))), JSON, GZIP), large=True, pieces=8
    ),
    "57 MB of events in 58 kB of gzip": Answer(lambda: sized(gzip.compress(until(TOKEN, 57 * MB)), STREAM, GZIP)),
    "many gzip members": Answer(lambda: sized(gzip.compress(b":\n") * 20_000, STREAM, GZIP)),
    "many empty gzip members": Answer(lambda: sized(gzip.compress(b"") * 20_000, STREAM, GZIP)),
    "deflate of tiny blocks": Answer(
        lambda: sized(zlib.compress(until(b": a\n\n", MB), 0), STREAM, b"content-encoding: deflate\r\n")
    ),
    "300,000 choices under a stream": Answer(lambda: sized(multi(300_000, b"{}"), JSON)),
    "1,024 choices under a stream": Answer(
        lambda: sized(multi(1024, b'{"message":{"content":"a"}}'), JSON), succeeds=True
    ),
    "100,000 tool calls under a stream": Answer(
        lambda: sized(
            json.dumps(
                {"choices": [choice(tool_calls=[{}] * 10) | {"message": {"tool_calls": [{}] * 100_000}}]}
            ).encode(),
            JSON,
        )
    ),
    "2,000 tool calls under a stream": Answer(
        lambda: sized(json.dumps({"choices": [choice() | {"message": {"tool_calls": [{}] * 2_000}}]}).encode(), JSON)
    ),
    "300,000 keys under a stream": Answer(
        lambda: sized(b'{"choices":[{"message":{"content":"a"}' + until(b',"a":1', 1_000_000) + b"}]}", JSON),
        succeeds=True,
    ),
    "5 MB of lone surrogates under a stream": Answer(
        lambda: sized(json.dumps({"choices": [choice("\ud83d" * 800_000)]}).encode(), JSON), large=True
    ),
    "1 MB of NaN under a stream": Answer(whole(until(b"NaN,", MB))),
    "1 MB of NaN in strings under a stream": Answer(whole(until(b'"NaN",NaN,', MB))),
    "bad UTF-8 under a stream": Answer(
        lambda: sized(b'{"choices":[{"message":{"content":"' + b"\xff" * (30 * MB) + b'"}}]}', JSON), large=True
    ),
    # one JSON object for a call without a stream
    "57 MB of nested arrays, whole": Answer(
        lambda: sized(answer(until(b"[],", 57 * MB)), JSON), streams=False, large=True
    ),
    "30 MB of nested arrays, whole": Answer(
        lambda: sized(answer(until(NESTED + b",", 30 * MB)), JSON), streams=False, large=True
    ),
    "57 MB of arrays in 58 kB of gzip, whole": Answer(
        lambda: sized(gzip.compress(answer(until(b"[],", 57 * MB))), JSON, GZIP), streams=False, large=True
    ),
    "1 MB of nested arrays as output": Answer(
        lambda: sized(json.dumps({"choices": [choice(None) | {"message": {"x": [[]] * 250_000}}]}).encode(), JSON),
        streams=False,
        succeeds=True,
    ),
    "1 MB of content parts": Answer(
        lambda: sized(json.dumps({"choices": [choice([{"type": "text", "text": "a"}] * 30_000)]}).encode(), JSON),
        streams=False,
    ),
    "300,000 choices": Answer(lambda: sized(multi(300_000, b"{}"), JSON), streams=False),
    "5,000 choices": Answer(lambda: sized(multi(5_000, b'{"message":{"content":"a"}}'), JSON), streams=False),
    "1 MB of usage": Answer(
        lambda: sized(
            json.dumps({"choices": [choice()], "usage": {str(at): {} for at in range(70_000)}}).encode(), JSON
        ),
        streams=False,
        succeeds=True,
    ),
    "1 MB of usage of unexpected types": Answer(
        lambda: sized(json.dumps({"choices": [choice()], "usage": {"prompt_tokens": [[]] * 250_000}}).encode(), JSON),
        streams=False,
        succeeds=True,
    ),
    "1 MB of NaN": Answer(whole(until(b"NaN,", MB)), streams=False),
    "1 MB of lone surrogates": Answer(
        lambda: sized(json.dumps({"choices": [choice("\ud83d" * 160_000)]}).encode(), JSON), streams=False
    ),
    "1 MB of bad UTF-8": Answer(
        lambda: sized(b'{"choices":[{"message":{"content":"' + b"\xff" * MB + b'"}}]}', JSON),
        streams=False,
        succeeds=True,
    ),
    "30 MB of escapes": Answer(
        lambda: sized(b'{"choices":[{"message":{"content":"' + until(b"\\n", 30 * MB) + b'"}}]}', JSON),
        streams=False,
        large=True,
        succeeds=True,
    ),
    "1 MB of error object": Answer(
        lambda: sized(json.dumps({"error": {"message": "a", "x": [[]] * 250_000}}).encode(), JSON), streams=False
    ),
    "an error as 60 kB of text under status 200": Answer(
        lambda: sized(json.dumps({"error": nested_text(4, 60_000)}).encode()[:65_000], JSON), streams=False
    ),
    "30 MB of escapes under a stream": Answer(
        lambda: sized(b'{"choices":[{"message":{"content":"' + until(b"\\n", 30 * MB) + b'"}}]}', JSON),
        large=True,
        succeeds=True,
    ),
    # events
    "one event of 15 MB with lone surrogates": Answer(
        lambda: events(
            b'data: {"choices":[{"index":0,"delta":{"content":"' + until(b"\\ud83d a", 15 * MB) + b'"}}]}\n\n'
        ),
        large=True,
    ),
    "one event of 1 MB with lone surrogates": Answer(
        lambda: events(
            b'data: {"choices":[{"index":0,"delta":{"content":"' + until(b"\\ud83d" + b"a" * 100, MB) + b'"}}]}\n\n'
        ),
        succeeds=True,
    ),
    "one event of 15 MB of text": Answer(
        lambda: events(event(b'"x":"' + until(b"hello, ", 15 * MB) + b'"')), large=True, succeeds=True
    ),
    "one event of 15 MB of Cyrillic": Answer(
        lambda: events(
            b'data: {"choices":[{"index":0,"delta":{"content":"' + until("привет ".encode(), 15 * MB) + b'"}}]}\n\n'
        ),
        large=True,
        succeeds=True,
    ),
    "one event of 15 MB of bad UTF-8": Answer(lambda: events(event(b'"x":"' + b"\xff" * (15 * MB) + b'"')), large=True),
    "one event of 1 MB of bad UTF-8": Answer(lambda: events(event(b'"x":"' + b"\xff" * MB + b'"')), succeeds=True),
    "one event of 15 MB of numbers": Answer(
        lambda: events(event(b'"x":[' + until(b"1,", 15 * MB) + b"0]")), large=True
    ),
    "one event of 64 kB of arrays of unexpected types": Answer(
        lambda: events(b'data: {"choices":[{"delta":{"content":1}}],"x":[' + until(b"[],", 65_000) + b"0]}\n\n"),
        succeeds=True,
    ),
    "one event of 1 MB of NaN": Answer(lambda: events(event(b'"x":[' + until(b"NaN,", MB) + b"0]"))),
    "one event of 15 MB of comment lines": Answer(lambda: events(until(b":\n", 15 * MB) + b"\n"), large=True),
    "one event of 15 MB of data lines": Answer(lambda: events(until(b"data:\n", 15 * MB) + b"\n"), large=True),
    "one line of 15 MB": Answer(lambda: events(b"event: " + b"a" * (15 * MB) + b"\n\n"), large=True, succeeds=True),
    "one event of 10,000 choices": Answer(lambda: events(b"data: " + multi(10_000, b"{}") + b"\n\n")),
    "events of 1,000 choices": Answer(lambda: events((b"data: " + multi(1_000, b"{}") + b"\n\n") * 80), succeeds=True),
    "events of 1,000 choices with output": Answer(
        lambda: events((b"data: " + multi(1_000, b'{"delta":{"x":1}}') + b"\n\n") * 80), succeeds=True
    ),
    "1 MB of usage in each event": Answer(
        lambda: events(b'data: {"choices":[],"usage":{' + until(b'"a":[],', MB) + b'"b":1}}\n\n')
    ),
    "1-byte chunks": Answer(lambda: chunked(TOKEN * 3_000 + STOP + DONE), succeeds=True),
    "1-byte chunks of comments": Answer(lambda: chunked(TOKEN + b":\n\n" * 80_000 + STOP + DONE), succeeds=True),
    "comments": Answer(many(b":\n\n", 10 * MB), succeeds=True),
    "comment lines": Answer(many(b":\n", 60_000), succeeds=True),
    "blank lines": Answer(many(b"\n", 10 * MB), succeeds=True),
    "blank lines of CR": Answer(many(b"\r", MB), succeeds=True),
    "blank lines before a stream": Answer(lambda: sized(b"\n" * (5 * MB) + TOKEN + STOP + DONE, STREAM), succeeds=True),
    "blank lines before JSON": Answer(
        lambda: sized(b"\r\n" * (2 * MB) + answer(b""), JSON), streams=False, large=True, succeeds=True
    ),
    "empty objects": Answer(many(b"data: {}\n\n"), succeeds=True),
    "empty data": Answer(many(b"data:\n\n"), succeeds=True),
    "pings": Answer(many(b"event: ping\ndata: {}\n\n"), succeeds=True),
    "tiny tokens": Answer(many(b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n', 10 * MB), succeeds=True),
    "choices without a delta": Answer(many(b'data: {"choices":[{}]}\n\n'), succeeds=True),
    "events of nine empty choices": Answer(many(b'data: {"choices":[{},{},{},{},{},{},{},{},{}]}\n\n'), succeeds=True),
    "content of another type": Answer(many(b'data: {"choices":[{"delta":{"content":[]}}]}\n\n'), succeeds=True),
    "lone surrogates in each event": Answer(
        many(b'data: {"choices":[{"delta":{"content":"\\ud800"}}]}\n\n'), succeeds=True
    ),
    "NaN in each event": Answer(many(b'data: {"choices":[{"delta":{"content":"a"},"x":NaN}]}\n\n'), succeeds=True),
    "false errors": Answer(many(b'data: {"error":0}\n\n'), succeeds=True),
    "usage in each event": Answer(
        many(b'data: {"choices":[{}],"usage":{"prompt_tokens":-1},"timings":{"cache_n":1}}\n\n'), succeeds=True
    ),
    "indexes that count": Answer(
        lambda: events(
            b"".join(
                b'data: {"choices":[{"index":%d,"delta":{"content":"a"}}]}\n\n' % (at % 1024) for at in range(5_000)
            )
        ),
        succeeds=True,
    ),
    # numbers between two floats
    "1 MB of slow floats as output": Answer(
        lambda: sized(b'{"choices":[{"message":{"x":[' + floats(33) + b"0]}}]}", JSON), streams=False, succeeds=True
    ),
    "1 MB of slow floats beside content of another type": Answer(
        lambda: sized(b'{"choices":[{"message":{"content":1}}],"x":[' + floats(33) + b"0]}", JSON),
        streams=False,
        succeeds=True,
    ),
    "1 MB of slow floats beside timings of another type": Answer(
        lambda: sized(b'{"timings":1,"choices":[{"message":{"content":"a"}}],"x":[' + floats(33) + b"0]}", JSON),
        streams=False,
        succeeds=True,
    ),
    "one event of 1 MB of slow floats": Answer(
        lambda: events(b'data: {"choices":[{"delta":{"content":1}}],"x":[' + floats(33) + b"0]}\n\n"), succeeds=True
    ),
    "60 kB of slow floats in an error": Answer(
        lambda: sized(b'{"error":{"message":"a","x":[' + floats(22, 60_000) + b"0]}}", JSON), streams=False
    ),
    # many choices of one answer
    "30 tool calls in each of 1,000 choices": Answer(
        lambda: sized(multi(1_000, b'{"message":{"tool_calls":[' + b"{}," * 29 + b"{}]}}"), JSON), succeeds=None
    ),
    "30 MB of marks and quotes as output": Answer(
        lambda: sized(b'{"choices":[{"message":{"x":"' + until(b'[[,[,\\"', 30 * MB) + b'"}}]}', JSON),
        streams=False,
        large=True,
        succeeds=True,
    ),
    # heads and framing
    "a head of 500 fields of 60 kB": Answer(
        lambda: OK + b"".join(b"x-%d: %b\r\n" % (at, b"a" * 60_000) for at in range(500)) + b"\r\n"
    ),
    "an endless field": Answer(lambda: OK + b"x: " + b"a" * (20 * MB)),
    "20,000 fields": Answer(lambda: OK + b"a: b\r\n" * 20_000 + b"\r\n"),
    "60,000 informational heads": Answer(lambda: b"HTTP/1.1 100 \r\n\r\n" * 60_000 + events(b"")),
    "informational heads with fields": Answer(
        lambda: (b"HTTP/1.1 103 X\r\n" + b"a:b\r\n" * 200 + b"\r\n") * 1_000 + events(b"")
    ),
    "20,000 trailers": Answer(
        lambda: chunked(TOKEN + STOP + DONE, 1_000)[:-2] + b"a: b\r\n" * 20_000 + b"\r\n", succeeds=True
    ),
    "an endless chunk extension": Answer(
        lambda: OK + STREAM + b"transfer-encoding: chunked\r\n\r\n" + b"1;" + b"a" * (5 * MB)
    ),
    "chunk extensions": Answer(
        lambda: OK + STREAM + b"transfer-encoding: chunked\r\n\r\n" + b"1;a=b;c\r\n:\r\n" * 100_000 + b"0\r\n\r\n"
    ),
    # refusals
    "an error nested in text": Answer(error({"error": {"message": nested_text(3, 60_000)}})),
    "an error page of 60 kB": Answer(
        lambda: sized(b"<html>" + until(b"<b>a.b/c ", 60_000), b"content-type: text/html\r\n", status=b"502 X")
    ),
    "an error of arrays": Answer(error({"error": {"message": "a", "details": [[]] * 15_000}})),
    "an error of numbers": Answer(error({"error": {"message": "maximum 1 tokens, " * 3_500}}, b"400 X")),
    "an error with a code of 60 kB": Answer(
        error({"error": {"message": "a", "code": {"a": ["b"] * 10_000}}}, b"400 X")
    ),
    "an error of 57 MB in gzip": Answer(
        lambda: sized(gzip.compress(until(b"[],", 57 * MB)), JSON, GZIP, status=b"500 X")
    ),
    "an error of empty gzip members": Answer(lambda: sized(gzip.compress(b"") * 20_000, JSON, GZIP, status=b"500 X")),
    # completions
    "30 MB of choices of a text completion": completed(b'{"text":"a"},', 30 * MB, large=True),
    "30 MB of log probabilities of a text completion": completed(
        b'{"text":1,"logprobs":[' + b'{"a":-0.5},' * 2_700_000 + b"0]},", 30 * MB, large=True
    ),
    "1 MB of numbers beside a text of another type": completed(
        b'{"text":[' + b"1," * 400_000 + b"1]},", MB, succeeds=True
    ),
    "1,000 choices of a text completion, streamed": completed(
        b'{"text":"a b c","finish_reason":"stop"},', 40 * 1_000, streams=True, succeeds=None
    ),
    "a text completion with numbers out of range": completed(b'{"text":1e999,"index":1e999},', 30),
    # embeddings
    "30 MB of numbers of an embedding": embedded(b"[" + b"0.125," * 5 * MB + b"0]", succeeds=True),
    "30 MB of lists as embeddings": embedded(until(b"[],", 30 * MB) + b"0", succeeds=True),
    "30 MB of objects as embeddings": embedded(until(b'{"a":0},', 30 * MB) + b"0", succeeds=True),
    "30 MB of fields beside embeddings": embedded(b'0],"a":[' + until(b'0],"bbbb":[', 30 * MB), succeeds=True),
    "30 MB of numbers in an error beside embeddings": embedded(b'0],"error":[' + until(b"1,", 30 * MB) + b"1"),
    "30 MB of text in an error": embedded(b'],"error":["' + until(b"a\\n", 30 * MB) + b'"'),
    "a report of 60 kB beside embeddings": embedded(
        b'0],"usage":[' + until(b"1e99,", 60_000) + b"1", large=False, succeeds=True
    ),
    # lists of models
    "4 MB of models": Answer(listed(b"[],"), lists_models=True, large=True, succeeds=True),
    "4 MB of long names": Answer(
        listed(b'{"id":"' + b"a" * 30_000 + b'"},'), lists_models=True, large=True, succeeds=True
    ),
    "90,000 models": Answer(
        listed(b'{"id":"aaaaaaaaaaaaaaaaaaaaaaaa"},', 3 * MB), lists_models=True, large=True, succeeds=True
    ),
}


def random_bytes(size: int) -> bytes:
    return bytes((at * 2_654_435_761 >> 7) & 0xFF for at in range(size))


def _audio() -> bytes:
    data = base64.b64encode(random_bytes(1 << 16) * 115).decode()
    message = {"role": "assistant", "content": None, "audio": {"id": "a", "data": data, "transcript": "hi"}}
    return json.dumps({"id": "1", "choices": [choice() | {"message": message}], "usage": USAGE}).encode()


USAGE = {"prompt_tokens": 10, "completion_tokens": 3_000_000, "total_tokens": 3_000_010}
"""The report of all normal answers: as many tokens as the longest text has."""
NORMAL: dict[str, Callable[[], bytes]] = {
    "10 MB of text": lambda: json.dumps(
        {"id": "1", "choices": [choice("Hello, world. " * 714_286)], "usage": USAGE}
    ).encode(),
    "10 MB of audio": _audio,
    "128 choices": lambda: json.dumps(
        {"id": "1", "choices": [choice("Hello. " * 2_000) | {"index": at} for at in range(128)], "usage": USAGE}
    ).encode(),
    "log probabilities of 4,000 tokens": lambda: json.dumps(
        {"id": "1", "choices": [choice("word " * 4_000, logprobs=logprobs(4_000))], "usage": USAGE}
    ).encode(),
    "a tool call of 2 MB": lambda: json.dumps(
        {
            "id": "1",
            "choices": [
                choice()
                | {
                    "message": {
                        "role": "assistant",
                        "content": None,
                        "tool_calls": [
                            {
                                "id": "c",
                                "type": "function",
                                "function": {"name": "f", "arguments": '{"a": [1, 2, 3]}' * 125_000},
                            }
                        ],
                    }
                }
            ],
            "usage": USAGE,
        }
    ).encode(),
    "a picture of 3 MB in parts": lambda: json.dumps(
        {
            "id": "1",
            "choices": [
                choice(
                    [
                        {"type": "text", "text": "see"},
                        {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "QUJD" * 750_000}},
                    ]
                )
            ],
            "usage": USAGE,
        }
    ).encode(),
}
"""JSON of large answers that must pass byte for byte."""
