"""`forward_headers`: which client headers each upstream receives, and which names are refused at start."""

from __future__ import annotations

from pathlib import Path

import pytest
from api_keys import key
from checked_files import lines, loaded
from serving import settings_of, sidecar
from upstream_tables import FALLBACK, HI, busy, good, lists, table
from wire import Connection, upstream

from sidecar.wire.request.client_headers import (
    MAX_FORWARDED_VALUE_LENGTH,
    forwardable_headers,
    forwardable_names,
    scoped_to_tenant,
)

pytestmark = pytest.mark.anyio

V1 = "/v1/chat/completions"
UPSTREAM = "[[upstream]]\nbase_url = 'http://h/v1'\n"


def sent(request: Connection, *names: str) -> list[str | None]:
    """Return the values of the headers *names* that an upstream received."""
    return [request.header(name) for name in names]


async def test_each_upstream_gets_the_headers_that_it_names(tmp_path: Path) -> None:
    """An upstream receives the client headers that it names, and those that are always forwarded; no others."""
    async with upstream(busy) as first, upstream(good) as second, upstream(lists) as third:
        text = table(first.url, "forward_headers = ['X-Session-Id', 'anthropic-beta']")
        text += table(second.url, "forward_headers = ['x-team', 'anthropic-beta']") + table(third.url) + FALLBACK
        async with sidecar(settings_of(tmp_path, None, text)) as served:
            mine = ("X-SESSION-ID: s1", "x-team: blue", "Anthropic-Beta: b1", "x-other: o", "openai-beta: o1")
            status, _, _ = await served.post(V1, {"model": "m", **HI}, *mine)

    names = ("x-session-id", "x-team", "anthropic-beta", "x-other", "openai-beta")
    assert status == 200
    assert sent(first.requests[0], *names) == ["s1", None, "b1", None, "o1"]
    assert sent(second.requests[0], *names) == [None, "blue", "b1", None, "o1"]
    assert third.requests == []


async def test_headers_that_connection_names_are_not_forwarded(tmp_path: Path) -> None:
    """A client's header that `Connection` names ends at the sidecar, in whatever order they come (RFC 9110, 7.6.1)."""
    more = "forward_headers = ['x-session-id', 'x-team']"
    async with upstream(good) as up, sidecar(settings_of(tmp_path, None, table(up.url, more))) as served:
        mine = ("x-team: blue", "Connection: keep-alive, X-Session-Id", "x-session-id: s1", "connection: TraceParent")
        await served.post(V1, {"model": "m", **HI}, *mine, "traceparent: t")

    assert sent(up.requests[0], "x-team", "x-session-id", "traceparent", "connection") == ["blue", None, None, None]
    names = forwardable_names(["x-a"], keyed=False, passes_other_keys=False)
    for plain in (b"keep-alive", b"close", b"Keep-Alive, Close", b""):
        assert forwardable_headers([(b"connection", plain), (b"x-a", b"1")], names) == {"x-a": "1"}


async def test_headers_are_forwarded_with_the_list_of_models(tmp_path: Path) -> None:
    """The list of models is requested with the same headers as a completion."""
    more = "forward_headers = ['x-session-id']"
    async with upstream(lists) as up, sidecar(settings_of(tmp_path, None, table(up.url, more))) as served:
        await served.get("/v1/models", "x-session-id: s1")

    assert sent(up.requests[0], "x-session-id") == ["s1"]


async def test_clients_key_is_forwarded_from_other_headers_where_asked(tmp_path: Path) -> None:
    """`api-key` and `x-api-key` of a client go only to an upstream that sets `pass_authorization`, and never with keys."""
    mine = ("authorization: Bearer sk-1", "api-key: az-1", "x-api-key: an-1", "cookie: c=1")
    names = ("authorization", "api-key", "x-api-key", "cookie")
    seen = []
    for more, keys in (
        ((), ""),
        (("pass_authorization = true",), ""),
        (("pass_authorization = false",), ""),
        (("pass_authorization = true",), key("sk-1", "a")),
    ):
        async with upstream(good) as up:
            async with sidecar(settings_of(tmp_path, None, table(up.url, *more) + keys)) as served:
                status, _, _ = await served.post(V1, {"model": "m", **HI}, *mine)
            assert status == 200
            seen.append(sent(up.requests[0], *names))

    assert seen == [
        ["Bearer sk-1", None, None, None],
        ["Bearer sk-1", "az-1", "an-1", None],
        [None, None, None, None],
        [None, None, None, None],
    ]


def test_values_are_printable_ascii_and_bounded() -> None:
    """A value with other characters, or a longer one, is not forwarded."""
    names = forwardable_names(["x-a"], keyed=False, passes_other_keys=False)
    for value in (b"caf\xc3\xa9", b"a\tb", b"a\x00", b"x" * (MAX_FORWARDED_VALUE_LENGTH + 1)):
        assert forwardable_headers([(b"x-a", value), (b"x-title", b"t")], names) == {"x-title": "t"}
    longest = b"x" * MAX_FORWARDED_VALUE_LENGTH
    assert forwardable_headers([(b"x-a", longest)], names) == {"x-a": longest.decode()}


def test_values_of_a_repeated_header_are_joined() -> None:
    """The values of a repeated header are joined as one list; of the headers that are always forwarded the last counts."""
    names = forwardable_names(["anthropic-beta"], keyed=False, passes_other_keys=False)
    fields = [(b"anthropic-beta", b"a"), (b"x-title", b"1"), (b"anthropic-beta", b"b, c"), (b"x-title", b"2")]

    assert forwardable_headers(fields, names) == {"anthropic-beta": "a, b, c", "x-title": "2"}


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("x-*", "'x-*' contains a wildcard; name each header"),
        ("*", "'*' contains a wildcard; name each header"),
        ("x y", "'x y' is not a header name; use letters, digits and dashes"),
        ("x\\r\\nhost", "'x\\r\\nhost' is not a header name; use letters, digits and dashes"),
        *(
            (name, f"the sidecar sets or reads '{name}' itself; remove it")
            for name in ("Host", "Connection", "TE", "Content-Type", "content-length", "content-language", "Accept", "User-Agent", "x-request-id", "X-Profile", "x-event-schema", "X_Request_Id")
        ),
        *(
            (name, f"'{name}' changes how servers route or answer a request; remove it")
            for name in ("X-Forwarded-For", "x-forwarded-user", "Forwarded", "x-real-ip", "true-client-ip", "X-Original-URL", "x-rewrite-url", "X-HTTP-Method-Override", "range", "if-none-match", "X_Forwarded_Host")
        ),
        *(
            (name, f"'{name}' carries credentials of the client; remove it, and name your own secret in headers_env")
            for name in ("Authorization", "proxy-authorization", "Cookie", "api-key", "X-Api-Key", "x-goog-api-key", "x-litellm-api-key", "cf-aig-authorization", "helicone-auth", "ocp-apim-subscription-key", "x-amz-security-token", "cf-access-jwt-assertion", "private-token", "X_API_KEY", "DPoP", "x-amzn-oidc-data", "x-ms-token-aad-access-token", "ssl-client-cert")
        ),
        *(
            (name, f"'{name}' names the account at the upstream; set it in `headers`, or use pass_authorization")
            for name in ("OpenAI-Organization", "openai-project")
        ),
    ],
)  # fmt: skip
def test_header_that_must_not_cross_is_refused_at_start(tmp_path: Path, name: str, fault: str) -> None:
    """Credentials, hop-by-hop and routing headers, our own and wildcards are refused with key path and cure."""
    text = UPSTREAM + f'forward_headers = ["x-fine", "{name}"]'
    (line,) = lines(tmp_path, text, upstream=None)
    assert line == f"F: upstream[0].forward_headers[1]: {fault}"


@pytest.mark.parametrize(
    ("more", "fault"),
    [
        ("headers = { X-Team = 'a' }\nforward_headers = ['x-team']", "forward_headers[0]: 'x-team' is set twice (header names ignore case); remove one of them"),
        ("headers_env = { x-gate = 'G' }\nforward_headers = ['x-gate']", "forward_headers[0]: 'x-gate' is set twice (header names ignore case); remove one of them"),
        ("forward_headers = ['x-a', 'X-A']", "forward_headers[1]: 'X-A' is set twice (header names ignore case); remove one of them"),
        (f"forward_headers = {[f'x-{at}' for at in range(33)]}", "forward_headers: invalid value ['x-0', 'x-1', 'x-2', 'x-3', 'x-4', 'x-5', 'x-6', 'x-7', ...: expected a list of length <= 32; see `sidecar config` for an example"),
        ("forward_headers = [3]", "forward_headers[0]: invalid value 3: expected a string; see `sidecar config` for an example"),
    ],
)  # fmt: skip
def test_list_of_headers_is_checked(tmp_path: Path, more: str, fault: str) -> None:
    """A header that the upstream's own settings send is refused, as are duplicates and long lists."""
    assert lines(tmp_path, UPSTREAM + more, {"G": "x"}, upstream=None) == [f"F: upstream[0].{fault}"]


@pytest.mark.parametrize(
    "name",
    ["x-session-id", "anthropic-beta", "anthropic-version", "baggage", "x-max-tokens", "accept-language", "x-cache-key", "openai-beta", "x-stainless-lang"],
)  # fmt: skip
def test_plain_header_may_be_named(tmp_path: Path, name: str) -> None:
    """Headers that carry no credentials and change no routing may be named."""
    settings = loaded(tmp_path, UPSTREAM + f"forward_headers = ['{name.title()}']", upstream=None)
    assert settings.forward_headers == {name}


IDEMPOTENCY_KEY = "idempotency-key"


async def received(folder: Path, more: str, keys: str, *requests: tuple[str, ...]) -> list[list[str | None]]:
    """Return the two idempotency headers that the upstream received for each of *requests*, by their headers."""
    async with upstream(good) as up:
        async with sidecar(settings_of(folder, None, table(up.url, more) + keys)) as served:
            for headers in requests:
                status, _, body = await served.post(V1, {"model": "m", **HI, "stream": True}, *headers)
                assert status == 200, body
        return [sent(each, IDEMPOTENCY_KEY, "x-idempotency-key") for each in up.requests]


async def test_idempotency_key_is_scoped_by_tenant(tmp_path: Path) -> None:
    """With keys, the same idempotency key of two tenants differs at the upstream; of one tenant it stays the same."""
    keys = key("sk-1", "a") + key("sk-2", "a") + key("sk-3", "b")
    more = "forward_headers = ['X-Idempotency-Key']"
    mine = [
        (f"authorization: Bearer {token}", f"Idempotency-Key: {value}", f"x-idempotency-key: {value}")
        for token, value in (("sk-1", "k1"), ("sk-2", "k1"), ("sk-3", "k1"), ("sk-1", "k" * 5000))
    ]
    seen = await received(tmp_path, more, keys, *mine)
    restarted = await received(tmp_path, more, keys, *mine)

    assert seen == restarted
    (first, _), (same_tenant, _), (other_tenant, _), (long, _) = seen
    assert first == same_tenant
    assert len({first, other_tenant, long, "k1"}) == 4
    assert all(name is not None and len(name) == 64 and name.isalnum() for pair in seen for name in pair)
    assert all(one == other for one, other in seen)


async def test_idempotency_key_without_keys_is_forwarded_as_sent(tmp_path: Path) -> None:
    """Without keys there is one tenant, so the key is unchanged, also where the client has no account at the upstream."""
    for more in ("", "pass_authorization = false"):
        assert await received(tmp_path, more, "", (f"{IDEMPOTENCY_KEY}: k1",)) == [["k1", None]]


async def test_retries_keep_the_idempotency_key(tmp_path: Path) -> None:
    """The sidecar's own retries, and its fallback to another upstream, send the same idempotency key."""
    retry = FALLBACK + "[[policy]]\nuse = 'retry'\nattempts = 3\n"
    async with upstream(busy) as first, upstream(busy, good) as second:
        text = table(first.url) + table(second.url) + retry + key("sk-1", "a")
        async with sidecar(settings_of(tmp_path, None, text)) as served:
            mine = ("authorization: Bearer sk-1", f"{IDEMPOTENCY_KEY}: k1")
            status, _, _ = await served.post(V1, {"model": "m", **HI}, *mine)

    sent_keys = {each.header(IDEMPOTENCY_KEY) for each in (*first.requests, *second.requests)}
    assert (status, len(first.requests), len(second.requests)) == (200, 1, 2)
    assert sent_keys == {scoped_to_tenant("k1", "a")}


def test_scoped_keys_are_unambiguous() -> None:
    """No tenant can choose a value that becomes the key of another tenant."""
    pairs = [("b", "a"), ("a", "b"), ("ab", ""), ("", "ab"), ("1:b", "a"), ("b", "a:1"), ("a:1:b", ""), ("a1", "1a")]

    assert len({scoped_to_tenant(value, tenant) for value, tenant in pairs}) == len(pairs)
