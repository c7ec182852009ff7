"""Which headers of an upstream's answer its client gets."""

from __future__ import annotations

from base64 import b64encode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.upstream.errors.secret_values import Secrets
from sidecar.wire.answer_headers import REQUEST_ID_NAMES, TIMING_NAMES, UPSTREAM_REQUEST_ID, passed_headers

SECRET = "sk-own-key-0123456789"
HOLDS_SECRET = Secrets([SECRET]).are_in


@pytest.mark.parametrize(
    ("fields", "passed"),
    [
        ([], []),
        ([(b"date", b"x"), (b"set-cookie", b"a=b"), (b"openai-organization", b"org-1")], []),
        ([(b"x-request-id", b"req_1")], [(UPSTREAM_REQUEST_ID, b"req_1")]),
        ([(b"request-id", b"req_1")], [(UPSTREAM_REQUEST_ID, b"req_1")]),
        ([(b"apim-request-id", b"a"), (b"x-request-id", b"x")], [(UPSTREAM_REQUEST_ID, b"x")]),
        ([(b"x-request-id", b"a b"), (b"apim-request-id", b"a")], [(UPSTREAM_REQUEST_ID, b"a")]),
        ([(b"x-request-id", b"first"), (b"x-request-id", b"second")], [(UPSTREAM_REQUEST_ID, b"first")]),
        ([(b"openai-version", b"2020-10-01"), (b"openai-processing-ms", b"123")], [(b"openai-processing-ms", b"123"), (b"openai-version", b"2020-10-01")]),
        ([(b"x-envoy-upstream-service-time", b"140")], [(b"x-envoy-upstream-service-time", b"140")]),
        ([(b"fireworks-server-processing-time", b"0.41")], [(b"fireworks-server-processing-time", b"0.41")]),
        ([(b"openai-processing-ms", b"at gpu7")], []),
        ([(b"openai-processing-ms", b"1" * 33)], []),
    ],
)  # fmt: skip
def test_request_id_and_times_pass(fields: list[tuple[bytes, bytes]], passed: list[tuple[bytes, bytes]]) -> None:
    """The request id passes under a name of its own, times under theirs; accounts, cookies and all others do not."""
    assert list(passed_headers(fields, HOLDS_SECRET)) == passed


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"caf\xc3\xa9",
        b"\xff",
        b"a\x00b",
        b"a\r\nb: c",
        b"x" * 129,
        SECRET.encode(),
        SECRET.upper().encode(),
        SECRET[3:15].encode(),
        b64encode(SECRET.encode()),
        SECRET.encode().hex().encode(),
        b"a%73b",
        b"a\\u0073",
        b"&#115;",
        b"=73=6b",
    ],
)
def test_invalid_request_id_is_dropped(value: bytes) -> None:
    """An id that is empty, long, not printable ASCII, or holds a part of a secret in any form is dropped, and raises nothing."""
    assert list(passed_headers([(b"x-request-id", value)], HOLDS_SECRET)) == []


NAMES = st.sampled_from([*REQUEST_ID_NAMES, *TIMING_NAMES, b"server"])


@given(st.lists(st.tuples(NAMES, st.binary(max_size=200)), max_size=12))
def test_passed_headers_can_be_sent(fields: list[tuple[bytes, bytes]]) -> None:
    """Whatever upstream sends, at most one value of each name passes, in bytes that can stand in a head."""
    passed = passed_headers(fields, HOLDS_SECRET)

    assert len({name for name, _ in passed}) == len(passed)
    for name, value in passed:
        assert name in (UPSTREAM_REQUEST_ID, *TIMING_NAMES)
        assert value.isascii()
        assert value.decode().isprintable()
        assert 0 < len(value) <= 128
