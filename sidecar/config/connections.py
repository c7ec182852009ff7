"""How an `[[upstream]]` is connected to: TLS, proxy, Unix socket, or a transport of the deployment's."""

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

ALPN = ["http/1.1"]
FORM = "'module:factory'"


def tls_of(settings: UpstreamSettings, path: str, folder: Path, faults: list[ConfigFault]) -> SSLContext | None:
    """Return the TLS context of `ca` and `client_cert`; None without both.  Add a fault for a file that cannot be used."""
    context: SSLContext | None = None
    try:
        if settings.ca is not None or settings.client_cert is not None:
            context = create_default_context(cafile=None if settings.ca is None else str(folder / settings.ca))
            context.set_alpn_protocols(ALPN)
    except (OSError, ValueError) as error:  # also for a file without a certificate
        wrong = f"{settings.ca!r} cannot be used: {_reason(error)}"
        faults.append(ConfigFault(f"{path}.ca", wrong, "name a PEM file of certificates, from the folder of this file"))
        return None
    if context is not None and settings.client_cert is not None:
        names = settings.client_cert
        files = [names, names] if isinstance(names, str) else names
        try:
            context.load_cert_chain(folder / files[0], folder / files[1], password=_no_password)
        except (OSError, ValueError) as error:
            wrong = f"{', '.join(map(repr, dict.fromkeys(files)))} cannot be used: {_reason(error)}"
            right = "name a PEM file with the certificate and its unencrypted key, or a list of the two files"
            faults.append(ConfigFault(f"{path}.client_cert", wrong, right))
            return None
    return context


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


def _no_password() -> str:
    """Without it, OpenSSL would ask for the password of an encrypted key on the terminal."""
    return ""


def proxy_of(settings: UpstreamSettings, environ: Mapping[str, str], faults: list[ConfigFault]) -> Proxy | None:
    """Return the proxy of the setting, else of *environ*; None for a direct connection.

    Add a fault for a value of *environ* that cannot be used.
    """
    if settings.transport is not None or settings.socket is not None:
        return None
    if settings.proxy is not None:
        return parse_proxy(settings.proxy)  # the settings object has checked it
    found = environment_proxy(settings.base_url, environ)
    if found is None:
        return None
    variable, url = found
    try:
        return parse_proxy(url)
    except ValueError as error:
        wrong, _, right = str(error).partition("; ")
        fault = ConfigFault(variable, wrong, f"{right}, or name the host of base_url in NO_PROXY")
        if fault not in faults:
            faults.append(fault)
        return None


def factory_of(
    settings: UpstreamSettings, path: str, folder: Path, faults: list[ConfigFault], *, try_it: bool
) -> Callable[[], httpx.AsyncBaseTransport] | None:
    """Return what makes the upstream's own transport; None where it has none.

    The factory takes no argument, or the settings.  With *try_it* it is called once, so that its mistakes are found before
    anything serves; each process makes its own transport.
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
        wrong = f"{settings.transport!r} cannot be used: {error.wrong}"
        faults.append(ConfigFault(f"{path}.transport", wrong, error.right))
        return None
    return cast("Callable[[], httpx.AsyncBaseTransport]", factory)


def _bound(found: object, settings: UpstreamSettings) -> Callable[[], object]:
    """Return *found* as a function without arguments."""
    cure = "name a function that returns an httpx.AsyncBaseTransport"
    if not callable(found):
        raise ObjectFault(f"it is of type {type(found).__name__} and cannot be called", cure)
    if inspect.iscoroutinefunction(found):
        raise ObjectFault("it is a coroutine function", "make it a plain function: `def`, not `async def`")
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
    raise ObjectFault(f"it needs more than one argument: {signature}", "let it take none, or the upstream's settings")


def _check_made(made: object) -> None:
    import httpx  # noqa: PLC0415  # most configurations name no transport, and `check` is quick without it

    if not isinstance(made, httpx.AsyncBaseTransport):
        raise ObjectFault(f"it returns an object of type {type(made).__name__}", "return an httpx.AsyncBaseTransport")
