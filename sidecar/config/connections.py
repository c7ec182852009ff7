"""Resolve how to connect to an `[[upstream]]`: TLS context, HTTP proxy, or a custom httpx transport."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from ssl import SSLContext, create_default_context
from typing import TYPE_CHECKING, cast

from sidecar.config.upstream import UpstreamSettings

from .named_objects import ObjectFault, load_object, object_of
from .proxies import Proxy, environment_proxy, parse_proxy
from .tables import ConfigFault

if TYPE_CHECKING:
    import httpx

ALPN_PROTOCOLS = ["http/1.1"]


def tls_of(settings: UpstreamSettings, path: str, folder: Path, faults: list[ConfigFault]) -> SSLContext | None:
    """Return the TLS context of `ca` and `client_cert`, or None without both; add a fault for an unusable file."""
    context: SSLContext | None = None
    try:
        if settings.ca is not None or settings.client_cert is not None:
            context = create_default_context(cafile=None if settings.ca is None else str(folder / settings.ca))
            context.set_alpn_protocols(ALPN_PROTOCOLS)
    except (OSError, ValueError) as error:  # OpenSSL's errors are OSErrors, also for a file without a certificate
        problem = f"cannot load certificates from {settings.ca!r}: {_reason(error)}"
        faults.append(ConfigFault(f"{path}.ca", problem, "name a PEM file, relative to the folder of this file"))
        return None
    if context is not None and settings.client_cert is not None:
        names = settings.client_cert
        files = [names, names] if isinstance(names, str) else names
        try:
            context.load_cert_chain(folder / files[0], folder / files[1], password=_no_password)
        except (OSError, ValueError) as error:
            problem = f"cannot load {', '.join(map(repr, dict.fromkeys(files)))}: {_reason(error)}"
            cure = "name a PEM file with the certificate and its unencrypted key, or a list of the two files"
            faults.append(ConfigFault(f"{path}.client_cert", problem, cure))
            return None
    return context


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


def _no_password() -> str:
    """Return an empty password, so that OpenSSL does not ask for one on the terminal."""
    return ""


def proxy_of(settings: UpstreamSettings, environ: Mapping[str, str], faults: list[ConfigFault]) -> Proxy | None:
    """Return the proxy of the setting `proxy`, else of *environ*; None for a direct connection.

    Adds a fault for an invalid proxy variable in *environ*.
    """
    if settings.transport is not None or settings.socket is not None:
        return None
    if settings.proxy is not None:
        return parse_proxy(settings.proxy)  # validated by the settings object
    found = environment_proxy(settings.base_url, environ)
    if found is None:
        return None
    variable, url = found
    try:
        return parse_proxy(url)
    except ValueError as error:
        problem, _, cure = str(error).partition("; ")
        fault = ConfigFault(variable, problem, f"{cure}, or name the host of base_url in NO_PROXY")
        if fault not in faults:
            faults.append(fault)
        return None


def factory_of(
    settings: UpstreamSettings, path: str, folder: Path, faults: list[ConfigFault], *, try_it: bool
) -> Callable[[], httpx.AsyncBaseTransport] | None:
    """Return the factory that `transport` names, as a function without arguments; None without one.

    The factory may take the settings as its one argument.  With *try_it* it is called once, so that its errors are faults
    of the configuration.  Each process creates its own transport.
    """
    if settings.transport is None:
        return None
    module, _, name = settings.transport.partition(":")
    try:
        found = load_object(lambda: object_of(module, name, folder, kind="factory"), folder)
        factory = _bound(found, settings)
        if try_it:
            _check_made(load_object(factory, folder))
    except ObjectFault as error:
        problem = f"cannot use {settings.transport!r}: {error.problem}"
        faults.append(ConfigFault(f"{path}.transport", problem, error.cure))
        return None
    return cast("Callable[[], httpx.AsyncBaseTransport]", factory)


def _bound(found: object, settings: UpstreamSettings) -> Callable[[], object]:
    """Return *found* as a function without arguments."""
    cure = "name a function that returns an httpx.AsyncBaseTransport"
    if not callable(found):
        raise ObjectFault(f"an object of type {type(found).__name__} cannot be called", cure)
    if inspect.iscoroutinefunction(found):
        raise ObjectFault("the factory is a coroutine function", "write `def`, not `async def`")
    try:
        signature = inspect.signature(found)
    except ValueError:  # a builtin
        return found
    for arguments in ((), (settings,)):
        try:
            signature.bind(*arguments)
        except TypeError:
            continue
        return partial(found, *arguments)
    raise ObjectFault(
        f"the factory needs more than one argument: {signature}", "accept no argument, or the upstream's settings alone"
    )


def _check_made(made: object) -> None:
    import httpx  # noqa: PLC0415  # keeps `check` fast for configurations without a transport

    if not isinstance(made, httpx.AsyncBaseTransport):
        raise ObjectFault(
            f"the factory returns an object of type {type(made).__name__}", "return an httpx.AsyncBaseTransport"
        )
