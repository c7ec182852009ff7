"""Answers of a hostile upstream: the bytes of each, and what both kinds of client must receive.

To add a case, add a line to one of the tables: its name, the pieces that are written to the socket one by one, and the
text and error code that clients must receive. The piece `CUT` closes the connection, `RESET` resets it.
"""

from __future__ import annotations

import gzip
import json
import zlib
from typing import Any, NamedTuple

from wire import chunk

CUT, RESET = b"<cut>", b"<reset>"
DONE = b"data: [DONE]\n\n"
OK = b"HTTP/1.1 200 OK\r\n"
STREAM = b"content-type: text/event-stream\r\n"
JSON = b"content-type: application/json\r\n"
CHUNKED = b"transfer-encoding: chunked\r\n\r\n"
HEAD = OK + STREAM + CHUNKED
LAST = b"0\r\n\r\n"
MEGABYTE = "m" * 1_000_000
MAX_EVENT = 16_777_216
KEY = "sk-our-own-key-123456"


class Case(NamedTuple):
    """*text*: what a client receives before the end. *error*: the code of its error event, None for a complete answer.

    *shown*: the code that OpenAI clients receive, where upstream's is another than *error*. *status*: what they receive for
    a failure without output. *finish*: the last finish reason they receive. *chat_error*: the code that Chat Nest's client
    receives where it differs.
    """

    name: str
    pieces: tuple[bytes, ...]
    text: str = ""
    error: str | None = None
    status: int = 502
    finish: str | None = "stop"
    shown: str | None = None
    chat_error: str | None = None


def event(delta: Any = None, finish: str | None = None, index: int = 0, **more: Any) -> bytes:
    choice = {"index": index, "delta": {} if delta is None else delta, "finish_reason": finish}
    return b"data: " + json.dumps({"id": "1", "choices": [choice], **more}).encode() + b"\n\n"


def token(text: str | None, index: int = 0) -> bytes:
    return event({"content": text}, index=index)


def raw_token(text: bytes) -> bytes:
    return b'data: {"choices":[{"index":0,"delta":{"content":"' + text + b'"},"finish_reason":null}]}\n\n'


def chunked(*parts: bytes, head: bytes = HEAD) -> tuple[bytes, ...]:
    """Return the pieces of a complete HTTP answer, each part a chunk that is written separately."""
    return (head, *(chunk(part) for part in parts), LAST)


def cut(*parts: bytes, how: bytes = CUT) -> tuple[bytes, ...]:
    return (HEAD, *(chunk(part) for part in parts), how)


def bytewise(data: bytes) -> tuple[bytes, ...]:
    return chunked(*(data[at : at + 1] for at in range(len(data))))


def plain(body: bytes, *headers: bytes, status: bytes = b"200 OK") -> tuple[bytes, ...]:
    lines = [b"HTTP/1.1 " + status, *headers, b"content-length: %d" % len(body)]
    return (b"\r\n".join(lines) + b"\r\n\r\n" + body,)


def error_answer(status: bytes, **error: Any) -> tuple[bytes, ...]:
    return plain(json.dumps({"error": error}).encode(), JSON.strip(), status=status)


def whole(text: str) -> bytes:
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    return json.dumps({"id": "1", "choices": [choice]}).encode()


def deflated(body: bytes) -> bytes:
    return zlib.compress(body)


def mixed(text: str, finish: str | None = None, **error: Any) -> bytes:
    return event({"content": text}, finish, error={"message": "boom", "code": 502, **error})


def raw_deflated(body: bytes) -> bytes:
    compress = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return compress.compress(body) + compress.flush()


A, B, STOP = token("a"), token("b"), event(finish="stop")
AB = A + B + STOP + DONE
ERROR = b'data: {"error": {"message": "boom", "code": 502}}\n\n'
PRETTY = (
    b"".join(b"data: %b\n" % line for line in json.dumps(json.loads(A[6:]), indent=1).encode().split(b"\n")) + b"\n"
)
MARKED = "data: [DONE]\n\nevent: error\r\ndata: {}\n\n: ping\n\n"
SIGNS = "é漢\U0001f642ü"
GZIP = b"content-encoding: gzip\r\n"
DEFLATE = b"content-encoding: deflate\r\n"
CLOSED = b"\r\n"
DEEP = b"[" * 5_000 + b"]" * 5_000
BARE = b'data: {"object": "error", "message": "boom", "code": 500}\n\n'

COMPLETE = (
    Case("as OpenAI sends it", chunked(event({"role": "assistant"}), A, B, STOP, DONE), "ab"),
    Case("all in one read", chunked(AB), "ab"),
    Case("CRLF", chunked(AB.replace(b"\n", b"\r\n")), "ab"),
    Case("CR", chunked(AB.replace(b"\n", b"\r")), "ab"),
    Case("CRLF, a byte at a time", bytewise(AB.replace(b"\n", b"\r\n")), "ab"),
    Case("CR, a byte at a time", bytewise(AB.replace(b"\n", b"\r")), "ab"),
    Case("BOM", chunked(b"\xef\xbb\xbf" + AB), "ab"),
    Case("BOM, a byte at a time", bytewise(b"\xef\xbb\xbf" + AB), "ab"),
    Case("comments", chunked(b": hello\n\n", A, b":\n", b": x\n" + B, STOP, DONE), "ab"),
    Case("events named message", chunked(b"event: message\n" + A, b"event: message\n" + B, STOP, DONE), "ab"),
    Case("events named ping", chunked(b"event: ping\ndata: {}\n\n", A, b"event: ping\ndata:\n\n", B, STOP, DONE), "ab"),
    Case("id fields", chunked(b"id: 1\n" + A, b"id: 2\n" + B, STOP, DONE), "ab"),
    Case("retry fields", chunked(b"retry: 10\n\n", A, b"retry: 10\n" + B, STOP, DONE), "ab"),
    Case("unknown fields", chunked(b"x: y\nz\n" + A, B, STOP, DONE), "ab"),
    Case("several data lines", chunked(PRETTY, B, STOP, DONE), "ab"),
    Case("no space after the colon", chunked(AB.replace(b"data: ", b"data:")), "ab"),
    Case("blank lines", chunked(b"\n\n\n" + A + b"\n\n", B, b"\n", STOP, DONE), "ab"),
    Case("empty data", chunked(b"data:\n\n", A, b"data: \n\n", B, STOP, DONE), "ab"),
    Case("UTF-8, a byte at a time", bytewise(raw_token(SIGNS.encode()) + STOP + DONE), SIGNS),
    Case("invalid UTF-8", chunked(raw_token(b"a\xff\xe2\x82b"), STOP, DONE), "a\ufffd\ufffdb"),
    Case("surrogate pair", chunked(raw_token(rb"\ud83d\ude42"), STOP, DONE), "\U0001f642"),
    Case("text that looks like events", chunked(token(MARKED), STOP, DONE), MARKED),
    Case("control characters", chunked(token("a\x00\x1b\u2028b"), STOP, DONE), "a\x00\x1b\u2028b"),
    Case("empty choices", chunked(b'data: {"choices": []}\n\n', A, B, STOP, DONE), "ab"),
    Case("null content", chunked(token(None), A, token(None), B, STOP, DONE), "ab"),
    Case("empty content", chunked(token(""), A, token(""), B, STOP, DONE), "ab"),
    Case("null delta", chunked(A, b'data: {"choices": [{"index": 0, "delta": null}]}\n\n', B, STOP, DONE), "ab"),
    Case("unknown keys", chunked(A, event({"content": "b"}, odd={"error": 1}, error=None), STOP, DONE), "ab"),
    Case("usage chunk", chunked(A, B, STOP, b'data: {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2}}\n\n', DONE), "ab"),
    Case("usage in each chunk", chunked(A, event({"content": "b"}, usage={"prompt_tokens": 3, "completion_tokens": 2}), STOP, DONE), "ab"),
    Case("senseless usage", chunked(A, B, event(finish="stop", usage={"prompt_tokens": -3, "completion_tokens": "x"}), DONE), "ab"),
    Case("usage after the finish, no end mark", chunked(A, B, STOP, b'data: {"choices": [], "usage": {}}\n\n'), "ab"),
    Case("no end mark", chunked(A, B, STOP), "ab"),
    Case("no finish", chunked(A, B, DONE), "ab", finish=None),
    Case("two finishes", chunked(A, B, STOP, STOP, DONE), "ab"),
    Case("finish with the text", chunked(A, event({"content": "b"}, "stop"), DONE), "ab"),
    Case("finish for length", chunked(A, B, event(finish="length"), DONE), "ab", finish="length"),
    Case("junk behind the end mark", chunked(AB + b"data: {nonsense\n\n" + ERROR), "ab"),
    Case("text behind the end mark", chunked(AB, token("c"), DONE), "ab"),
    Case("cut behind the end mark", cut(AB), "ab"),
    Case("cut behind the finish", cut(A, B, STOP), "ab"),
    Case("reset behind the finish", cut(A + B + STOP, how=RESET), "ab"),
    Case("last event without its blank line", chunked(A, B, STOP.rstrip()), "ab"),
    Case("a megabyte in one event", chunked(token(MEGABYTE), STOP, DONE), MEGABYTE),
    Case("5,000 events in one read", chunked(A * 5_000 + STOP + DONE), "a" * 5_000),
    Case("only a role and a finish", chunked(event({"role": "assistant"}), STOP, DONE), chat_error="empty_answer"),
    Case("reasoning first", chunked(event({"reasoning_content": "hm"}), A, B, STOP, DONE), "ab"),
    Case("JSON for a stream", plain(whole("ab"), JSON.strip()), "ab"),
    Case("media type in capitals", chunked(AB, head=OK + b"Content-Type: Text/Event-Stream; Charset=UTF-8\r\n" + CHUNKED), "ab"),
    Case("no HTTP behind the end, in one write", (HEAD + chunk(AB) + LAST + b"junk\r\n\r\n",), "ab"),
    Case("no chunk behind the end mark, in one write", (HEAD + chunk(AB) + b"zz\r\n", CUT), "ab"),
    Case("more than its content-length, in one write", (OK + STREAM + b"content-length: %d\r\n\r\n" % len(AB) + AB + DONE,), "ab"),
    Case("a head line of 10 kB", chunked(AB, head=OK + b"x: " + b"y" * 10_000 + b"\r\n" + STREAM + CHUNKED), "ab"),
    Case("150 headers", chunked(AB, head=OK + b"".join(b"x-%d: y\r\n" % at for at in range(150)) + STREAM + CHUNKED), "ab"),
    Case("ends by close", (OK + STREAM + CLOSED + AB, CUT), "ab"),
    Case("HTTP/1.0", (b"HTTP/1.0 200 OK\r\n" + STREAM + CLOSED + AB, CUT), "ab"),
    Case("content-length", plain(AB, STREAM.strip()), "ab"),
    Case("chunk extensions and trailers", (HEAD, b"%x;x=y\r\n%b\r\n" % (len(AB), AB), b"0\r\nx-t: 1\r\n\r\n"), "ab"),
    Case("103 before the head", (b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n", *chunked(AB)), "ab"),
    Case("100 twice before the head", (b"HTTP/1.1 100 Continue\r\n\r\n" * 2, *chunked(AB)), "ab"),
    Case("gzip that was not requested", chunked(gzip.compress(AB), head=OK + STREAM + GZIP + CHUNKED), "ab"),
    Case("gzip, a byte at a time", chunked(*(bytes([each]) for each in gzip.compress(AB)), head=OK + STREAM + GZIP + CHUNKED), "ab"),
    Case("deflate that was not requested", chunked(deflated(AB), head=OK + STREAM + b"content-encoding: deflate\r\n" + CHUNKED), "ab"),
    Case("gzip in two members", chunked(gzip.compress(A) + gzip.compress(B + STOP + DONE), head=OK + STREAM + GZIP + CHUNKED), "ab"),
    Case("gzip in members, a byte at a time", chunked(*(bytes([each]) for part in (A, B, STOP + DONE) for each in gzip.compress(part)), head=OK + STREAM + GZIP + CHUNKED), "ab"),
    Case("gzip, then padding", chunked(gzip.compress(AB[:-9]), b"\0" * 9, b"\0" * 5_000, head=OK + STREAM + GZIP + CHUNKED), "ab"),
    Case("deflate without a head", chunked(raw_deflated(AB), head=OK + STREAM + DEFLATE + CHUNKED), "ab"),
    Case("deflate without a head, a byte at a time", chunked(*(bytes([each]) for each in raw_deflated(AB)), head=OK + STREAM + DEFLATE + CHUNKED), "ab"),
    Case("identity and gzip", chunked(gzip.compress(AB), head=OK + STREAM + b"content-encoding: identity, gzip\r\n" + CHUNKED), "ab"),
    Case("end mark behind two blanks", chunked(A, B, b"data:  [DONE]  \n\n"), "ab", finish=None),
    Case("errors that are none", chunked(A, event({"content": "b"}, error=""), event(error={}), event(error=False), event(error=0), STOP, DONE), "ab"),
    Case("nonsense behind the finish", chunked(A, B, STOP, b"data: [done]\n\n", b"data: {half\n\n", DONE), "ab"),
    Case("an error behind the finish", chunked(A, B, STOP, ERROR, b"event: error\ndata: x\n\n", b'error: {"code": 500}\n\n'), "ab"),
    Case("a chunk with an error behind the finish", chunked(A, B, STOP, mixed("c", "error"), event({"content": "c"}, "error")), "ab"),
    Case("a filter's result behind the finish", chunked(A, B, STOP, event(content_filter_results={}), DONE), "ab"),
    Case("JSON with invalid UTF-8", plain(whole("ab").replace(b'"1"', b'"\xff"'), JSON.strip()), "ab"),
    Case("JSON under the type of events", plain(whole("ab"), STREAM.strip()), "ab"),
    Case("JSON with a number out of range", plain(whole("ab").replace(b'"1"', b"1e400"), JSON.strip()), "ab"),
    Case("indented JSON under the type of events", plain(json.dumps(json.loads(whole("ab")), indent=1).encode(), STREAM.strip()), "ab"),
    Case("JSON behind blank lines, under the type of events", plain(b"\n \r\n" + whole("ab"), STREAM.strip()), "ab"),
    *(
        Case(f"events under {kind.decode() or 'no type'}", chunked(AB, head=OK + (kind and b"content-type: " + kind + b"\r\n") + CHUNKED), "ab")
        for kind in (b"text/plain; charset=utf-8", b"application/octet-stream", b"application/json", b"application/x-ndjson", b"")
    ),
    Case("events under another type, a byte at a time", chunked(*(bytes([each]) for each in b"\xef\xbb\xbf\r\n\r\n: x\n\n" + AB), head=OK + JSON + CHUNKED), "ab"),
    Case("events under another type in gzip", chunked(gzip.compress(AB), head=OK + GZIP + CHUNKED), "ab"),
    Case("an event with an id first, under another type", chunked(b"id: 1\n" + AB, head=OK + JSON + CHUNKED), "ab"),
    Case("a retry time first, under another type", chunked(b"retry: 10\n\n" + AB, head=OK + JSON + CHUNKED), "ab"),
    Case("a length beside chunked", chunked(AB, head=OK + STREAM + b"content-length: 5\r\n" + CHUNKED), "ab"),
    Case("NaN", chunked(A, event({"content": "b"}, logprobs=float("nan"), x=float("-inf")), STOP, DONE), "ab"),
    Case("JSON with NaN", plain(whole("ab").replace(b'"1"', b"NaN"), JSON.strip()), "ab"),
    Case("JSON in gzip", plain(gzip.compress(whole("ab")), JSON.strip(), GZIP.strip()), "ab"),
)  # fmt: skip

BEFORE_OUTPUT = (
    Case("reset before the head", (RESET,), error="upstream_unavailable"),
    Case("closed before the head", (CUT,), error="upstream_unavailable"),
    Case("closed inside the head", (b"HTTP/1.1 200 OK\r\ncontent-ty", CUT), error="upstream_unavailable"),
    Case("no HTTP", (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", CUT), error="upstream_unavailable"),
    Case("a head without end", (OK + b"x: " + b"y" * 70_000 + b"\r\n\r\n", CUT), error="upstream_unavailable"),
    Case("500", error_answer(b"500 X", message="boom"), error="upstream_error", status=500),
    Case("500 as a page", plain(b"<html>our host 10.0.0.7 failed</html>", status=b"500 X"), error="upstream_error", status=500),
    Case("502 without a body", plain(b"", status=b"502 X"), error="upstream_error"),
    Case("503, loading", error_answer(b"503 X", message="Loading model", type="unavailable_error"), error="upstream_error", status=503),
    Case("529", error_answer(b"529 X", type="overloaded_error", message="Overloaded"), error="upstream_error", status=529),
    Case("quota", error_answer(b"429 X", code="insufficient_quota", message="no more"), error="insufficient_quota", status=429),
    Case("key in the text", error_answer(b"401 X", code="invalid_api_key", message=f"wrong key {KEY}"), error="upstream_error"),
    Case("a stream under 201", chunked(AB, head=b"HTTP/1.1 201 X\r\n" + STREAM + CHUNKED), error="upstream_error"),
    Case("key as code, type and param", error_answer(b"400 X", code=KEY, type=f"at http://h/{KEY}", param=f"/srv/{KEY}", message="no"), error="upstream_error", status=400),
    Case("a code that is no number", error_answer(b"400 X", code="\u00b2\u00b3\u00b9", message="no"), error="upstream_error", status=400, shown="\u00b2\u00b3\u00b9"),
    Case("501", error_answer(b"501 X", code=501, type="not_supported_error", message="no"), error="upstream_error", status=501, shown="501"),
    Case("204", (b"HTTP/1.1 204 No Content\r\n\r\n",), error="upstream_error"),
    Case("redirect to another host", plain(b"", b"location: http://127.0.0.2:9/v1", status=b"307 X"), error="upstream_error"),
    Case("empty stream", chunked(), error="upstream_error"),
    Case("only the end mark", chunked(DONE), error="upstream_error", chat_error="empty_answer"),
    Case("only comments, then cut", cut(b": x\n\n"), error="upstream_error"),
    Case("error object first", chunked(ERROR, DONE), error="upstream_error", shown="502"),
    Case("error as a string", chunked(b'data: {"error": "boom"}\n\n'), error="upstream_error"),
    Case("error field first", chunked(b'error: {"code": 500, "message": "boom"}\n\n'), error="upstream_error", shown="500"),
    Case("error with empty choices", chunked(b'data: {"choices": [], "error": {"message": "boom"}}\n\n', DONE), error="upstream_error"),
    Case("bare error object first", chunked(BARE, DONE), error="upstream_error", shown="500"),
    Case("bare error object as JSON under a 200", plain(BARE[6:-2], JSON.strip()), error="upstream_error", shown="500"),
    Case("error event of nothing", chunked(b"event: error\ndata: null\n\n", A, STOP, DONE), error="upstream_error"),
    Case("finish for error, and no text", chunked(event({"role": "assistant"}), event(finish="error"), DONE), error="upstream_error"),
    Case("JSON that finishes for error", plain(whole("ab").replace(b'"stop"', b'"error"'), JSON.strip()), error="upstream_error"),
    Case("nested too deeply", chunked(b'data: {"choices": 5, "x": ' + DEEP + b"}\n\n", A, STOP, DONE), error="upstream_error"),
    Case("an odd field and a number out of range", chunked(b'data: {"choices": 5, "n": 1e400}\n\n', A, STOP, DONE), error="upstream_error"),
    Case("JSON nested too deeply", plain(b'{"choices": 5, "x": ' + DEEP + b"}", JSON.strip()), error="upstream_error"),
    Case("too many events before the first output", chunked(*[b'data: {"choices": []}\n\n' * 99] * 11, A, STOP, DONE), error="upstream_error"),
    Case("too much before the first output", chunked(*[b'data: {"choices": [], "pad": "%b"}\n\n' % (b"x" * 60_000)] * 17, A, STOP, DONE), error="upstream_error"),
    Case("malformed first", chunked(b"data: {half\n\n", A, STOP, DONE), error="upstream_error"),
    Case("a number", chunked(b"data: 42\n\n", A, STOP, DONE), error="upstream_error"),
    Case("a page under a 200", plain(b"<html>", b"content-type: text/html"), error="upstream_error"),
    Case("a page as a stream", chunked(b"<html>\n<body>\n\n"), error="upstream_error"),
    Case("an error as JSON under a 200", plain(b'{"error": {"message": "boom", "code": 500}}', JSON.strip()), error="upstream_error", shown="500"),
    Case("JSON without choices", plain(b'{"object": "x"}', JSON.strip()), error="upstream_error"),
    Case("JSON cut", (OK + JSON + b"content-length: 999\r\n\r\n" + whole("ab"), CUT), error="upstream_error"),
    Case("an unknown encoding", chunked(AB, head=OK + STREAM + b"content-encoding: zz\r\n" + CHUNKED), error="upstream_error"),
    Case("broken gzip", chunked(b"\x1f\x8bnonsense", head=OK + STREAM + GZIP + CHUNKED), error="upstream_error"),
    Case("a decompression bomb in gzip", chunked(gzip.compress(b"x" * (MAX_EVENT + 9)), head=OK + STREAM + GZIP + CHUNKED), error="upstream_error"),
    Case("an event without end", (HEAD, chunk(b"data: " + b"x" * MAX_EVENT)), error="upstream_error"),
)  # fmt: skip

AFTER_OUTPUT = tuple(
    case._replace(text="ab", error="stream_interrupted", finish=None)
    for case in (
        Case("end without a finish", chunked(A, B)),
        Case("end without a finish, by close", (OK + STREAM + CLOSED + A + B, CUT)),
        Case("cut", cut(A, B)),
        Case("reset", cut(A, B, b": x\n", how=RESET)),
        Case("cut in one write", (HEAD + chunk(A + B), CUT)),
        Case("cut inside an event", cut(A, B, token("c")[:20])),
        Case("cut inside a sign", cut(A, B, raw_token("é".encode())[:-50])),
        Case("short of its content-length", (OK + STREAM + b"content-length: 9999\r\n\r\n" + A + B, CUT)),
        Case("not a chunk, in one write", (HEAD + chunk(A + B) + b"zz\r\n",)),
        Case("not a chunk after output", (HEAD, chunk(A + B), b"nonsense\r\n", CUT)),
        Case("broken gzip after output", chunked(gzip.compress(A + B)[:-9], b"x" * 99, head=OK + STREAM + GZIP + CHUNKED)),
        Case("an event without end after output", (HEAD, chunk(A + B + b"data: " + b"x" * MAX_EVENT))),
        Case("one of two answers without a finish", chunked(A, B, token("x", 1), STOP)),
    )
)  # fmt: skip

ERROR_AFTER_OUTPUT = tuple(
    case._replace(text="ab", error="upstream_error", finish=None)
    for case in (
        Case("error object", chunked(A, B, ERROR, DONE), shown="502"),
        Case("error object in the same read", chunked(A + B + ERROR + DONE), shown="502"),
        Case("named error event", chunked(A, B, b"event: error\n" + ERROR), shown="502"),
        Case("error field", chunked(A, B, b'error: {"code": 500, "message": "boom"}\n\n'), shown="500"),
        Case("finish for error", chunked(A, B, event(finish="error"), DONE)),
        Case("finish for error with text", chunked(A, event({"content": "b"}, "error"), DONE)),
        Case("finish for error with all the text", chunked(event({"content": "ab"}, "error"), DONE)),
        Case("error object beside text", chunked(A, mixed("b"), DONE), shown="502"),
        Case("error object beside all the text", chunked(mixed("ab", "error"), DONE), shown="502"),
        Case("error object beside text and a finish", chunked(A, mixed("b", "stop"), DONE), shown="502"),
        Case("named error event with text", chunked(A, b"event: error\n" + mixed("b"), DONE), shown="502"),
        Case("bare error object", chunked(A, B, BARE, DONE), shown="500"),
        Case("bare error with a type", chunked(A, B, b'data: {"message": "boom", "type": "server_error"}\n\n', DONE)),
        Case("malformed", chunked(A, B, b"data: {nonsense\n\n", STOP, DONE)),
        Case("malformed in the same read", chunked(A + B + b"data: nonsense\n\n" + STOP + DONE)),
        Case("a list", chunked(A, B, b"data: [1, 2]\n\n", STOP, DONE)),
    )
)  # fmt: skip

CASES = (*COMPLETE, *BEFORE_OUTPUT, *AFTER_OUTPUT, *ERROR_AFTER_OUTPUT)
