"""The routes of stored objects: which path is which, and what of a query passes."""

from __future__ import annotations

import pytest

from sidecar.wire.request.json_body import BadRequest
from sidecar.wire.stored.paths import STORED_PATHS, ids_in, passed_query, stored_route


@pytest.mark.parametrize(
    ("path", "route", "ids"),
    [
        ("/v1/responses/resp_1", "/v1/responses/{id}", ("resp_1",)),
        ("/v1/responses/resp_1/", "/v1/responses/{id}", ("resp_1",)),
        ("/v1/responses/resp_1/cancel", "/v1/responses/{id}/cancel", ("resp_1",)),
        ("/v1/responses/resp_1/input_items", "/v1/responses/{id}/input_items", ("resp_1",)),
        ("/v1/conversations/c", "/v1/conversations/{id}", ("c",)),
        ("/v1/conversations/c/items", "/v1/conversations/{id}/items", ("c",)),
        ("/v1/conversations/c/items/m", "/v1/conversations/{id}/items/{item}", ("c", "m")),
        ("/v1/responses/..", "/v1/responses/{id}", None),
        ("/v1/responses//cancel", "/v1/responses/{id}/cancel", None),
        ("/v1/responses/a b", "/v1/responses/{id}", None),
        ("/v1/conversations/c/items/..", "/v1/conversations/{id}/items/{item}", None),
    ],
)
def test_paths_lead_to_their_routes(path: str, route: str, ids: tuple[str, ...] | None) -> None:
    """Each path has one route; an id that could lead elsewhere is none."""
    assert (stored_route(path), ids_in(path)) == (route, ids)


@pytest.mark.parametrize(
    "path",
    [
        "/v1/responses",
        "/v1/responses/",
        "/v1/responses/r/other",
        "/v1/responses/r/cancel/x",
        "/v1/responses/input_tokens/",
        "/v1/responses/compact/cancel",
        "/v1/conversations/c/items/m/x",
        "/v1/conversations/c/cancel",
        "/v1/conversations/",
        "/v1/models/m",
    ],
)
def test_other_paths_have_no_route(path: str) -> None:
    """Paths that are not listed are not served."""
    assert stored_route(path) is None


def test_known_parameters_pass() -> None:
    """Documented parameters pass, also repeated ones; others are left out, and so is a stream that is off."""
    query = b"include[]=a.b&include[]=c&limit=5&after=msg_1&stream=false&secret=1&include%5B%5D=d"
    assert passed_query(query, STORED_PATHS["/v1/responses/{id}/input_items"].methods["GET"].parameters) == [
        ("include[]", "a.b"),
        ("include[]", "c"),
        ("limit", "5"),
        ("after", "msg_1"),
        ("include[]", "d"),
    ]


@pytest.mark.parametrize(("query", "param"), [(b"stream=true", "stream"), (b"stream=1", "stream"), (b"after=" + b"x" * 513, "after"), (b"a=1&" * 40, None)])  # fmt: skip
def test_streams_and_long_queries_are_refused(query: bytes, param: str | None) -> None:
    """A stored answer is not streamed, and the query is bounded."""
    with pytest.raises(BadRequest) as refused:
        passed_query(query, {"after"})
    assert refused.value.param == param
