"""Resolve how to connect to an `[[upstream]]`: its secrets, TLS context, HTTP proxy, or a custom httpx transport."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from ssl import SSLContext, create_default_context
from typing import TYPE_CHECKING, cast

import msgspec

from sidecar.config.upstream import UpstreamSettings
from sidecar.wire.request.client_headers import is_header_value

from .named_objects import ObjectFault, load_object, object_of
from .proxies import Proxy, environment_proxy, parse_proxy
from .tables import ConfigFault

if TYPE_CHECKING:
    import httpx

ALPN_PROTOCOLS = ["http/1.1"]
MAX_KEY_FILE_BYTES = 16_384


class SecretSources(msgspec.Struct, frozen=True):
    """Where secrets are read: *environ*, and files relative to *folder*.

    With *required*, a secret that is not set or cannot be read is a fault.  An unusable one is always a fault.
    """

    environ: Mapping[str, str]
    folder: Path
    required: bool = True

    def key_of(self, settings: UpstreamSettings, path: str, faults: list[ConfigFault]) -> str | None:
        """Return the configured key of the upstream at the key path *path*; add a fault if it cannot be used."""
        if settings.api_key_file is not None:
            return self._in_file(settings.api_key_file, f"{path}.api_key_file", faults)
        if settings.api_key_env is not None:
            return self._named(settings.api_key_env, f"{path}.api_key_env", "api_key_env", faults)
        return None

    def headers_of(self, settings: UpstreamSettings, path: str, faults: list[ConfigFault]) -> dict[str, str]:
        """Return the values of `headers_env` by header; add a fault for each that cannot be used."""
        found = {
            header: self._named(variable, f"{path}.headers_env.{header}", "the header", faults)
            for header, variable in settings.headers_env.items()
        }
        return {header: value for header, value in found.items() if value is not None}

    def variable(self, name: str, path: str, faults: list[ConfigFault]) -> str | None:
        """Return the secret in the variable *name* without surrounding white space; None if it is not set or empty."""
        key = self.environ.get(name, "").strip()
        if not is_header_value(key):
            faults.append(ConfigFault(path, f"the value of {name} cannot be sent in a header", "use printable ASCII"))
            return None
        return key or None

    def _named(self, variable: str, path: str, what: str, faults: list[ConfigFault]) -> str | None:
        """Return the secret in *variable*, which the file names at *path*."""
        before = len(faults)
        key = self.variable(variable, path, faults)
        if key is None and len(faults) == before and self.required:
            problem = f"the environment variable {variable} is not set"
            faults.append(ConfigFault(path, problem, f"export {variable}, or remove {what}"))
        return key

    def _in_file(self, name: str, path: str, faults: list[ConfigFault]) -> str | None:
        """Return the key in the file *name*.  No fault repeats *name*: it may be a key in the wrong place."""
        file = self.folder / name
        try:
            if not self.required and not file.is_file():
                return None
            with file.open("rb") as opened:
                content = opened.read(MAX_KEY_FILE_BYTES + 1)
        except (OSError, ValueError) as error:
            if self.required:
                problem = f"the file cannot be read: {getattr(error, 'strerror', None) or 'not a valid file name'}"
                cure = f"name a file that the sidecar may read, relative to {self.folder}, or remove api_key_file"
                faults.append(ConfigFault(path, problem, cure))
            return None
        key = content.decode("utf-8-sig", "replace").strip()
        if len(content) > MAX_KEY_FILE_BYTES:
            problem, cure = f"the file has more than {MAX_KEY_FILE_BYTES:_} bytes", "write the key alone into the file"
        elif not key:
            problem, cure = "the file is empty", "write the key into it, or remove api_key_file"
        elif not is_header_value(key):
            problem, cure = "the content of the file cannot be sent in a header", "use one line of printable ASCII"
        else:
            return key
        faults.append(ConfigFault(path, problem, cure))
        return None


def tls_of(
    settings: UpstreamSettings, path: str, folder: Path, faults: list[ConfigFault], *, need_secrets: bool = True
) -> SSLContext | None:
    """Return the TLS context of `ca` and `client_cert`, or None without both; add a fault for an unusable file.

    Without *need_secrets*, the files of `client_cert`, which hold a private key, may be missing or unreadable.
    """
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
        if not need_secrets and not all(os.access(folder / file, os.R_OK) for file in files):
            return context
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
