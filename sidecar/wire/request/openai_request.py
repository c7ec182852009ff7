"""Check the body of a chat completion, as far as limits depend on it.

Upstream decides about everything else: a server may accept what OpenAI refuses. Where servers read one value in several
ways, the body is changed so that there is one (see `request_counts`).
"""

from __future__ import annotations

from collections.abc import Collection, Generator
from typing import Any

from policies.api.call import LIMIT_FIELDS, MANY_FIELDS

from .json_body import BadRequest
from .request_counts import MAX_SAFE_INTEGER, as_switch, settle_ceilings, settle_choices

CHECKED_FIELDS = frozenset(
    {*LIMIT_FIELDS, *MANY_FIELDS, "messages", "model", "models", "stream", "stream_options", "user"}
)
"""Fields that limits depend on: another spelling of one of them is refused."""
COMMON_FIELDS = CHECKED_FIELDS | {"temperature", "top_p", "stop", "tools", "tool_choice", "response_format", "seed"}
"""Fields in lower case whose spelling is not checked, which saves 0.4 µs for a request with three of them."""
STREAM_OPTIONS = frozenset({"include_usage"})
MESSAGE_FIELDS = frozenset({"role", "content", "type", "text"})
"""Checked fields of a message and of its parts."""
_CEILING_FIELDS, _CHOICE_FIELDS = frozenset(LIMIT_FIELDS), frozenset(MANY_FIELDS)
MAX_MODEL_ID_LENGTH = 256
MAX_MODELS = 16
"""Names in `models`: each is matched with the patterns of the key, of policies, prices and upstreams."""
MAX_USER_LENGTH = 16_384
MAX_ITEMS = 10_000
"""Messages and parts of one body, in all: each policy reads all of them. Measured: 8 ms for the slowest one."""
MAX_FIELDS = 1_000
"""Fields of the body, and of each of its objects whose names of fields are checked."""
MAX_SHOWN_KEY = 100
"""Characters of a key that an error shows."""
CHECKED_PER_STEP = 5_000
"""Messages, parts and their fields that are checked in one step. Measured: 0.3 us for each."""
_LONGEST_FIELD = max(map(len, CHECKED_FIELDS | STREAM_OPTIONS | MESSAGE_FIELDS))


def check_openai(body: dict[str, Any]) -> int:
    """Raise `BadRequest` unless policies can govern *body*, and write its numbers and switches as all servers read them.

    Return the number of its messages and their parts.
    """
    messages = _messages_of(body)
    items = len(messages)
    for at, message in enumerate(messages):
        if parts := _check_message(message, at):
            items += len(parts)
            for number, part in enumerate(parts):
                if isinstance(part, dict) and not part.keys() <= MESSAGE_FIELDS:
                    check_spelling(part, MESSAGE_FIELDS, f"messages[{at}].content[{number}]")
    if items > MAX_ITEMS:
        raise _too_many_items()
    settle_fields(body)
    return items


def openai_steps(body: dict[str, Any]) -> Generator[None, None, int]:
    """Check as `check_openai` does, in steps of a few milliseconds between which the event loop can run."""
    messages = _messages_of(body)
    items, checked = len(messages), 0
    for at, message in enumerate(messages if items <= MAX_ITEMS else ()):
        parts = _check_message(message, at) or ()
        items, checked = items + len(parts), checked + 1 + len(message)
        for number, part in enumerate(parts if items <= MAX_ITEMS else ()):
            checked += 1
            if isinstance(part, dict) and not part.keys() <= MESSAGE_FIELDS:
                checked += len(part)
                check_spelling(part, MESSAGE_FIELDS, f"messages[{at}].content[{number}]")
            if checked > CHECKED_PER_STEP:
                checked = 0
                yield
        if checked > CHECKED_PER_STEP:
            checked = 0
            yield
    if items > MAX_ITEMS:
        raise _too_many_items()
    settle_fields(body)
    return items


def _messages_of(body: dict[str, Any]) -> list[Any]:
    """Return the messages of *body*; raise `BadRequest` unless it has a list of them, and the names of its fields are plain."""
    if not body.keys() <= COMMON_FIELDS:
        check_spelling(body, CHECKED_FIELDS)
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        msg = "'messages' must be a non-empty list of messages."
        raise BadRequest(msg, "messages")
    return messages


def _too_many_items() -> BadRequest:
    return BadRequest(f"'messages' has more than {MAX_ITEMS} messages and parts in all.", "messages")


def settle_fields(body: dict[str, Any]) -> None:
    """Write the numbers and switches of *body* as all servers read them, and check its names of models and of the user.

    Raises `BadRequest`.
    """
    if not _CEILING_FIELDS.isdisjoint(body):
        settle_ceilings(body)
    if not _CHOICE_FIELDS.isdisjoint(body):
        settle_choices(body)
    if not isinstance(body.get("stream", False), bool):
        _settle_stream(body)
    model = body.get("model")
    if model is not None and (not isinstance(model, str) or len(model) > MAX_MODEL_ID_LENGTH or "\0" in model):
        raise _bad_name(model, "model")
    if "models" in body:
        _check_models(body["models"])
    if "user" in body:
        _check_user(body["user"])
    if "stream_options" in body:
        _settle_stream_options(body)


def positive_integer(value: object, field: str) -> int | None:
    """Return *value* if it is None or an integer from 1 to 2^53 - 1; raises `BadRequest` for *field* otherwise."""
    if value is None or (type(value) is int and 1 <= value <= MAX_SAFE_INTEGER):
        return value
    msg = f"'{field}' must be a positive integer, at most {MAX_SAFE_INTEGER}."
    raise BadRequest(msg, field)


def check_type(body: dict[str, Any], field: str, expected: type, description: str) -> None:
    """Raise `BadRequest` unless *field* is absent, null or of the *expected* type, which the error calls *description*."""
    value = body.get(field)
    if value is not None and not isinstance(value, expected):
        msg = f"'{field}' must be {description}."
        raise BadRequest(msg, field)


def _settle_stream(body: dict[str, Any]) -> None:
    """Write `stream` as a boolean; null stays, and is false. Raises `BadRequest` where servers differ about its meaning."""
    if body["stream"] is None:
        return
    if (stream := as_switch(body["stream"])) is None:
        msg = "'stream' must be true or false."
        raise BadRequest(msg, "stream")
    body["stream"] = stream


def _settle_stream_options(body: dict[str, Any]) -> None:
    """Write `include_usage` as a boolean where servers agree about it, and drop `stream_options` that are no object.

    The sidecar asks upstream for the usage of every stream, so the client's value decides only what the client gets.
    """
    options = body["stream_options"]
    if options is None:
        return
    if not isinstance(options, dict):
        del body["stream_options"]
        return
    if not options.keys() <= STREAM_OPTIONS:
        check_spelling(options, STREAM_OPTIONS, "stream_options")
    shown = options.get("include_usage")
    if shown is not None and not isinstance(shown, bool) and (shown := as_switch(shown)) is not None:
        options["include_usage"] = shown


def _check_models(models: object) -> None:
    """Raise `BadRequest` unless the fallbacks of a router are a list of names that allow-lists and prices can read."""
    if models is None:
        return
    if not isinstance(models, list):
        msg = "'models' must be a list of names."
        raise BadRequest(msg, "models")
    if len(models) > MAX_MODELS:
        msg = f"'models' has {len(models)} names; send at most {MAX_MODELS}."
        raise BadRequest(msg, "models")
    for at, model in enumerate(models):
        if not isinstance(model, str) or len(model) > MAX_MODEL_ID_LENGTH or "\0" in model:
            raise _bad_name(model, f"models[{at}]")


def _bad_name(model: object, field: str) -> BadRequest:
    """Return the refusal of the name of a *model* that allow-lists and prices cannot read."""
    if not isinstance(model, str):
        msg = f"'{field}' must be a string."
    elif len(model) > MAX_MODEL_ID_LENGTH:
        msg = f"'{field}' has {len(model)} characters; a model's name has at most {MAX_MODEL_ID_LENGTH}."
    else:
        msg = f"'{field}' has a NUL character (\\u0000). Remove it: some servers cut the name there."
    return BadRequest(msg, field)


def _check_user(user: object) -> None:
    """Raise `BadRequest` for a long name: each policy that counts by user hashes it."""
    if isinstance(user, str) and len(user) > MAX_USER_LENGTH:
        msg = f"'user' has {len(user)} characters; send at most {MAX_USER_LENGTH}."
        raise BadRequest(msg, "user")


def check_spelling(data: dict[str, Any], fields: Collection[str], where: str = "") -> None:
    """Raise `BadRequest` for a key that equals one of *fields* except for case, or up to a NUL character.

    Servers in Go accept the one as that field, servers in C the other. *where* is the path of *data* in the body. It also
    raises for too many keys. A key does not become shorter in another case, so that longer keys need no conversion.
    """
    if len(data) > MAX_FIELDS:
        msg = f"'{where}' has {len(data)} fields" if where else f"The body has {len(data)} fields"
        raise BadRequest(f"{msg}; send at most {MAX_FIELDS}.", where or None)
    for key in data.keys() - fields:
        start = key[: _LONGEST_FIELD + 1].partition("\0")[0]
        if len(start) <= _LONGEST_FIELD and (right := start.casefold()) in fields:
            path, written = (f"{where}." if where else ""), key[:MAX_SHOWN_KEY]
            msg = (
                f"'{path}{written}' must be spelt '{path}{right}': to some servers it is the same field, to others not."
            )
            raise BadRequest(msg, path + written)


def _check_message(message: object, at: int) -> list[Any] | None:
    """Raise `BadRequest` unless policies can read *message*; return its parts, which are to be checked too."""
    if not isinstance(message, dict):
        msg = f"'messages[{at}]' must be an object with 'role' and 'content'."
        raise BadRequest(msg, f"messages[{at}]")
    if not message.keys() <= MESSAGE_FIELDS:
        check_spelling(message, MESSAGE_FIELDS, f"messages[{at}]")
    if not isinstance(message.get("role", ""), str) and message["role"] is not None:
        msg = f"'messages[{at}].role' must be a string."
        raise BadRequest(msg, f"messages[{at}].role")
    content = message.get("content")
    if isinstance(content, str):
        return None
    if isinstance(content, list):
        return content
    if isinstance(content, dict) and not content.keys() <= MESSAGE_FIELDS:
        check_spelling(content, MESSAGE_FIELDS, f"messages[{at}].content")
    return None


def asked_for_usage(options: object) -> bool:
    """Whether *options*, a client's `stream_options`, ask for the chunk with the usage."""
    return isinstance(options, dict) and options.get("include_usage") is True
