"""What the parts of a Redis URL mean."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.stores.redis.servers.url import DEFAULT_WAIT_MS, Address, RedisUrl


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("redis://h", {"nodes": (Address("h", 6379),)}),
        ("rediss://h:1/2", {"nodes": (Address("h", 1),), "is_encrypted": True, "database": 2}),
        ("valkeys://h", {"nodes": (Address("h", 6379),), "is_encrypted": True}),
        ("redis://a,b:2,[::1]:3/0", {"nodes": (Address("a", 6379), Address("b", 2), Address("::1", 3))}),
        ("redis://a,a:6379/", {"nodes": (Address("a", 6379),)}),
        ("redis://me:p%40%2F@h?wait=0", {"username": "me", "password": "p@/", "wait_ms": 0}),
        ("redis://:p@h?prefix=x", {"username": None, "password": "p", "prefix": "x", "wait_ms": DEFAULT_WAIT_MS}),
        (
            "redis+sentinel://a,b:1/name",
            {"nodes": (Address("a", 26379), Address("b", 1)), "service": "name", "database": 0},
        ),
        ("rediss+sentinel://u:p@a/name/3", {"service": "name", "database": 3, "is_encrypted": True, "username": "u"}),
        ("valkey+sentinel://a/n.a-m_e/", {"service": "n.a-m_e", "is_encrypted": False}),
        (
            "redis+unix:///run/a%20b.sock?db=4",
            {"nodes": (Address("/run/a b.sock", 0),), "is_socket": True, "database": 4},
        ),
    ],
)
def test_parts(text: str, expected: dict[str, object]) -> None:
    """Each form gives its servers, database, credentials and options."""
    parsed = RedisUrl.parse(text)
    assert {name: getattr(parsed, name) for name in expected} == expected


def test_representation_has_no_credentials() -> None:
    """Neither the representation nor the shown form has user or password."""
    parsed = RedisUrl.parse("redis://me:secret@h:1/2?prefix=p")
    assert (repr(parsed), parsed.shown) == ("RedisUrl('redis://h:1/2')", "redis://h:1/2")


@given(st.text(max_size=60).map("redis://".__add__) | st.text(max_size=60))
def test_any_text(text: str) -> None:
    """Any text is a URL or a ValueError; a URL that is shown can be parsed again and means the same servers."""
    try:
        parsed = RedisUrl.parse(text)
    except ValueError:
        return
    assert RedisUrl.parse(parsed.shown).nodes == parsed.nodes
