"""Claims: by what a limit counts."""

from __future__ import annotations

from policies.api.claim import identity
from policies.testing import make_call


def test_identity_depends_on_by() -> None:
    """A limit counts by the configured fields; a user belongs to its tenant; odd names stay short and distinct."""
    call = make_call("hi", tenant="acme", ip="10.0.0.1", body={"user": "ann"})

    alone = [identity(call, by) for by in ("tenant", "ip", "model", "global")]
    assert alone == [("acme", None), ("10.0.0.1", ""), ("test-model", ""), ("", None)]
    assert identity(call, "user") == ("acme\x1eann", "acme")
    assert identity(call, ["tenant", "model"]) == ("acme\x1etest-model", "acme")
    assert identity(call, ["tenant", "global"]) == ("acme\x1e", None)
    odd = [
        identity(make_call("hi", body={"user": name}), "user").name
        for name in ("a\x1fb", "a\x1eb", "x" * 10**6, "a\x1fb")
    ]
    assert len(set(odd)) == 3
    assert all(len(name) < 100 and name.count("\x1e") == 1 and "\x1f" not in name for name in odd)
