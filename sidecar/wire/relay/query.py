"""The query of a relayed request: bounded, without credentials, and with the models that it names."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from typing import NamedTuple
from urllib.parse import unquote_plus

from sidecar.wire.request.client_headers import is_credential_name
from sidecar.wire.request.json_body import BadRequest
from sidecar.wire.request.routing_fields import is_routing_name

MAX_QUERY_BYTES = 4_096
MAX_PARAMETERS = 64
_PLAIN_QUERY = re.compile(rb"(?:[A-Za-z0-9\-._~!$'()*+,:@/?&=\[\]]|%[0-9A-Fa-f]{2})*")
"""Characters of a query (RFC 3986, 3.4), and brackets. Without `;`, which some servers read as `&`."""
MODEL_PARAMETERS = frozenset({"model", "model_id", "model_name"})


class RelayedQuery(NamedTuple):
    """The query as it is sent, and what it names. *routing* is the first parameter that may choose a model or a server."""

    text: str
    models: tuple[str, ...] = ()
    routing: str = ""


NO_QUERY = RelayedQuery("")


def relayed_query(raw: bytes, own: Collection[str] = ()) -> RelayedQuery:
    """Return the query *raw* without credentials, which name an account, and without the parameters *own* of the upstreams.

    *own* is in lower case: some servers, such as Azure, ignore case in names.

    Raises `BadRequest` for a query that is too long or has characters that servers read in several ways.
    """
    if not raw:
        return NO_QUERY
    pairs = raw.split(b"&", MAX_PARAMETERS + 1)
    if len(raw) > MAX_QUERY_BYTES or len(pairs) > MAX_PARAMETERS:
        msg = f"The query has more than {MAX_QUERY_BYTES} bytes or {MAX_PARAMETERS} parameters. Send a shorter one."
        raise BadRequest(msg)
    if _PLAIN_QUERY.fullmatch(raw) is None:
        msg = "The query has characters that must be escaped, such as ';' or a percent sign without two digits."
        raise BadRequest(msg)
    kept: list[str] = []
    models: list[str] = []
    routing = ""
    for name, value, pair in _decoded(pairs):
        if is_credential_name(name) or name.lower() in own:
            continue
        if name.lower() in MODEL_PARAMETERS:
            models.append(value)
        elif not routing and is_routing_name(name):
            routing = name
        kept.append(pair)
    return RelayedQuery("&".join(kept), tuple(models), routing)


def _decoded(pairs: list[bytes]) -> Iterator[tuple[str, str, str]]:
    """Yield name and value, decoded, and the text of each pair that is not empty."""
    for raw in pairs:
        if raw:
            pair = raw.decode("ascii")
            name, _, value = pair.partition("=")
            yield unquote_plus(name), unquote_plus(value), pair
