"""Check that the installed uvicorn has the attributes that the server subclasses, overrides and reads.

`USED_NAMES`, `USED_CLASSES` and `CYCLE_FIELDS` list them, for the start and for the tests.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from typing import Any

import msgspec

TESTED_VERSIONS = ((0, 50), (0, 55))
"""Tested versions: at least the first, below the second. `pyproject.toml` has the same bounds."""
TESTED_RANGE = "uvicorn>=0.50,<0.55"

FLOW_CONTROL_MODULE = "uvicorn.protocols.http.flow_control"
HTTPTOOLS_MODULE = "uvicorn.protocols.http.httptools_impl"
SERVER_MODULE = "uvicorn.server"


class UsedClass(msgspec.Struct, frozen=True):
    """Used attributes of one class: methods with the parameters that are passed, and fields of a new instance.

    `assigned` holds fields that `__init__` does not assign, by the name of the method that does.
    """

    methods: Mapping[str, tuple[str, ...]] = {}
    fields: tuple[str, ...] = ()
    assigned: Mapping[str, tuple[str, ...]] = {}


USED_NAMES: dict[str, tuple[str, ...]] = {
    "uvicorn": ("Config", "Server", "__version__"),
    "uvicorn.config": ("STARTUP_FAILURE",),
    SERVER_MODULE: ("Server", "ServerState"),
    FLOW_CONTROL_MODULE: ("FlowControl", "HIGH_WATER_LIMIT"),
    HTTPTOOLS_MODULE: ("HttpToolsProtocol", "RequestResponseCycle", "STATUS_LINE"),
}
"""Names that the server imports, by module."""

ANNOTATION_NAMES: dict[str, tuple[str, ...]] = {"uvicorn._types": ("ASGIReceiveEvent", "HTTPScope")}
"""Names, by module, that only annotations use: the server runs without them, so the start does not check them."""

USED_CLASSES: dict[tuple[str, str], UsedClass] = {
    ("uvicorn", "Config"): UsedClass(
        methods={
            "__init__": (
                "app", "http", "ws", "lifespan", "log_config", "access_log", "server_header", "proxy_headers", "backlog",
                "timeout_keep_alive", "timeout_graceful_shutdown",
            ),
        },
    ),
    ("uvicorn", "Server"): UsedClass(
        methods={"serve": ("sockets",), "startup": ("sockets",), "capture_signals": ()},
        fields=("config", "server_state", "started", "should_exit", "force_exit"),
        assigned={"startup": ("servers",)},
    ),
    (SERVER_MODULE, "ServerState"): UsedClass(fields=("connections", "default_headers", "tasks", "total_requests")),
    (FLOW_CONTROL_MODULE, "FlowControl"): UsedClass(
        methods=dict.fromkeys(("drain", "pause_reading", "resume_reading", "pause_writing", "resume_writing"), ()),
        fields=("read_paused", "write_paused"),
    ),
    (HTTPTOOLS_MODULE, "HttpToolsProtocol"): UsedClass(
        methods={
            "connection_made": ("transport",),
            "connection_lost": ("exc",),
            "data_received": ("data",),
            "eof_received": (),
            "on_message_begin": (),
            "on_url": ("url",),
            "on_header": ("name", "value"),
            "on_headers_complete": (),
            "on_body": ("body",),
            "on_message_complete": (),
            "on_response_complete": (),
            "pause_writing": (),
            "resume_writing": (),
            "send_400_response": ("msg",),
            "shutdown": (),
            "timeout_keep_alive_handler": (),
            "_unset_keepalive_if_required": (),
        },
        fields=(
            "app", "app_state", "asgi_version", "client", "config", "connections", "cycle", "expect_100_continue", "flow",
            "headers", "loop", "parser", "root_path", "scheme", "server", "server_state", "tasks", "timeout_keep_alive",
            "timeout_keep_alive_task", "transport", "url",
        ),
    ),
    (HTTPTOOLS_MODULE, "RequestResponseCycle"): UsedClass(
        methods={"run_asgi": ("app",), "send_500_response": (), "send": ("message",), "receive": ()},
    ),
}  # fmt: skip
"""Methods and fields by module and class. `on_message_begin` assigns `url`, `__init__` the other fields."""

CYCLE_FIELDS = frozenset(
    {"scope", "transport", "flow", "logger", "access_logger", "access_log", "default_headers", "message_event"}
    | {"on_response", "disconnected", "keep_alive", "waiting_for_100_continue", "body", "more_body"}
    | {"response_started", "response_complete", "chunked_encoding", "expected_content_length"}
)
"""All fields of a `RequestResponseCycle`. `RequestCycle` assigns them itself, so a new field is a fault too."""


def faults(load: Callable[[str], Any] = import_module) -> list[str]:
    """Return the attributes that the installed uvicorn lacks or adds; empty if it is compatible.

    *load* imports a module.
    """
    found: list[str] = []
    for module, names in USED_NAMES.items():
        try:
            loaded = load(module)
        except ImportError:
            found.append(f"no module {module}")
            continue
        found += [f"no {module}.{name}" for name in names if not hasattr(loaded, name)]
    if found:
        return found
    for (module, name), used in USED_CLASSES.items():
        kind = getattr(load(module), name)
        found += [fault for method, wanted in used.methods.items() for fault in _method(kind, method, wanted)]
        found += [
            f"no field {name}.{field}"
            for method, fields in used.assigned.items()
            for field in fields
            if field not in getattr(getattr(kind, method, None), "__code__", _method.__code__).co_names
        ]
    if found:
        return found
    made = _instances(load)
    for (_, name), used in USED_CLASSES.items():
        has = _fields(made[name]) if name in made else ()
        found += [f"no field {name}.{field}" for field in used.fields if field not in has]
    fields = set(vars(made["RequestResponseCycle"]))
    found += [f"no field RequestResponseCycle.{each}" for each in sorted(CYCLE_FIELDS - fields)]
    found += [f"a new field RequestResponseCycle.{each}" for each in sorted(fields - CYCLE_FIELDS)]
    return found


def warning(version: str) -> str | None:
    """Return a warning if *version* of uvicorn is outside the tested range."""
    try:
        numbers = tuple(int(each) for each in version.split(".")[:2])
    except ValueError:
        numbers = ()
    if TESTED_VERSIONS[0] <= numbers < TESTED_VERSIONS[1]:
        return None
    return f"uvicorn {version} is not tested; tested versions: {TESTED_RANGE}"


def error(version: str, problems: Iterable[str]) -> str:
    """Return the message for an incompatible *version*: its *problems*, and the versions to install."""
    return f"uvicorn {version} is not compatible: {', '.join(problems)}; install a tested version: '{TESTED_RANGE}'"


def _method(kind: type, name: str, wanted: tuple[str, ...]) -> Iterable[str]:
    method = getattr(kind, name, None)
    if not callable(method):
        yield f"no method {kind.__name__}.{name}"
        return
    parameters = inspect.signature(method).parameters
    for each in wanted:
        if each not in parameters:
            yield f"no parameter {each!r} of {kind.__name__}.{name}"


def _instances(load: Callable[[str], Any]) -> dict[str, Any]:
    """Return one object of each class, created as uvicorn does it, on a transport that does nothing."""
    uvicorn, tools = load("uvicorn"), load(HTTPTOOLS_MODULE)
    config = uvicorn.Config(_application, ws="none", lifespan="off", log_config=None)
    state = load(SERVER_MODULE).ServerState()
    protocol = tools.HttpToolsProtocol(config=config, server_state=state, app_state={}, _loop=object())
    protocol.on_message_begin()
    parameters = inspect.signature(tools.RequestResponseCycle).parameters
    return {
        "Config": config,
        "Server": uvicorn.Server(config),
        "ServerState": state,
        "FlowControl": load(FLOW_CONTROL_MODULE).FlowControl(asyncio.Transport()),
        "HttpToolsProtocol": protocol,
        "RequestResponseCycle": tools.RequestResponseCycle(**dict.fromkeys(parameters)),
    }


def _fields(made: Any) -> set[str]:
    return set(dir(made))


async def _application(scope: Any, receive: Any, send: Any) -> None:
    """Do nothing; `uvicorn.Config` needs an application."""
