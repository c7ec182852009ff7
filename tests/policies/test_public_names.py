"""The public names of `policies`: help and annotations work for each, and old names warn."""

from __future__ import annotations

import inspect
import pydoc
import typing

import pytest

import policies
from policies.testing import FakeClock, make_process

NAMES = [name for name in policies.__all__ if isinstance(getattr(policies, name), type)]


@pytest.mark.parametrize("name", NAMES)
def test_annotations_can_be_read(name: str) -> None:
    """`inspect.signature` and `typing.get_type_hints` evaluate each annotation of each public class and method."""
    cls = getattr(policies, name)
    typing.get_type_hints(cls, include_extras=True)
    inspect.signature(cls, eval_str=True)
    for method, value in inspect.getmembers(cls, inspect.isfunction):
        if not method.startswith("__") and value.__module__.startswith("policies"):
            inspect.signature(value, eval_str=True)
            typing.get_type_hints(value, include_extras=True)


@pytest.mark.parametrize("name", NAMES)
def test_help_describes_each_class(name: str) -> None:
    """`help` describes each public class with a text of its own, with its methods."""
    cls = getattr(policies, name)
    assert cls.__doc__
    text = pydoc.plain(pydoc.render_doc(cls))
    for method, value in vars(cls).items():
        if inspect.isfunction(value) and not method.startswith("_"):
            assert method in text
            assert value.__doc__, f"{name}.{method}"


def test_all_names_exist() -> None:
    """Each name of `__all__` exists."""
    assert all(hasattr(policies, name) for name in policies.__all__)


@pytest.mark.parametrize(
    ("old", "new"), [("Hooks", "RunningPolicy"), ("NO_RETRY", "GIVE_UP"), ("Only", "Match"), ("Process", "Services")]
)
def test_old_names_warn(old: str, new: str) -> None:
    """A renamed name is still importable, with a warning that names the new one."""
    with pytest.warns(DeprecationWarning, match=f"policies.{old} is now policies.{new}"):
        assert getattr(policies, old) is getattr(policies, new)


def test_unknown_name_is_an_attribute_error() -> None:
    """A name that never was is an `AttributeError`."""
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        policies.Nothing  # noqa: B018  # the access is tested


def test_old_name_of_the_test_services_warns() -> None:
    """`make_process` of `policies.testing` still works, with a warning that names `make_services`."""
    clock = FakeClock()
    with pytest.warns(DeprecationWarning, match="make_process is now policies.testing.make_services"):
        services = make_process(clock=clock)
    assert services.clock is clock
