"""Convert upstream's error object to the one that clients may see: all of its fields, redacted and bounded.

Vendors add fields that programs read: `metadata.raw` and `metadata.provider_name` (OpenRouter), `n_prompt_tokens` and
`n_ctx` (llama.cpp), `innererror` (Azure), `status` and `details` (Google).  So there is no list of allowed fields: a field
passes unless its name or value can hold a key, a host, a path or a stack trace.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from sidecar.wire.error_object import PlainText

from .redact import MAX_READ_LENGTH, PAGE_MESSAGE, redact_all
from .secret_values import NO_SECRETS, Secrets

MAX_OBJECT_DEPTH = 8
"""Objects and lists in each other; Azure's content filter has four, Google's quota details have five."""
MAX_OBJECT_VALUES = 100
"""Values in all objects and lists together."""
MAX_NAME_LENGTH = 128
"""Characters of `code`, `type`, `param`, which some servers write as a sentence (xAI), and of field names."""
INTEGER_LIMIT = 2**63
"""Larger integers are dropped: not every JSON reader keeps them."""
NAME_FIELDS = ("type", "param", "code")
READ_FIRST = frozenset({"message", *NAME_FIELDS})
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


def public_object(error: Mapping[str, Any], secrets: Secrets = NO_SECRETS) -> dict[str, Any]:
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
    if text:
        reader.root = "message"
        reader.add_text(found, "message", text)
    for name in NAME_FIELDS:
        if name in error:
            reader.root = name
            reader.add_name(found, name, error[name])
    for name, value in error.items():
        if name not in READ_FIRST and name not in ANSWER_FIELDS:
            reader.root = name
            reader.add_fields(found, {name: value}, MAX_OBJECT_DEPTH - 1)
    reader.redact_all(list(error))
    if found.get("message") in ("", PAGE_MESSAGE):
        del found["message"]
    return {name: found[name] for name in error if name in found}


class _Place(NamedTuple):
    """Where a text belongs: *container*[*key*], in the field *root*.  *whole*: it is dropped where it is not clean."""

    root: str
    container: Any
    key: Any
    text: str
    whole: bool = False


class _Reader:
    """Reads one error object within the limits of values and characters, which all of its fields share.

    All texts are redacted together at the end: a secret may be split over several, and one search is faster than many.
    """

    root = ""
    """The field of the error object that is read."""

    def __init__(self, secrets: Secrets) -> None:
        self._secrets = secrets
        self._values, self._characters = MAX_OBJECT_VALUES, MAX_READ_LENGTH
        self._texts: list[_Place] = []
        self._names: list[_Place] = []

    def add_text(self, container: Any, key: Any, text: str) -> None:
        """Put *text* at *key* of *container*; a part of it where characters run out."""
        text = text[: self._characters]
        self._characters -= len(text)
        container[key] = text
        if not _TYPE_URL.fullmatch(text) or self._secrets.are_in(text):
            self._texts.append(_Place(self.root, container, key, text))

    def add_name(self, container: dict[str, Any], key: str, value: object) -> None:
        """Put *value*, a code, type or param, at *key* of *container* if it can be shown as it is."""
        if value is None or (type(value) is int and self._takes_number(value)):
            container[key] = value
        elif isinstance(value, str) and 0 < len(value) <= min(MAX_NAME_LENGTH, self._characters):
            self._characters -= len(value)
            container[key] = value
            self._texts.append(_Place(self.root, container, key, value, whole=True))

    def add_fields(self, shown: dict[str, Any], found: Mapping[str, Any], depth: int) -> dict[str, Any]:
        """Put the fields of *found* that are shown into *shown* and return it; *depth* levels may follow."""
        for name, value in found.items():
            if not self._values or not self._characters:
                break
            if not _is_hidden(name) and len(name) <= self._characters:
                self._characters -= len(name)
                self._names.append(_Place(self.root, shown, name, name, whole=True))
                self._add(shown, name, value, depth)
        return shown

    def redact_all(self, roots: Sequence[str]) -> None:
        """Redact all texts where they are, *roots* in this order, and remove the fields whose names are not clean."""
        order = {root: at for at, root in enumerate(roots)}
        self._texts.sort(key=lambda place: order[place.root])
        places = [*self._names, *self._texts]  # a name between the parts of a secret must not separate them
        texts = redact_all([place.text for place in places], self._secrets)
        for place, text in zip(reversed(places), reversed(texts), strict=True):  # values first: names remove them
            if not place.whole:
                place.container[place.key] = text
            elif text != place.text:
                place.container.pop(place.key, None)

    def _takes_number(self, value: float) -> bool:
        return abs(value) < INTEGER_LIMIT and not self._secrets.are_in(str(value))

    def _add(self, shown: dict[str, Any], name: str, value: object, depth: int) -> None:
        self._values -= 1
        if isinstance(value, dict | list):
            if depth:
                shown[name] = (
                    self.add_fields({}, value, depth - 1) if isinstance(value, dict) else self._items(value, depth)
                )
        elif isinstance(value, str):
            self.add_text(shown, name, value)
        elif value is None or isinstance(value, bool) or (isinstance(value, int | float) and self._takes_number(value)):
            shown[name] = value

    def _items(self, found: list[Any], depth: int) -> list[Any]:
        items: list[Any] = []
        for value in found:
            if not self._values or not self._characters:
                break
            if isinstance(value, str):
                self._values -= 1
                items.append("")
                self.add_text(items, len(items) - 1, value)
                continue
            kept: dict[str, Any] = {}
            self._add(kept, "", value, depth - 1)
            items.extend(kept.values())
        return items


def _is_hidden(name: str) -> bool:
    """Whether the *name* of a field says that its value is a secret or infrastructure, or is none that a server uses."""
    if not _FIELD_NAME.fullmatch(name) or name.lower() in HIDDEN_NAMES:
        return True
    words = {word.lower() for word in _WORD_START.split(name)}
    return not words.isdisjoint(HIDDEN_WORDS) or {"api", "key"} <= words
