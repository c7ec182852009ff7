"""Requests of a hostile client, and a configuration under which each costs most.

To add a case, add a line to one of the tables: its name and a function that makes the body. Bodies are made when they are
sent, because together they have hundreds of megabytes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from api_keys import key
from hostile_bodies import (
    ANSWER,
    MEGABYTE,
    MOST,
    TEXT_PART,
    TOOL,
    USER,
    between_floats,
    chat,
    deep,
    list_field,
    many_fields,
    many_messages,
    many_parts,
    many_values,
    messages,
    models,
    number,
    numbered,
    object_field,
    of_field,
    parts,
    prompts,
    text,
    zipped,
)
from wire import Connection

KEY = "sk-hostile"
STEP_MS, LARGE_STEP_MS = 20.0, 100.0
"""Most milliseconds of CPU of one step, for bodies up to 1 MB and for larger ones."""
MEGABYTE_BYTES = 1_048_576
ANSWER_BODY = (
    b'{"choices":[{"index":0,"message":{"role":"assistant","content":"ok"},"text":"ok","finish_reason":"stop"}],'
    b'"data":[{"index":0,"embedding":[0]}]}'
)
"""An answer of all APIs."""
TOO_LONG = b'{"error":{"message":"max_tokens is too large: 4096. This model supports at most 100 completion tokens"}}'

PATHS = {"chat": "/api/chat", "completions": "/v1/completions", "embeddings": "/v1/embeddings"}
"""The paths of cases, by the first word of their names."""

_PATTERNS = ", ".join(f'"vendor-{at}-*x*"' for at in range(12))
_PRICES = "\n".join(f'[prices."vendor-{at}-*x*"]\ninput = 1\noutput = 1' for at in range(12))
_UPSTREAM = """
[[upstream]]
name = "{name}"
base_url = "{url}"
model = "m"
breaker = {{ calls = 0 }}
models = {{ {models} }}
"""
_POLICIES = """
[server]
max_body = 16_777_216

[store]
url = "memory://"

[prices."*"]
input = 1
output = 1
{prices}

[[policy]]
use = "rate"
requests = 900_000_000
by = ["model", "user"]
only = {{ model = [{patterns}, "*"] }}

[[policy]]
use = "rate"
name = "other rate"
requests = 900_000_000
only = {{ model = [{patterns}] }}

[[policy]]
use = "trim"
max_messages = 900_000

[[policy]]
use = "max_tokens"
output = 4096
request = 900_000_000
only = {{ model = [{patterns}, "*"] }}

[[policy]]
use = "budget"
tokens = 900_000_000_000
only = {{ model = [{patterns}, "*"] }}
answer = {{ {answers} }}

[[policy]]
use = "budget"
name = "other budget"
tokens = 900_000_000_000
only = {{ model = [{patterns}] }}

[[policy]]
use = "budget"
name = "dollars"
usd = 900_000_000

[[policy]]
use = "retry"
attempts = 2
"""


def configuration(url: str) -> str:
    """Return a configuration with three upstreams at *url*, and a chain in which each policy has patterns of models."""
    table = ", ".join(f'"vendor-{at}-*x*" = "served-{at}"' for at in range(12))
    answers = ", ".join(f'"vendor-{at}-*x*" = 100' for at in range(12))
    text = "".join(_UPSTREAM.format(name=name, url=url, models=table) for name in ("one", "two", "three"))
    text += _POLICIES.format(patterns=_PATTERNS, prices=_PRICES, answers=answers)
    return text + key(KEY, "hostile", f'models = [{_PATTERNS}, "*"]')


class Case(NamedTuple):
    """One request: *body* makes its bytes. *limit* is a part of the message of its refusal.

    *is_admitted*: whether it is sent to upstream; None where that depends on rules for fields.

    By their names, cases that start with `chat:` are sent to `/api/chat`, those with another API to its path, those with
    `gzip:` are compressed, and those that end with `adapted` are refused by upstream first, which names a lower ceiling.
    """

    name: str
    body: Callable[[], bytes]
    limit: str = ""
    is_admitted: bool | None = True

    @property
    def path(self) -> str:
        return PATHS.get(self.name.partition(":")[0], "/v1/chat/completions")

    @property
    def headers(self) -> tuple[str, ...]:
        coding = ("content-encoding: gzip",) if self.name.startswith("gzip:") else ()
        return (f"authorization: Bearer {KEY}", *coding)

    @property
    def refusal(self) -> bytes:
        """What upstream answers first, with status 400."""
        return TOO_LONG if self.name.endswith("adapted") else b""

    def most_ms(self, size: int) -> float:
        """Return the longest step for its body of *size* bytes."""
        return LARGE_STEP_MS if size > MEGABYTE_BYTES or self.name.startswith("gzip:") else STEP_MS


class Refusing:
    """An upstream that sends `refusal`, if there is one, before its answer."""

    def __init__(self) -> None:
        self.refusal = b""

    async def __call__(self, connection: Connection) -> None:
        refusal, self.refusal = self.refusal, b""
        ends = connection.raw_body[:200] + connection.raw_body[-200:]
        if refusal:
            await connection.answer(400, refusal)
        elif b'"stream":true' in ends:
            await connection.stream("ok")
        else:
            await connection.answer(200, ANSWER_BODY)


Bodies = Mapping[str, Callable[[], bytes]]

TOO_MANY_VALUES: Bodies = {
    "models: 90,000 names, 1 MB": lambda: models(b'"n%07d"', 90_000),
    "messages of 3 letters": lambda: messages(USER, MEGABYTE),
    "messages of unknown roles": lambda: messages(b'{"role":"r","content":[]}', MEGABYTE),
    "messages with further keys": lambda: messages(b'{"role":"user","content":"a","b":{"c":1}}', MEGABYTE),
    "messages of tool results": lambda: messages(b'{"role":"tool","content":[{"type":"tool_result"}]}', MEGABYTE),
    "text parts": lambda: parts(TEXT_PART, MEGABYTE),
    'parts ""': lambda: parts(b'""', MEGABYTE),
    "parts {}": lambda: parts(b"{}", MEGABYTE),
    "parts []": lambda: parts(b"[]", MEGABYTE),
    "parts with text and more": lambda: parts(b'{"text":"a","b":1}', MEGABYTE),
    "image parts": lambda: parts(b'{"image_url":"a","b":1}', MEGABYTE),
    "a message of many keys": lambda: messages(b'{"role":"user",%b}' % numbered(b'"%06d":0', 90_000), MEGABYTE),
    "a list of 0": lambda: list_field(b"0", MEGABYTE),
    "a list of []": lambda: list_field(b"[]", MEGABYTE),
    "a list of small floats": lambda: list_field(b"5e-324", MEGABYTE),
    "lists 90 deep": lambda: deep(90, MEGABYTE),
    "objects 90 deep": lambda: list_field(b'{"a":' * 90 + b"0" + b"}" * 90, MEGABYTE),
    "lists 400,000 deep": lambda: deep(400_000, MEGABYTE),
    "strings": lambda: list_field(b'"ab"', MEGABYTE),
    "keys of the body": lambda: b'{%b,"messages":[%b]}' % (numbered(b'"%06d":0', 90_000), USER),
    "keys of the body with lists": lambda: b'{%b,"messages":[%b]}' % (numbered(b'"%06d":[]', 80_000), USER),
    "keys of an object": lambda: object_field(b'"%06d":0', 90_000),
    "keys in other letters": lambda: object_field('"ﬃ%06d":0'.encode(), 70_000),
    "logit_bias": lambda: object_field(b'"%d":-100', 80_000, b"logit_bias"),
    "tools": lambda: list_field(TOOL, MEGABYTE, b"tools"),
    "stream_options of many keys": lambda: object_field(b'"%06d":0', 90_000, b"stream_options"),
    "quotes": lambda: b'{"x":[' + b'"",' * 330_000,
    "chat: messages of 3 letters": lambda: chat(USER, MEGABYTE),
    "chat: empty answers": lambda: chat(ANSWER, MEGABYTE),
    "chat: keys": lambda: b'{"messages":[%b],%b}' % (USER, numbered(b'"%06d":0', 90_000)),
    "6,000 tools": lambda: of_field(b"[%b]" % b",".join([TOOL] * 6_000), b"tools"),
    "models: 240,000 names, 4.6 MB": lambda: models(b'"vendor-1-na-%05d"', 240_000),
    "models: 240,000 short names": lambda: models(b'"%d"', 240_000),
    "16 MB: messages of 3 letters": lambda: messages(USER, MOST),
    '16 MB: parts ""': lambda: parts(b'""', MOST),
    "parts [], 120,000": lambda: parts(b"[]", MOST, many=120_000),
    "messages {}, 120,000": lambda: messages(b"{}", MOST, many=120_000),
    "16 MB: lists": lambda: list_field(b"[]", MOST),
    "240,000 floats": lambda: of_field(b"[%b]" % b",".join([b"1.7976931348623157e308"] * 240_000)),
    "240,000 floats of 60 digits": lambda: of_field(b"[%b]" % b",".join([b"1." + number(60)] * 240_000)),
    "16 MB: integers of 60 digits": lambda: list_field(number(62), MOST),
    "240,000 keys of the body": lambda: b'{%b,"messages":[%b]}' % (numbered(b'"%059d":0', 240_000), USER),
    "16 MB: the same key": lambda: of_field(b"{%b}" % b",".join([b'"%b":0' % (b"a" * 60)] * 240_000)),
    "16 MB: tools": lambda: list_field(TOOL, MOST, b"tools"),
    "gzip: 240,000 floats": lambda: zipped(of_field(b"[%b]" % b",".join([b"1.7976931348623157e308"] * 240_000))),
}  # fmt: skip

REFUSED: Mapping[str, tuple[str, Callable[[], bytes]]] = {
    "models: 8,000 names, 165 kB": ("send at most 16.", lambda: models(b'"vendor-1-name-%05d"', 8_000)),
    "models: one name of 1 MB": ("at most 256.", lambda: models(b'"vendor-1-%d' + b"-" * 990_000 + b'"', 1)),
    "model: a name of 1 MB": ("at most 256.", lambda: of_field(b'"vendor-1-%b"' % (b"-" * 990_000), b"model")),
    "model: a name of 16 MB": ("at most 256.", lambda: of_field(b'"%b"' % ("é".encode() * (MOST // 2 - 90)), b"model")),
    "user: a name of 1 MB": ("send at most 16384.", lambda: of_field(b'"%b"' % (b"u" * 990_000), b"user")),
    "user: a name of 16 MB": ("send at most 16384.", lambda: of_field(b'"%b"' % ("é".encode() * (MOST // 2 - 90)), b"user")),
    "a body of 49 kB of lists": ("more than 10000 messages and parts", lambda: parts(b"[]", 49_000)),
    "16 MB: 16,000 messages": ("more than 10000 messages and parts", lambda: messages(b'{"role":"user","content":"%b"}' % (b"a" * 960), MOST)),
    "16 MB: floats of 16,000 digits": ("more than 100 digits", lambda: list_field(b"1." + number(16_000), MOST)),
    "16 MB: integers of 640 digits": ("more than 100 digits", lambda: list_field(number(640), MOST)),
    "integers of 4,000 digits": ("at most 640 digits", lambda: list_field(number(4_000), MEGABYTE)),
    "one integer of 1 MB": ("at most 640 digits", lambda: of_field(number(990_000))),
    "16 MB: one integer": ("at most 640 digits", lambda: of_field(number(MOST))),
    "lone surrogates": ("more than 10000 lone surrogates", lambda: text(b"\\ud83d" + b"a" * 90, MEGABYTE)),
    "lone surrogates, too many": ("more than 10000 lone surrogates", lambda: text(b"\\ud83d", MEGABYTE)),
    "16 MB: lone surrogates": ("only in a body of at most 1048576 bytes", lambda: text(b"\\ud83d" + b"a" * 1_700, MOST)),
    "16 MB: lone surrogates, too many": ("only in a body of at most 1048576 bytes", lambda: text(b"\\ud83d", MOST)),
    "16 MB: a lone surrogate at the end": ("only in a body of at most 1048576 bytes", lambda: text(b"a", MOST - 99).replace(b'"}', b'\\ud83d"}')),
    "a key of 1 MB behind NUL": ("must be spelt 'model'", lambda: b'{"model\\u0000%b":0,"messages":[%b]}' % (b"a" * 990_000, USER)),
    "stream: a word of 1 MB": ("'stream' must be", lambda: of_field(b'"%b"' % ("İ".encode() * 490_000), b"stream")),
    "NaN at the end": ("has NaN at byte", lambda: text(b"a", 990_000)[:-1] + b',"x":NaN}'),
    "bad UTF-8 at the end": ("byte 0xff at place", lambda: text(b"a", 990_000)[:-1] + b',"x":"\xff"}'),
    "no end": ("truncated", lambda: text(b"a", MEGABYTE)[:-3]),
    "16 MB: a key behind NUL": ("must be spelt 'model'", lambda: b'{"model\\u0000%b":0,"messages":[%b]}' % (b"a" * 15_900_000, USER)),
    "16 MB: stream": ("'stream' must be", lambda: of_field(b'"%b"' % ("İ".encode() * 7_900_000), b"stream")),
    "16 MB: NaN at the end": ("has NaN at byte", lambda: text(b"a", MOST - 99)[:-1] + b',"x":NaN}'),
    "16 MB: bad UTF-8 at the end": ("not valid UTF-8", lambda: text(b"a", MOST - 99)[:-1] + b',"x":"\xff"}'),
    "16 MB: bad UTF-8, other scripts": ("not valid UTF-8", lambda: text("漢é".encode(), MOST - 99)[:-1] + b',"x":"\xff"}'),
    "16 MB: no JSON": ("has no body", lambda: b" " * MOST),
    "gzip: beyond the limit": ("larger than 16777216 bytes", lambda: zipped(b" " * 64 * MEGABYTE)),
}  # fmt: skip

ADMITTED: Bodies = {
    "user: a name of 16,000 letters": lambda: of_field(b'"%b"' % ("é".encode() * 16_000), b"user"),
    "user: a number of 640 digits": lambda: of_field(number(640), b"user"),
    "a list of floats": lambda: list_field(b"1.7976931348623157e308", MEGABYTE),
    "a list of slow floats": lambda: list_field(b"2.2250738585072011e-308", MEGABYTE),
    "floats of 700 digits": lambda: list_field(b"1." + number(700), MEGABYTE),
    "floats of 45 digits between two": lambda: list_field(between_floats(45), MEGABYTE),
    "floats of 60 digits between two": lambda: list_field(between_floats(60), MEGABYTE),
    "floats of 300 digits between two": lambda: list_field(between_floats(300), MEGABYTE),
    "49,900 floats of 99 digits between two": lambda: many_values(between_floats(99), 49_900),
    "one float of 1 MB": lambda: of_field(b"1." + number(990_000)),
    "integers of 640 digits": lambda: list_field(number(640), MEGABYTE),
    "max_tokens: blanks of 1 MB": lambda: of_field(b'"%b"' % (b" " * 990_000), b"max_tokens"),
    "text, escaped letters": lambda: text(b"\\u0041", MEGABYTE),
    "text, escaped newlines": lambda: text(b"\\n", MEGABYTE),
    "text, other scripts": lambda: text("漢é".encode(), MEGABYTE),
    "text, emoji escapes": lambda: text(b"\\ud83d\\ude42", MEGABYTE),
    "marks in a text": lambda: text(b"[{,", MEGABYTE),
    "escapes before a lone surrogate": lambda: text(b"\\n\\\\", 990_000).replace(b'"}', b'\\ud83d"}'),
    "chat: blank answer of 1 MB": lambda: chat(USER + b',{"role":"assistant","content":"%b"}' % (b" " * 990_000), 9),
    "chat: profile of 1 MB": lambda: b'{"messages":[%b],"profile":"%b"}' % (USER, "İ".encode() * 490_000),
    "9,990 messages {}": lambda: many_messages(b"{}"),
    "9,990 messages of 3 letters": lambda: many_messages(USER),
    "9,990 messages of 3 letters, adapted": lambda: many_messages(USER),
    "9,990 messages, other scripts": lambda: many_messages('{"role":"user","content":"漢"}'.encode()),
    "9,990 messages of unknown roles": lambda: many_messages(b'{"role":"rrrrr","content":[]}'),
    "9,990 messages with further keys": lambda: many_messages(b'{"role":"user","content":"a","b":1,"c":1}'),
    "9,990 messages with ids": lambda: many_messages(b'{"role":"user","content":"a","id":"b"}'),
    "9,990 messages of objects": lambda: many_messages(b'{"role":"user","content":{"x":1}}'),
    "9,990 messages of numbers": lambda: many_messages(b'{"role":"user","content":1}'),
    "4,990 messages of a part": lambda: many_messages(b'{"role":"user","content":[{"type":"text","text":"a"}]}', 4_990),
    "4,990 tool results": lambda: many_messages(b'{"role":"user","content":[{"type":"tool_result"}]}', 4_990),
    "9,990 tool messages": lambda: many_messages(b'{"role":"tool","tool_call_id":"a","content":"b"}'),
    "9,990 text parts": lambda: many_parts(TEXT_PART),
    "9,990 text parts, adapted": lambda: many_parts(TEXT_PART),
    '9,990 parts ""': lambda: many_parts(b'""'),
    "9,990 parts {}": lambda: many_parts(b"{}"),
    "9,990 parts []": lambda: many_parts(b"[]"),
    "9,990 parts of unknown keys": lambda: many_parts(b'{"a":1,"b":2,"c":3}'),
    "9,990 parts with text and more": lambda: many_parts(b'{"text":"a","b":1,"c":2,"d":3}'),
    "9,990 parts of many texts": lambda: many_parts(b'{"refusal":"a","thinking":"b","reasoning":"c","x":1}'),
    "9,990 untyped image parts": lambda: many_parts(b'{"image_url":"a","b":1}'),
    "9,990 untyped file parts": lambda: many_parts(b'{"input_file":"a","b":1}'),
    "9,990 typed image parts": lambda: many_parts(b'{"type":"image_url","image_url":{"url":"a"}}'),
    "9,990 file parts": lambda: many_parts(b'{"type":"file","file":{"a":"b"}}'),
    "48 parts of 990 keys": lambda: many_parts(b"{%b}" % numbered(b'"%04d":0', 990), 48),
    "48 messages of 990 keys": lambda: many_messages(b'{"role":"user",%b}' % numbered(b'"%04d":0', 990), 48),
    "49,900 small floats": lambda: many_values(b"5e-324", 49_900),
    "43,000 floats of 21 digits": lambda: many_values(b"1.7976931348623157e308", 43_000),
    "49,900 numbers 0": lambda: many_values(b"0", 49_900),
    "24,900 lists": lambda: many_values(b"[]", 24_900),
    "24,900 objects of a key": lambda: many_values(b'{"a":0}', 24_900),
    "49,500 objects, 90 deep": lambda: many_values(b'{"a":' * 90 + b"0" + b"}" * 90, 540),
    "49,500 lists, 90 deep": lambda: many_values(b"[" * 90 + b"]" * 90, 540),
    "49,900 strings": lambda: many_values(b'"ab"', 49_900),
    "49,900 keys": lambda: object_field(b'"%06d":0', 49_900),
    "49,900 keys of escapes": lambda: object_field(b'"\\u0041%06d":0', 49_900),
    "49,900 entries of logit_bias": lambda: object_field(b'"%d":-100', 49_900, b"logit_bias"),
    "990 fields": lambda: many_fields(b"0"),
    "990 options of streams": lambda: object_field(b'"%04d":0', 990, b"stream_options"),
    "16 models of 250 letters": lambda: models(b'"vendor-1-%04d' + b"-" * 240 + b'"', 16),
    "a body of 49 kB of floats": lambda: list_field(b"5e-324", 49_000),
    "a body of 49 kB, deep": lambda: list_field(b'{"a":' * 90 + b"0" + b"}" * 90, 49_000),
    "a body of 49 kB of keys": lambda: messages(b'{"a":0,"b":0,"c":0}', 49_000),
    "chat: 9,990 messages": lambda: chat(USER, 9_990 * (len(USER) + 1)),
    "chat: 9,990 empty answers": lambda: chat(ANSWER, 9_990 * (len(ANSWER) + 1)),
    "chat: 9,990 answers and questions": lambda: chat(USER + b"," + ANSWER, 4_995 * (len(USER + ANSWER) + 2)),
    "16 MB: images": lambda: parts(b'{"type":"image_url","image_url":{"url":"%b"}}' % (b"a" * 500_000), MOST),
    "49,900 floats of 99 digits": lambda: many_values(b"1." + number(99), 49_900),
    "49,900 integers of 99 digits": lambda: many_values(number(99), 49_900),
    "49,900 strings of 300 letters": lambda: many_values(b'"%b"' % (b"a" * 300), 49_900),
    "49,900 strings, escaped": lambda: many_values(b'"%b"' % (b"\\n" * 150), 49_900),
    "49,900 keys of 300 letters": lambda: object_field(b'"%0300d":0', 49_900),
    "16 MB: 9,990 messages": lambda: many_messages(b'{"role":"user","content":"%b"}' % (b"a" * 1_500)),
    "16 MB: 9,990 messages, other scripts": lambda: many_messages(b'{"role":"user","content":"%s"}'.replace(b"%s", "漢".encode() * 500)),
    "16 MB: 9,990 text parts": lambda: many_parts(b'{"type":"text","text":"%b"}' % (b"a" * 1_500)),
    "16 MB: 9,990 parts with text and more": lambda: many_parts(b'{"text":"%b","b":1}' % (b"\\n" * 750)),
    "16 MB: 9,990 objects as content": lambda: many_messages(b'{"role":"user","content":{"x":"%b"}}' % (b"\\n" * 750)),
    "16 MB: long keys": lambda: object_field(b'"%0999d":0', 15_900),
    "16 MB: role": lambda: messages(b'{"role":"%b"}' % ("é".encode() * 7_900_000), 2 * MOST, many=1),
    "16 MB: text": lambda: text(b"a", MOST),
    "16 MB: text, escaped letters": lambda: text(b"\\u0041", MOST),
    "16 MB: text, other escapes": lambda: text(b"\\u6f22", MOST),
    "16 MB: text, escaped newlines": lambda: text(b"\\n", MOST),
    "16 MB: text, control characters": lambda: text(b"\\u0001", MOST),
    "16 MB: text, half escaped": lambda: text(b"ab\\n", MOST),
    "16 MB: text, other scripts": lambda: text("漢é".encode(), MOST),
    "16 MB: text, one emoji": lambda: text("\U0001f642".encode() + b"a" * (MOST - 4), MOST),
    "16 MB: text, emoji escapes": lambda: text(b"\\ud83d\\ude42", MOST),
    "16 MB: marks in a text": lambda: text(b"[{,", MOST),
    "16 MB: marks and escapes in a text": lambda: text(b'[\\"', MOST),
    "16 MB: adapted ceiling": lambda: text(b"a\\n", MOST),
    "16 MB: blanks": lambda: b'{"model":"m",%b"messages":[%b]}' % (b" " * MOST, USER),
    "gzip: 16 MB of a": lambda: zipped(text(b"a", MOST)),
}  # fmt: skip
"""Bodies near all limits."""

UNDOCUMENTED: Bodies = {
    "a key of 1 MB in other letters": lambda: b'{"%b":0,"messages":[%b]}' % ("ŉ".encode() * 490_000, USER),
    "990 fields of 48 values": lambda: many_fields(b"[%b]" % b",".join([b"0"] * 48)),
    "16 MB: a key in other letters": lambda: b'{"%b":0,"messages":[%b]}' % ("ŉ".encode() * 7_900_000, USER),
}  # fmt: skip
"""Bodies with fields that a key with `models` may not send, so that they may be refused too."""

ID_LISTS: Mapping[str, tuple[str, Callable[[], bytes]]] = {
    "completions: 16 MB of token ids": ("", lambda: prompts(b"1", MOST, b"prompt")),
    "completions: 1 MB of token ids": ("", lambda: prompts(b"1", MEGABYTE, b"prompt")),
    "completions: 16 MB, 1,000 lists of token ids": ("", lambda: prompts(b"[%b1]" % (b"1," * 8_000), MOST, b"prompt", many=1_000)),
    "completions: 16 MB, short lists of token ids": ("more than 50000 values", lambda: prompts(b"[1]", MOST, b"prompt")),
    "completions: 9,000 lists of token ids": ("send at most 1024 in one request", lambda: prompts(b"[1,1,1,1,1,1,1]", MEGABYTE, b"prompt", many=9_000)),
    "completions: 1,000 texts, a suffix": ("", lambda: prompts(b'"ab"', MEGABYTE, b"prompt", many=1_000)[:-1] + b',"suffix":"%b"}' % (b"a" * 900_000)),
    "completions: 1,000 objects": ("", lambda: prompts(b'{"prompt_string":"ab","a":1}', MEGABYTE, b"prompt", many=1_000)),
    "completions: 900,000 fields": ("more than 50000 values", lambda: b'{"prompt":[1],%b}' % numbered(b'"%08d":0', 900_000)),
    "embeddings: 16 MB of token ids": ("", lambda: prompts(b"1", MOST)),
    "embeddings: 16 MB of empty lists": ("more than 50000 values", lambda: prompts(b"[]", MOST)),
    "embeddings: 1 MB of empty lists": ("more than 50000 values", lambda: prompts(b"[]", MEGABYTE)),
    "embeddings: 16 MB, 10,000 lists of token ids": ("", lambda: prompts(b"[%b1]" % (b"1," * 799), MOST, many=10_000)),
    "embeddings: 1 MB, 10,000 lists of token ids": ("", lambda: prompts(b"[%b1]" % (b"1," * 40), MEGABYTE, many=10_000)),
    "embeddings: lists with blanks, deep": ("nested more than 100 levels", lambda: prompts(b"[ " * 400 + b"1" + b"]" * 400, 40_000)),
    "embeddings: 1,200,000 fields": ("more than 50000 values", lambda: b'{"input":[1],%b}' % numbered(b'"%08d":0', 1_200_000)),
    "embeddings: a token id of 1 MB": ("at most 640 digits", lambda: prompts(number(990_000), MEGABYTE)),
    "embeddings: 9,990 texts": ("", lambda: prompts(b'"ab"', MEGABYTE, many=9_990)),
    "embeddings: 9,990 objects": ("", lambda: prompts(b'{"text":"ab","a":1,"b":2}', MEGABYTE, many=9_990)),
    "embeddings: 16 MB of text": ("", lambda: prompts(b'"%b"' % ("漢é".encode() * (MOST // 5)), 2 * MOST, many=1)),
}  # fmt: skip
"""Prompts of completions and inputs of embeddings; the text is the limit of a refusal, empty for those that are admitted."""

CASES = (
    *(Case(name, body, limit, is_admitted=not limit) for name, (limit, body) in ID_LISTS.items()),
    *(Case(name, body, "more than 50000 values", is_admitted=False) for name, body in TOO_MANY_VALUES.items()),
    *(Case(name, body, limit, is_admitted=False) for name, (limit, body) in REFUSED.items()),
    *(Case(name, body) for name, body in ADMITTED.items()),
    *(Case(name, body, is_admitted=None) for name, body in UNDOCUMENTED.items()),
)
