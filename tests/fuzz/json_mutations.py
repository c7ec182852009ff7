"""Mutations of JSON that keep most of its structure: values, keys, nesting and numbers that decoders disagree about."""

from __future__ import annotations

import json
from random import Random
from typing import Any, TypeAlias


class Raw(bytes):
    """The bytes of one JSON value, valid or not, written as they are."""


class Pairs(list[tuple[Any, Any]]):
    """An object as its pairs: keys may be repeated, and may be `Raw`."""


Node: TypeAlias = Any

VALUES = tuple(
    Raw(each)
    for each in (
        *(b"null", b"true", b"false", b"0", b"-0", b"1", b"-1", b"0.5", b"1.0", b"1e2", b"100.0", b"1e22", b"1e400", b"-1e400"),
        *(b"1e-400", b"9007199254740993", b"9223372036854775808", b"18446744073709551616", b"-9223372036854775809"),
        *(b"1" + b"0" * 300, b"1" + b"0" * 700, b"NaN", b"Infinity", b"-Infinity", b"01", b"1.", b"+1", b"0x10", b"1_000"),
        *(b'""', b'"\\u0000"', b'"\\ud800"', b'"\\udc00\\ud800"', b'"\\ud83d\\ude42"', b'"\xff"', b'"\xed\xa0\x80"', b'"\n"', b"'a'"),
        *(b'"1"', b'"-1"', b'"true"', b'"null"', b'"error"', b'"stop"', b'"[DONE]"', b'"data: [DONE]\\n\\n"', b'"' + b"x" * 5_000 + b'"'),
        *(b"[]", b"[[]]", b"[null]", b"[{}]", b"{}", b'{"a":1,"a":2}', b'{"":""}', b'{"type":"text","text":"t"}', b'["a","b"]'),
        *(b"[" + b"1," * 2_000 + b"1]", b"[" * 99 + b"]" * 99, b"[" * 101 + b"]" * 101, b"[" * 3_000, b'{"a":' * 101 + b"1" + b"}" * 101),
        *(b"", b"undefined", b"[1,]", b'{"a"}', b"/* c */ 1", b'{"message":"boom","code":429}'),
    )
)  # fmt: skip
NAMES = (
    *(
        "model",
        "models",
        "messages",
        "role",
        "content",
        "max_tokens",
        "max_completion_tokens",
        "n",
        "stream",
        "stream_options",
    ),
    *(
        "temperature",
        "tools",
        "tool_calls",
        "user",
        "metadata",
        "profile",
        "aiUsageProfile",
        "dailyTokenLimit",
        "systemPrompt",
    ),
    *(
        "maxTokensPerRequest",
        "best_of",
        "logprobs",
        "stop",
        "fallbacks",
        "extra_body",
        "prompt",
        "choices",
        "delta",
        "message",
    ),
    *(
        "index",
        "finish_reason",
        "usage",
        "prompt_tokens",
        "completion_tokens",
        "total_tokens",
        "error",
        "code",
        "id",
        "object",
    ),
    *(
        "reasoning",
        "reasoning_content",
        "refusal",
        "audio",
        "type",
        "text",
        "image_url",
        "param",
        "status",
        "detail",
        "\0n",
        "",
    ),
)
MAX_GROWN_BYTES = 65_536
"""Size behind which a document is not changed further."""
MAX_WALK = 4_000
"""Nodes of a document among which one is chosen."""


def parse(data: bytes) -> Node:
    """Return the JSON *data* with objects as `Pairs`. Raise `ValueError` where it is none."""
    try:
        return json.loads(data, object_pairs_hook=Pairs)
    except RecursionError as error:
        msg = "nested too deeply"
        raise ValueError(msg) from error


def render(node: Node) -> bytes:
    """Return *node* as JSON, with its `Raw` parts as they are."""
    if isinstance(node, Raw):
        return bytes(node)
    if isinstance(node, Pairs):
        return b"{" + b",".join(render(key) + b":" + render(value) for key, value in node) + b"}"
    if isinstance(node, list):
        return b"[" + b",".join(map(render, node)) + b"]"
    return json.dumps(node, ensure_ascii=False).encode("utf-8", "surrogatepass")


def places(node: Node) -> list[tuple[Any, int]]:
    """Return the containers in *node* with each position in them, up to a limit."""
    found: list[tuple[Any, int]] = []
    waiting = [node]
    while waiting and len(found) < MAX_WALK:
        each = waiting.pop()
        if isinstance(each, list):
            found += [(each, at) for at in range(len(each))]
            waiting += [value[1] if isinstance(each, Pairs) else value for value in each]
    return found


def mutate_node(node: Node, chance: Random) -> Node:
    """Return *node* with one change; it may be changed in place."""
    spots = places(node)
    if not spots or chance.random() < 0.03:
        return chance.choice(VALUES) if chance.random() < 0.5 else [node]
    container, at = chance.choice(spots)
    if isinstance(container, Pairs):
        _change_pair(container, at, chance)
    else:
        _change_element(container, at, chance)
    return node


def mutate_json(data: bytes, chance: Random) -> bytes:
    """Return the JSON *data* after one to four changes; *data* itself where it is no JSON."""
    try:
        node = parse(data)
    except ValueError:
        return data
    for _ in range(chance.choice((1, 1, 1, 2, 2, 3, 4))):
        node = mutate_node(node, chance)
        data = render(node)
        if len(data) > MAX_GROWN_BYTES:  # repeated elements multiply
            break
    return data


def _change_pair(pairs: Pairs, at: int, chance: Random) -> None:
    key, value = pairs[at]
    how = chance.randrange(10)
    if how < 4:
        pairs[at] = (key, chance.choice(VALUES))
    elif how == 4:
        pairs.insert(chance.randrange(len(pairs) + 1), (key, chance.choice(VALUES)))
    elif how == 5:
        pairs[at] = (_other_spelling(key, chance), value)
    elif how == 6:
        del pairs[at]
    elif how == 7:
        pairs.append((chance.choice(NAMES), chance.choice(VALUES)))
    elif how == 8:
        other = chance.randrange(len(pairs))
        pairs[at], pairs[other] = (key, pairs[other][1]), (pairs[other][0], value)
    else:
        pairs[at] = (key, _nested(value, chance))


def _change_element(elements: list[Any], at: int, chance: Random) -> None:
    how = chance.randrange(6)
    if how < 2:
        elements[at] = chance.choice(VALUES)
    elif how == 2:
        elements.insert(at, elements[at])
    elif how == 3:
        del elements[at]
    elif how == 4:
        elements[at:at] = [elements[at]] * chance.choice((2, 30, 300))
    else:
        elements[at] = _nested(elements[at], chance)


def _nested(value: Node, chance: Random) -> Node:
    for _ in range(chance.choice((1, 1, 2, 98, 120))):
        value = [value]
    return value


def _other_spelling(key: Any, chance: Random) -> Any:
    """Return *key* in a spelling that some decoders take for the same name."""
    text = key if isinstance(key, str) else "a"
    escaped = "".join(f"\\u{ord(each):04x}" for each in text)
    return chance.choice(
        (
            *(text.upper(), text.title(), text.swapcase(), f"\0{text}", f"{text}\0", f" {text}", f"{text} "),
            *(
                Raw(f'"{escaped}"'.encode()),
                text.replace("_", "-"),
                text.replace("s", "\u017f"),
                text.replace("k", "\u212a"),
            ),
            chance.choice(NAMES),
        )
    )
