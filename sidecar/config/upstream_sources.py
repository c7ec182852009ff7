"""Resolve the upstreams: merge those of flags, environment and file, and read their secrets from the environment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

from policies.api.policy import Policy
from policies.builtin.fallback import Fallback
from sidecar.config.upstream import MAX_SOCKET_BYTES, ResolvedUpstream, UpstreamSettings
from sidecar.wire.request.client_headers import is_header_value

from .connections import factory_of, proxy_of, tls_of
from .settings import Flags
from .tables import ConfigFault, single_field, to_struct

OPENAI_HOST = "api.openai.com"
OPENAI_KEY_VARIABLE = "OPENAI_API_KEY"
UPSTREAM_KEY_VARIABLE = "SIDECAR_UPSTREAM_KEY"
OPENAI_UPSTREAM = UpstreamSettings(f"https://{OPENAI_HOST}/v1", model="gpt-4o-mini")
NO_UPSTREAM_CURE = "give --upstream URL, set SIDECAR_UPSTREAM or OPENAI_API_KEY, or add an [[upstream]]"


def resolve_upstreams(
    entries: object, folder: Path, environ: Mapping[str, str], flags: Flags, faults: list[ConfigFault], *, need: bool
) -> tuple[ResolvedUpstream, ...]:
    """Return the upstreams of the file's *entries*, or the one that *flags* or *environ* replace them with.

    Faults are added to *faults*; with *need*, having no upstream is one.  Environment variables of replaced entries need
    not be set.  File names are relative to *folder*.
    """
    model = flags.model or environ.get("SIDECAR_MODEL") or None
    listed = _listed(entries, faults)
    url = flags.upstream if flags.upstream is not None else environ.get("SIDECAR_UPSTREAM") or None
    if url is not None:
        path = "SIDECAR_UPSTREAM" if flags.upstream is None else "--upstream"
        single = single_field(UpstreamSettings, "base_url", url, path, faults)
        if single is None:
            return ()
        uds, via = _socket(single, path, Path.cwd(), faults), proxy_of(single, environ, faults)
        return (_resolved(single, model, key=_key_of_single_upstream(single, environ, faults), uds=uds, via=via),)
    if listed:
        return tuple(
            _resolved(
                each,
                model if at == 0 else None,
                first=at == 0,
                key=_configured_key(each, path, environ, faults),
                secret_headers=_secret_headers(each, path, environ, faults),
                trust=tls_of(each, path, folder, faults),
                via=proxy_of(each, environ, faults),
                uds=_socket(each, f"{path}.base_url", folder, faults),
                make_transport=factory_of(each, path, folder, faults, try_it=need),
            )
            for at, (path, each) in enumerate(listed.items())
        )
    if key := _secret(OPENAI_KEY_VARIABLE, OPENAI_KEY_VARIABLE, environ, faults):
        return (_resolved(OPENAI_UPSTREAM, model, key=key, via=proxy_of(OPENAI_UPSTREAM, environ, faults)),)
    if need and not entries:
        faults.append(ConfigFault("upstream", "no upstream is configured", NO_UPSTREAM_CURE))
    return ()


def check_fallback_targets(policies: Sequence[Policy], entries: object, faults: list[ConfigFault]) -> None:
    """Add a fault for each upstream that a fallback in *policies* names and that *entries*, the file's upstreams, lack."""
    tables = entries if isinstance(entries, list) else []
    names = [
        each.get("name") or f"upstream-{at + 1}" if isinstance(each, dict) else "" for at, each in enumerate(tables)
    ]
    for policy in policies:
        if not isinstance(policy, Fallback):
            continue
        for name in policy.to:
            if name not in names:
                cure = f"use one of {', '.join(map(repr, names))}" if names else "add an [[upstream]] of that name"
                faults.append(ConfigFault(f"policy.{policy.name}.to", f"unknown upstream {name!r}", cure))


def _listed(entries: object, faults: list[ConfigFault]) -> dict[str, UpstreamSettings]:
    """Return the file's upstreams by key path; those without a name are named by their position."""
    listed: dict[str, UpstreamSettings] = {}
    if not isinstance(entries, list):
        faults.append(ConfigFault("upstream", "expected a list of tables", "write each upstream below [[upstream]]"))
        return listed
    names: dict[str, str] = {}
    for at, entry in enumerate(entries):
        path = f"upstream[{at}]"
        named: Any = {"name": f"upstream-{at + 1}", **entry} if isinstance(entry, dict) else entry
        settings = to_struct(UpstreamSettings, named, path, faults)
        if settings is None:
            continue
        if settings.name in names:
            problem = f"{settings.name!r} is already the name of {names[settings.name]}"
            faults.append(ConfigFault(f"{path}.name", problem, "rename one of them"))
        names.setdefault(settings.name, path)
        listed[path] = settings
    return listed


def _configured_key(
    settings: UpstreamSettings, path: str, environ: Mapping[str, str], faults: list[ConfigFault]
) -> str | None:
    if settings.api_key_env is None:
        return None
    return _required_secret(settings.api_key_env, f"{path}.api_key_env", "api_key_env", environ, faults)


def _secret_headers(
    settings: UpstreamSettings, path: str, environ: Mapping[str, str], faults: list[ConfigFault]
) -> dict[str, str]:
    found = {
        header: _required_secret(variable, f"{path}.headers_env.{header}", "the header", environ, faults)
        for header, variable in settings.headers_env.items()
    }
    return {header: value for header, value in found.items() if value is not None}


def _required_secret(
    variable: str, path: str, what: str, environ: Mapping[str, str], faults: list[ConfigFault]
) -> str | None:
    """Return the secret in *variable*, which the file names at *path*; add a fault if it is not set."""
    before = len(faults)
    key = _secret(variable, path, environ, faults)
    if key is None and len(faults) == before:
        problem = f"the environment variable {variable} is not set"
        faults.append(ConfigFault(path, problem, f"export {variable}, or remove {what}"))
    return key


def _socket(settings: UpstreamSettings, path: str, folder: Path, faults: list[ConfigFault]) -> str | None:
    """Return the absolute path of the upstream's Unix socket, or None; the socket need not exist yet."""
    if settings.socket is None:
        return None
    found = str(folder / settings.socket)
    if len(found.encode()) > MAX_SOCKET_BYTES:
        problem = f"the path of the Unix socket is longer than {MAX_SOCKET_BYTES} bytes"
        faults.append(ConfigFault(path, problem, "use a shorter path"))
    return found


def _key_of_single_upstream(
    settings: UpstreamSettings, environ: Mapping[str, str], faults: list[ConfigFault]
) -> str | None:
    if key := _secret(UPSTREAM_KEY_VARIABLE, UPSTREAM_KEY_VARIABLE, environ, faults):
        return key
    return _secret(OPENAI_KEY_VARIABLE, OPENAI_KEY_VARIABLE, environ, faults) if _is_openai(settings) else None


def _secret(variable: str, path: str, environ: Mapping[str, str], faults: list[ConfigFault]) -> str | None:
    """Return the secret in *variable* without surrounding white space; None if it is not set or empty."""
    key = environ.get(variable, "").strip()
    if not is_header_value(key):
        faults.append(ConfigFault(path, f"the value of {variable} cannot be sent in a header", "use printable ASCII"))
        return None
    return key or None


def _resolved(settings: UpstreamSettings, model: str | None, *, first: bool = True, **more: Any) -> ResolvedUpstream:
    own = more.get("key") is not None or settings.api_key_env is not None or bool(settings.headers_env)
    configured = settings.pass_authorization
    fields = msgspec.structs.asdict(settings) | {
        "base_url": settings.base_url.rstrip("/"),
        "name": settings.name or "upstream-1",
        "forward_headers": tuple(name.lower() for name in settings.forward_headers),
        "model": model or settings.model or (OPENAI_UPSTREAM.model if _is_openai(settings) else None),
        # The client's key is meant for the first upstream; it is not sent to others unless the operator asks for it.
        "pass_authorization": first and not own if configured is None else configured,
    }
    return ResolvedUpstream(**fields, **more, pass_key_headers=configured is True)


def _is_openai(settings: UpstreamSettings) -> bool:
    """Return whether OpenAI's key may be sent to *settings*: only to OpenAI's host, and only over TLS."""
    parts = urlsplit(settings.base_url)
    return parts.hostname == OPENAI_HOST and parts.scheme == "https"
