"""The routes of stored responses and conversations: their paths, query parameters and body fields.

Sources: openai-python, `resources/responses` and `resources/conversations`. A path is rebuilt from ids that have been
checked, and only documented parameters and fields pass.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple
from urllib.parse import parse_qsl

import msgspec

from sidecar.wire.request.json_body import BadRequest

from .references import CONVERSATION_FIELD, INPUT_FIELD, ITEMS_FIELD, PREVIOUS_FIELD, StoredKind, is_stored_id

RESPONSES_PATH, CONVERSATIONS_PATH = "/v1/responses", "/v1/conversations"
RESPONSE_ROUTE = "/v1/responses/{id}"
"""Routes with ids are no paths themselves: `stored_route` finds them."""
CANCEL_ROUTE = "/v1/responses/{id}/cancel"
INPUT_ITEMS_ROUTE = "/v1/responses/{id}/input_items"
INPUT_TOKENS_PATH, COMPACT_PATH = "/v1/responses/input_tokens", "/v1/responses/compact"
CONVERSATION_ROUTE = "/v1/conversations/{id}"
ITEMS_ROUTE = "/v1/conversations/{id}/items"
ITEM_ROUTE = "/v1/conversations/{id}/items/{item}"

INPUT_TOKENS_FIELDS = frozenset(
    {
        PREVIOUS_FIELD, CONVERSATION_FIELD, INPUT_FIELD, "instructions", "model", "parallel_tool_calls", "personality",
        "reasoning", "text", "tool_choice", "tools", "truncation",
    }
)  # fmt: skip
_LIST_PARAMETERS = frozenset({"after", "include", "include[]", "limit", "order"})
_ITEM_PARAMETERS = frozenset({"include", "include[]"})
MAX_QUERY_PARAMETERS, MAX_PARAMETER_LENGTH = 32, 512
"""Query parameters that pass, and characters of each."""
PLAIN_REQUEST_STATE = "sidecar.plain_request"
"""The key in a call's `state` under which its `PlainRequest` is."""


class Method(NamedTuple):
    """What one method of a route takes: the names of query parameters, and of body fields (None: no body)."""

    parameters: Collection[str] = ()
    fields: Collection[str] | None = None


class StoredPath(NamedTuple):
    """One route: its path, the kind of object that its first id names, and its methods."""

    path: str
    kind: StoredKind
    methods: Mapping[str, Method]


STORED_PATHS: Mapping[str, StoredPath] = {
    each.path: each
    for each in (
        StoredPath(
            RESPONSE_ROUTE,
            "response",
            {"GET": Method(_ITEM_PARAMETERS | {"include_obfuscation", "starting_after"}), "DELETE": Method()},
        ),
        StoredPath(CANCEL_ROUTE, "response", {"POST": Method()}),
        StoredPath(INPUT_ITEMS_ROUTE, "response", {"GET": Method(_LIST_PARAMETERS)}),
        StoredPath(INPUT_TOKENS_PATH, "response", {"POST": Method(fields=INPUT_TOKENS_FIELDS)}),
        StoredPath(CONVERSATIONS_PATH, "conversation", {"POST": Method(fields={ITEMS_FIELD, "metadata"})}),
        StoredPath(
            CONVERSATION_ROUTE,
            "conversation",
            {"GET": Method(), "POST": Method(fields={"metadata"}), "DELETE": Method()},
        ),
        StoredPath(
            ITEMS_ROUTE,
            "conversation",
            {"GET": Method(_LIST_PARAMETERS), "POST": Method(_ITEM_PARAMETERS, {ITEMS_FIELD})},
        ),
        StoredPath(ITEM_ROUTE, "conversation", {"GET": Method(_ITEM_PARAMETERS), "DELETE": Method()}),
    )
}
"""The routes by their path as calls and records name it."""


class PlainRequest(msgspec.Struct, frozen=True):
    """A request to upstream that generates nothing. *path* is below the base URL, made of checked parts.

    *route* is the path without ids, for logs, and *id* the first id in it. *has_body*: the body of the call is sent.
    *has_model*: the body names a model, by the upstream's own name.
    """

    method: str
    path: str
    route: str
    id: str = ""
    query: Sequence[tuple[str, str]] = ()
    has_body: bool = False
    has_model: bool = False


def stored_route(path: str) -> str | None:
    """Return the route with ids that serves *path*; None for any other path. Whether the ids are valid is not checked."""
    if not path.startswith((f"{RESPONSES_PATH}/", f"{CONVERSATIONS_PATH}/")):
        return None
    parts = path.removesuffix("/").split("/", 6)[1:]
    if "/" + "/".join(parts[:3]) in (INPUT_TOKENS_PATH, COMPACT_PATH):
        return None
    for number, name in ((2, "{id}"), (4, "{item}")):
        if len(parts) > number:
            parts[number] = name
    found = "/" + "/".join(parts)
    return found if "{" in found and found in STORED_PATHS else None


def ids_in(path: str) -> tuple[str, ...] | None:
    """Return the ids in *path*, the decoded path of a request to a stored object; None if one of them is no valid id."""
    found = tuple(path.removesuffix("/").split("/", 6)[3::2])
    return found if all(map(is_stored_id, found)) else None


def passed_query(query: bytes, parameters: Collection[str]) -> list[tuple[str, str]]:
    """Return the pairs in the *query* string whose names are among *parameters*; others are left out.

    Raises `BadRequest` for `stream`, if it is not false: a stored answer is not streamed. Also for too many or too long ones.
    """
    try:
        pairs = parse_qsl(query.decode("ascii", "replace"), keep_blank_values=True, max_num_fields=MAX_QUERY_PARAMETERS)
    except ValueError:
        msg = f"The URL has more than {MAX_QUERY_PARAMETERS} query parameters."
        raise BadRequest(msg) from None
    found = []
    for name, value in pairs:
        if name == "stream" and value.lower() not in ("", "false", "0"):
            msg = "'stream' must be false: a stored response is sent as one JSON object. Stream it when it is created."
            raise BadRequest(msg, "stream")
        if name in parameters:
            if len(value) > MAX_PARAMETER_LENGTH:
                msg = f"'{name}' has {len(value)} characters; send at most {MAX_PARAMETER_LENGTH}."
                raise BadRequest(msg, name)
            found.append((name, value))
    return found
