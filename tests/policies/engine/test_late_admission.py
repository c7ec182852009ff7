"""Policies admit a call that another policy has rewritten to one that they apply to."""

from __future__ import annotations

import pytest

from policies import Budget, Call, Match, Policy
from policies.testing import make_call, make_services, serve

pytestmark = pytest.mark.anyio


class Rename(Policy, frozen=True):
    """Sets the model of a call to `to`, and counts."""

    to: str
    seen: list[str]

    async def admit(self, call: Call) -> None:
        self.seen.append(self.name)
        call.model = self.to


async def test_limit_applies_after_two_rewrites() -> None:
    """A limit admits a call that a policy rewrote which itself applied only after the rewrite of another one."""
    services, seen = make_services(), list[str]()
    policies = [
        Budget(name="expensive", tokens=100_000, match=Match(model="big*")),
        Rename(name="second", to="big-1", seen=seen, match=Match(model="mini")),
        Rename(name="first", to="mini", seen=seen),
    ]
    call = make_call("hi", services=services)
    await serve(policies, call)

    assert (call.model, seen) == ("big-1", ["first", "second"])
    assert [claim.policy for claim, _ in call.standings] == ["expensive"]


async def test_each_policy_admits_once() -> None:
    """Policies that rewrite a call for each other admit it once each."""
    seen: list[str] = []
    policies = [
        Rename(name="a", to="b", seen=seen, match=Match(model="a")),
        Rename(name="b", to="a", seen=seen, match=Match(model="b")),
        Rename(name="start", to="a", seen=seen),
    ]
    call = make_call("hi")
    await serve(policies, call)

    assert (call.model, seen) == ("a", ["start", "a", "b"])


class Move(Policy, frozen=True):
    """Sets the path of a call to `to`."""

    to: str

    async def admit(self, call: Call) -> None:
        call.path = self.to


async def test_limit_of_another_path_applies_after_a_rewrite() -> None:
    """A limit for one path admits a call that a policy has moved there, in the order of the file."""
    policies = [
        Budget(name="chat", tokens=100_000, match=Match(path="/api/chat")),
        Budget(name="images", tokens=100_000, match=Match(path="/v1/images")),
        Budget(name="all", tokens=100_000, match=Match(path=["/api/*"], model="*")),
        Move(name="move", to="/api/chat"),
    ]
    call = make_call("hi")
    await serve(policies, call)
    assert [claim.policy for claim, _ in call.standings] == ["chat", "all"]


class Note(Policy, frozen=True):
    """Notes its name where it admits."""

    seen: list[str]

    async def admit(self, call: Call) -> None:
        self.seen.append(self.name)


async def test_policies_behind_a_rewrite_of_the_path_keep_their_order() -> None:
    """Policies that follow the one which moves a call admit it in the order of the file; only those before it are late."""
    seen: list[str] = []
    policies = [
        Note(name="early chat", seen=seen, match=Match(path="/api/chat")),
        Note(name="early model", seen=seen, match=Match(path="/api/chat", model="none")),
        Move(name="move", to="/api/chat"),
        Note(name="chat", seen=seen, match=Match(path="/api/chat")),
        Note(name="old path", seen=seen, match=Match(path="/v1/*")),
        Move(name="back", to="/v1/chat/completions", match=Match(path="/api/chat")),
        Note(name="new path", seen=seen, match=Match(path="/v1/*")),
        Note(name="all", seen=seen),
    ]
    await serve(policies, make_call("hi"))
    assert seen == ["chat", "new path", "all", "old path"]
