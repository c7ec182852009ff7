"""Convert upstream's error object to the one that clients may see: all of its fields, redacted and bounded.

Vendors add fields that programs read: `metadata.raw` and `metadata.provider_name` (OpenRouter), `n_prompt_tokens` and
`n_ctx` (llama.cpp), `innererror` (Azure), `status` and `details` (Google).  So there is no list of allowed fields: a field
passes unless its name or value can hold a key, a host, a path or a stack trace.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from sidecar.wire.error_object import PlainText

from .redact import MAX_READ_LENGTH, PAGE_MESSAGE, redact

MAX_OBJECT_DEPTH = 8
"""Objects and lists in each other; Azure's content filter has four, Google's quota details have five."""
MAX_OBJECT_VALUES = 100
"""Values in all objects and lists together."""
MAX_NAME_LENGTH = 128
"""Characters of `code`, `type`, `param`, which some servers write as a sentence (xAI), and of field names."""
INTEGER_LIMIT = 2**63
"""Larger integers are dropped: not every JSON reader keeps them."""
NAME_FIELDS = ("type", "param", "code")
ANSWER_FIELDS = frozenset({"choices", "usage"})
"""Fields of an answer: an answer under a wrong status must not reach clients past the policies."""
INFRASTRUCTURE_WORDS = frozenset(
    {
        "host",
        "hostname",
        "server",
        "servername",
        "addr",
        "address",
        "peer",
        "endpoint",
        "node",
        "pod",
        "port",
        "ip",
        "ips",
    }
)
HIDDEN_WORDS = INFRASTRUCTURE_WORDS | frozenset(
    {
        "stack",
        "stacktrace",
        "traceback",
        "backtrace",
        "password",
        "passwd",
        "secret",
        "apikey",
        "bearer",
        "cookie",
        "cookies",
    }
    | {"authorization", "credential", "credentials"}
)
"""Words in names of fields whose values are infrastructure or secrets, even if the value looks harmless."""
HIDDEN_NAMES = frozenset({"key", "token", "api_key", "access_key", "secret_key", "access_token", "auth_token", "trace"})
"""Whole names of such fields; `n_prompt_tokens` and `trace_id` are others."""

_FIELD_NAME = re.compile(r"[@$A-Za-z0-9_][A-Za-z0-9_.@$\[\] -]{0,127}")
_WORD_START = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|[_.\-\s]+")
_TYPE_URL = re.compile(r"type\.googleapis\.com/[A-Za-z0-9_.]{1,100}")
"""The name of a protobuf message, as its JSON form has it in `@type`; not a host that is connected to."""


def public_object(error: Mapping[str, Any], secrets: Sequence[str] = ()) -> dict[str, Any]:
    """Return what clients may see of *error*, an object of `sidecar.wire.error_object`; empty where it is not one.

    The fields keep their order, and numbers stay numbers.  A code, type or param that holds anything like a secret is
    dropped.  So is everything beyond the limits of depth, values and characters; `message` and these three are read first.
    """
    message = error.get("message")
    text = message if isinstance(message, str) and not isinstance(message, PlainText) else ""
    if not text and (isinstance(message, PlainText) or all(error.get(name) is None for name in ("code", "type"))):
        return {}
    reader = _Reader(secrets)
    found: dict[str, Any] = {}
    if text and (shown := reader.text(text)) and shown != PAGE_MESSAGE:
        found["message"] = shown
    for name in NAME_FIELDS:
        if name in error and reader.takes_name(value := error[name]):
            found[name] = value
    others = {name: value for name, value in error.items() if name not in ANSWER_FIELDS and name not in NAME_FIELDS}
    others.pop("message", None)
    found |= reader.fields(others, MAX_OBJECT_DEPTH - 1)
    return {name: found[name] for name in error if name in found}


class _Reader:
    """Reads one error object within the limits of values and characters, which all of its fields share."""

    def __init__(self, secrets: Sequence[str]) -> None:
        self._secrets = secrets
        self._values, self._characters = MAX_OBJECT_VALUES, MAX_READ_LENGTH

    def text(self, text: str) -> str:
        """Return *text* redacted; a part of it where characters run out."""
        text = text[: self._characters]
        self._characters -= len(text)
        if _TYPE_URL.fullmatch(text) and not any(secret.lower() in text.lower() for secret in self._secrets):
            return text
        return redact(text, self._secrets)

    def takes_name(self, value: object) -> bool:
        """Whether *value*, a code, type or param, is shown as it is."""
        if value is None or type(value) is int:
            return value is None or abs(value) < INTEGER_LIMIT
        if not isinstance(value, str) or not 0 < len(value) <= min(MAX_NAME_LENGTH, self._characters):
            return False
        return self.text(value) == value

    def fields(self, found: Mapping[str, Any], depth: int) -> dict[str, Any]:
        """Return the fields of *found* that are shown; *depth* levels of objects and lists may follow."""
        shown: dict[str, Any] = {}
        for name, value in found.items():
            if not self._values or not self._characters:
                break
            if self._takes_field(name):
                self._add(shown, name, value, depth)
        return shown

    def _takes_field(self, name: str) -> bool:
        if not _FIELD_NAME.fullmatch(name) or name.lower() in HIDDEN_NAMES:
            return False
        words = {word.lower() for word in _WORD_START.split(name)}
        return words.isdisjoint(HIDDEN_WORDS) and not {"api", "key"} <= words and self.takes_name(name)

    def _add(self, shown: dict[str, Any], name: str, value: object, depth: int) -> None:
        self._values -= 1
        if isinstance(value, dict | list):
            if depth:
                shown[name] = self.fields(value, depth - 1) if isinstance(value, dict) else self._items(value, depth)
        elif isinstance(value, str):
            shown[name] = self.text(value)
        elif not isinstance(value, int) or isinstance(value, bool) or abs(value) < INTEGER_LIMIT:
            shown[name] = value

    def _items(self, found: list[Any], depth: int) -> list[Any]:
        items: list[Any] = []
        for value in found:
            if not self._values or not self._characters:
                break
            kept: dict[str, Any] = {}
            self._add(kept, "", value, depth - 1)
            items.extend(kept.values())
        return items
