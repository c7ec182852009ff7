"""Which upstream serves a model: by `serves`, aliases and lists; and the nearest names of an unknown one."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from sidecar.config.upstream import ResolvedUpstream
from sidecar.upstream.routing.listed_names import MAX_MODEL_NAME_LENGTH, Fit, ListedNames
from sidecar.upstream.routing.model_listing import ModelListing
from sidecar.upstream.routing.served_models import fit_of, knows_its_models, stated_names
from sidecar.upstream.routing.unknown_model import MAX_NEAREST_NAMES, MAX_READ_NAMES, nearest_names, unknown_model


class Serves(msgspec.Struct):
    """An upstream with *settings* that has listed *listed*, or nothing yet."""

    settings: ResolvedUpstream
    listing: ModelListing


async def _no_read() -> bytes:
    return b""


def up(listed: list[str] | None = None, **settings: Any) -> Serves:
    listing = ModelListing("up", _no_read, lambda: 0.0, print)
    listing.names, listing.is_current = None if listed is None else ListedNames(listed), listed is not None
    return Serves(ResolvedUpstream(base_url="http://h/v1", name="up", **settings), listing)


@pytest.mark.parametrize(
    ("upstream", "model", "fit"),
    [
        (up(serves=("llama-*",)), "llama-3", Fit.SERVED),
        (up(serves=("llama-*",)), "LLAMA-3", Fit.SERVED),
        (up(serves=("llama-*",)), "qwen", Fit.NOT),
        (up(serves=("m",)), "m:latest", Fit.SERVED),
        (up(serves=("m:latest",)), "m", Fit.SERVED),
        (up(serves=("m",), models={"chat": "m"}), "chat", Fit.SERVED),
        (up(serves=("chat",), models={"chat": "m"}), "chat", Fit.SERVED),
        (up(serves=("chat",), models={"chat": "m"}), "m", Fit.NOT),
        (up(["m"], serves=("x",)), "m", Fit.NOT),
        (up(serves=("*",)), "x" * (MAX_MODEL_NAME_LENGTH + 1), Fit.NOT),
        (up(), "m", Fit.NOT),
        (up(["m"]), "m", Fit.SERVED),
        (up(["m"]), "M", Fit.OTHER_CASE),
        (up(["m"]), "n", Fit.NOT),
        (up(["m"]), "", Fit.NOT),
        (up(models={"chat": "m"}), "chat", Fit.SERVED),
        (up(models={"gpt-*": "m"}), "gpt-4o", Fit.SERVED),
        (up(models={"*": "m"}), "gpt-4o", Fit.CATCH_ALL),
        (up(["m", "gpt-4o"], models={"*": "m"}), "gpt-4o", Fit.CATCH_ALL),
        (up(["m"], models={"*": "m"}), "m", Fit.SERVED),
        (up(models={"*": "m"}), "m", Fit.CATCH_ALL),
    ],
)
def test_fit(upstream: Serves, model: str, fit: Fit) -> None:
    """`serves` decides alone where it is set; else aliases and lists do, and the alias `*` fits least."""
    assert fit_of(upstream, model) is fit


def test_known_models() -> None:
    """The models of an upstream are known by `serves`, or by a list; their names are those of aliases and of either."""
    assert [knows_its_models(each) for each in (up(), up(["m"]), up(serves=("m*",)))] == [False, True, True]
    aliases = {"chat": "m", "x-*": "m"}
    assert list(stated_names(up(["m", "n"], models=aliases))) == ["chat", "m", "n"]
    assert list(stated_names(up(["m"], serves=("a", "b-*"), models=aliases))) == ["chat", "a"]


@pytest.mark.parametrize(
    ("asked", "permitted", "expected"),
    [
        ("lama-3", None, ["llama-3", "llama-3.1"]),
        ("LLAMA-3", None, ["llama-3", "llama-3.1"]),
        ("lama-3", ["*.1"], ["llama-3.1"]),
        ("lama-3", ["qwen"], []),
        ("zzz", None, []),
        ("x" * 1_000_000, None, []),
    ],
)
def test_nearest_names(asked: str, permitted: list[str] | None, expected: list[str]) -> None:
    """The nearest names come first, in any case, and only those that the key may use."""
    assert nearest_names(asked, ["qwen-2.5", "llama-3", "llama-3.1"], permitted) == expected


def test_nearest_of_many_names() -> None:
    """Among thousands of names, those that share a word with the requested one are compared, and three are shown."""
    names = [*(f"other-{at}" for at in range(4_000)), *(f"llama-{at}" for at in range(20))]
    found = nearest_names("llama-7b", names, None)
    assert len(found) == MAX_NEAREST_NAMES
    assert all(name.startswith("llama-") for name in found)


class Counted(str):
    """A name that counts how often its characters are read in lower case."""

    __slots__ = ()
    reads = 0

    def __getitem__(self, at: Any) -> Counted:
        return Counted(super().__getitem__(at))

    def lower(self) -> str:
        Counted.reads += 1
        return super().lower()


def test_each_known_name_is_read_once() -> None:
    """However many words the requested name has, each of the 5,000 names is searched once, for all of them."""
    Counted.reads = 0
    nearest_names(
        " ".join(f"{'abcdefghij'[at % 10] * 3}" for at in range(64)), (Counted(f"n{at}") for at in range(9_000)), None
    )
    assert Counted.reads == MAX_READ_NAMES


def test_message_is_bounded() -> None:
    """The message quotes at most 100 characters of a name."""
    refusal = unknown_model("x" * 5_000, ["x" * 250], None)
    assert (refusal.status, refusal.code, refusal.details) == (404, "model_not_found", {"param": "model"})
    assert len(refusal.message) < 300
