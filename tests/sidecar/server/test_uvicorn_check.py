"""uvicorn's attributes that the server relies on: listed once, present, and checked at start."""

from __future__ import annotations

import ast
import inspect
import tomllib
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import uvicorn
from places import ROOT
from process import program, ran
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from sidecar.server import process as server_process
from sidecar.server.http1 import client_protocol as lifetime
from sidecar.server.http1 import http_protocol as protocol
from sidecar.server.http1 import request_cycle as cycle
from sidecar.server.uvicorn_check import (
    ANNOTATION_NAMES,
    CYCLE_FIELDS,
    HTTPTOOLS_MODULE,
    TESTED_RANGE,
    TESTED_VERSIONS,
    USED_CLASSES,
    USED_NAMES,
    faults,
    warning,
)

OURS: list[tuple[type, type]] = [
    (protocol.HttpProtocol, HttpToolsProtocol),
    (lifetime.ClientProtocol, HttpToolsProtocol),
    (cycle.RequestCycle, RequestResponseCycle),
    (server_process._Server, uvicorn.Server),  # private: the list covers each subclass
]
START = """
import runpy, uvicorn, uvicorn.protocols.http.httptools_impl as tools
{change}
runpy.run_module("sidecar", run_name="__main__", alter_sys=True)
"""
SERVE = ("serve", "--upstream", "http://h/v1", "--port", "0")


def test_installed_version_is_compatible() -> None:
    """The installed uvicorn has every attribute that the server subclasses, overrides or reads, and is a tested version."""
    assert faults() == []
    assert all(hasattr(import_module(module), name) for module, names in ANNOTATION_NAMES.items() for name in names)
    assert warning(uvicorn.__version__) is None


@pytest.mark.parametrize(("ours", "theirs"), OURS)
def test_list_is_complete(ours: type, theirs: type) -> None:
    """Each attribute of uvicorn's class that ours overrides, or reads on itself, is on the list."""
    used = next(used for (module, name), used in USED_CLASSES.items() if name == theirs.__name__)
    listed = {*used.methods, *used.fields, *(field for fields in used.assigned.values() for field in fields)}
    listed |= CYCLE_FIELDS if theirs is RequestResponseCycle else set()
    overridden = {name for name in vars(ours) if name in vars(theirs) and not name.startswith("__")}
    tree = ast.parse(inspect.getsource(ours).strip())
    read = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self"
    }
    own = {
        name
        for kind in ours.__mro__
        if kind.__module__.startswith("sidecar")
        for name in (*vars(kind), *kind.__annotations__)
    }
    slots = {"gone", "_ready"}  # assigned by our own classes alone
    assert overridden <= listed
    assert read - own - slots <= listed


@pytest.mark.parametrize(
    ("attribute", "kind"), [("flow", "FlowControl"), ("server_state", "ServerState"), ("_server", "Server")]
)
def test_attributes_of_uvicorns_objects_are_listed(attribute: str, kind: str) -> None:
    """Each attribute that is read of uvicorn's flow control, state and server is on the list."""
    (used,) = (used for (_, name), used in USED_CLASSES.items() if name == kind)
    read = {
        node.attr
        for module in (cycle, lifetime, protocol, server_process)
        for node in ast.walk(ast.parse(inspect.getsource(module)))
        if isinstance(node, ast.Attribute)
        and ((isinstance(node.value, ast.Attribute) and node.value.attr == attribute)
             or (isinstance(node.value, ast.Name) and node.value.id == attribute.strip("_")))
    }  # fmt: skip
    assert read
    assert read - {"stop_listening"} <= {*used.methods, *used.fields}


@pytest.mark.parametrize("module", [cycle, lifetime, protocol, server_process])
def test_imported_names_are_listed(module: ModuleType) -> None:
    """Each name that is imported of uvicorn is on the list, and so is each module."""
    for node in ast.walk(ast.parse(inspect.getsource(module))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("uvicorn"):
            assert {alias.name for alias in node.names} <= set((USED_NAMES | ANNOTATION_NAMES)[node.module or ""])
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "uvicorn":
            assert node.attr in USED_NAMES["uvicorn"]


def without(module: str, *path: str) -> Callable[[str], Any]:
    """Return an import by which *module* lacks what is at *path*: a name, or a class and its attribute."""

    def load(name: str) -> Any:
        loaded = import_module(name)
        if name != module:
            return loaded
        names = {key: value for key, value in vars(loaded).items() if key != path[-1]}
        if len(path) > 1:
            parts = {key: value for key, value in vars(getattr(loaded, path[0])).items() if key not in ("__dict__", "__weakref__", path[1])}  # fmt: skip
            names[path[0]] = type(path[0], (), parts)
        return SimpleNamespace(**names)

    return load


@pytest.mark.parametrize(
    ("load", "fault"),
    [
        (without(HTTPTOOLS_MODULE, "STATUS_LINE"), f"no {HTTPTOOLS_MODULE}.STATUS_LINE"),
        (
            without(HTTPTOOLS_MODULE, "HttpToolsProtocol", "send_400_response"),
            "no method HttpToolsProtocol.send_400_response",
        ),
        (without("uvicorn", "Server", "capture_signals"), "no method Server.capture_signals"),
    ],
)
def test_missing_attribute_is_a_fault(load: Callable[[str], Any], fault: str) -> None:
    """A missing name, method or field is a fault with its name."""
    assert faults(load) == [fault]


def test_missing_module_is_a_fault() -> None:
    """A missing module is a fault with its name."""

    def load(name: str) -> Any:
        if name == HTTPTOOLS_MODULE:
            raise ModuleNotFoundError(name)
        return import_module(name)

    assert faults(load) == [f"no module {HTTPTOOLS_MODULE}"]


@pytest.mark.parametrize(("gone", "fault"), [(True, "no field"), (False, "a new field")])
def test_changed_fields_of_a_request_are_a_fault(monkeypatch: pytest.MonkeyPatch, gone: bool, fault: str) -> None:  # noqa: FBT001  # a column of the table
    """A field of uvicorn's request that is missing or new is a fault: our subclass sets them all itself."""
    before = RequestResponseCycle.__init__

    def changed(self: Any, **arguments: Any) -> None:
        before(self, **arguments)
        if gone:
            del self.more_body
        else:
            self.trailers = []

    changed.__signature__ = inspect.signature(before)  # type: ignore[attr-defined]  # `inspect` reads it
    monkeypatch.setattr(RequestResponseCycle, "__init__", changed)
    assert faults() == [f"{fault} RequestResponseCycle.{'more_body' if gone else 'trailers'}"]


@pytest.mark.parametrize(
    ("version", "tested"),
    [("0.49.0", False), ("0.50.0", True), ("0.54.2", True), ("0.55.0", False), ("1.0", False), ("dev", False)],
)
def test_untested_version_gets_a_warning(version: str, tested: bool) -> None:  # noqa: FBT001  # a column of the table
    """A version outside the tested range gets a warning that names the range."""
    message = warning(version)
    assert (message is None) == tested
    assert tested or message == f"uvicorn {version} is not tested; tested versions: {TESTED_RANGE}"


def test_dependencies_are_bounded() -> None:
    """The project's bounds of uvicorn are the tested range; Litestar has an upper bound too."""
    dependencies = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    first, end = (".".join(map(str, each)) for each in TESTED_VERSIONS)
    assert f"uvicorn>={first},<{end}" == TESTED_RANGE
    assert TESTED_RANGE in dependencies
    assert any(each.startswith("litestar>=") and ",<" in each for each in dependencies)


def test_incompatible_version_ends_the_start(tmp_path: Path) -> None:
    """The start ends with exit 2 and one line that names the version, what it lacks, and the tested range."""
    change = "uvicorn.__version__ = '0.99.0'; del tools.HttpToolsProtocol.on_url"
    code, out, err = ran(*SERVE, folder=tmp_path, command=("-c", START.format(change=change)))

    assert (code, out) == (2, "")
    assert err == (
        "sidecar: uvicorn 0.99.0 is not compatible: no method HttpToolsProtocol.on_url; "
        f"install a tested version: '{TESTED_RANGE}'\n"
    )


@pytest.mark.parametrize("workers", ["1", "2"])
def test_untested_version_starts_with_a_warning(tmp_path: Path, workers: str) -> None:
    """A complete version outside the tested range starts with one warning."""
    command = ("-c", START.format(change="uvicorn.__version__ = '0.99.0'"))
    log = tmp_path / "log"
    with program(*SERVE, "--workers", workers, folder=tmp_path, command=command, log=log) as running:
        assert running.line.startswith("sidecar listening on http://")
        assert running.stop() == 0

    assert (
        log.read_text().splitlines()[0]
        == f"sidecar: warning: uvicorn 0.99.0 is not tested; tested versions: {TESTED_RANGE}"
    )
