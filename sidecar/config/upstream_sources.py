"""Resolve the upstreams: merge those of flags, environment and file, and read their secrets."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

from policies.api.policy import Policy
from policies.builtin.fallback import Fallback
from sidecar.config.upstream import MAX_SOCKET_BYTES, ResolvedUpstream, UpstreamSettings

from .connections import SecretSources, factory_of, proxy_of, tls_of
from .settings import Flags
from .tables import ConfigFault, single_field, to_struct

OPENAI_HOST = "api.openai.com"
OPENAI_KEY_VARIABLE = "OPENAI_API_KEY"
UPSTREAM_KEY_VARIABLE = "SIDECAR_UPSTREAM_KEY"
OPENAI_UPSTREAM = UpstreamSettings(f"https://{OPENAI_HOST}/v1", model="gpt-4o-mini")
REFERENCE_FIELDS = frozenset({"api_key_env", "api_key_file", "headers_env", "ca", "client_cert", "transport"})
"""Settings that name a variable, a file or a module."""
PLACEHOLDER_URL = "https://placeholder.invalid"
"""A valid `base_url`, to check another setting of an upstream by itself."""
NO_UPSTREAM_CURE = "give --upstream URL, set SIDECAR_UPSTREAM or OPENAI_API_KEY, or add an [[upstream]]"


def resolve_upstreams(
    entries: object, folder: Path, environ: Mapping[str, str], flags: Flags, faults: list[ConfigFault], *, need: bool
) -> tuple[ResolvedUpstream, ...]:
    """Return the upstreams of the file's *entries*, or the one that *flags* or *environ* replace them with.

    Faults are added to *faults*.  With *need*, a missing upstream is one, and so is a missing secret of an upstream that
    the flags and the environment do not replace.  File names are relative to *folder*.
    """
    secrets = SecretSources(environ, folder, required=need)
    model = flags.model or environ.get("SIDECAR_MODEL") or None
    listed = _listed(entries, faults)
    url = flags.upstream if flags.upstream is not None else environ.get("SIDECAR_UPSTREAM") or None
    if url is not None:
        path = "SIDECAR_UPSTREAM" if flags.upstream is None else "--upstream"
        single = single_field(UpstreamSettings, "base_url", url, path, faults)
        key = secrets.variable(UPSTREAM_KEY_VARIABLE, UPSTREAM_KEY_VARIABLE, faults)
        if single is None:
            return ()
        if key is None and _is_openai(single):
            key = secrets.variable(OPENAI_KEY_VARIABLE, OPENAI_KEY_VARIABLE, faults)
        uds, via = _socket(single, path, Path.cwd(), faults), proxy_of(single, environ, faults)
        return (_resolved(single, model, key=key, uds=uds, via=via),)
    _check_references(entries, listed, folder, secrets, faults)
    if listed:
        return tuple(
            _resolved(
                each,
                model if at == 0 else None,
                first=at == 0,
                key=secrets.key_of(each, path, faults),
                secret_headers=secrets.headers_of(each, path, faults),
                trust=tls_of(each, path, folder, faults, need_secrets=need),
                via=proxy_of(each, environ, faults),
                uds=_socket(each, f"{path}.base_url", folder, faults),
                make_transport=factory_of(each, path, folder, faults, try_it=need),
            )
            for at, (path, each) in enumerate(listed.items())
        )
    if key := secrets.variable(OPENAI_KEY_VARIABLE, OPENAI_KEY_VARIABLE, faults):
        return (_resolved(OPENAI_UPSTREAM, model, key=key, via=proxy_of(OPENAI_UPSTREAM, environ, faults)),)
    if need and not entries:
        faults.append(ConfigFault("upstream", "no upstream is configured", NO_UPSTREAM_CURE))
    return ()


def check_fallback_targets(policies: Mapping[str, Policy], entries: object, faults: list[ConfigFault]) -> None:
    """Add a fault for each upstream that a fallback names and that *entries*, the file's upstreams, lack.

    *policies* are the policies of all chains, by their key path.
    """
    tables = entries if isinstance(entries, list) else []
    names = [
        each.get("name") or f"upstream-{at + 1}" if isinstance(each, dict) else "" for at, each in enumerate(tables)
    ]
    cure = (
        f"use one of {', '.join(map(repr, filter(None, names)))}" if any(names) else "add an [[upstream]] of that name"
    )
    for path, policy in policies.items():
        if isinstance(policy, Fallback):
            unknown = ((at, name) for at, name in enumerate(policy.to) if name not in names)
            faults += [ConfigFault(f"{path}.to[{at}]", f"unknown upstream {name!r}", cure) for at, name in unknown]


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
        name = named.get("name") if isinstance(named, dict) else None
        if isinstance(name, str) and name in names:
            problem = f"{name!r} is already the name of {names[name]}"
            faults.append(ConfigFault(f"{path}.name", problem, "rename one of them"))
        if isinstance(name, str):
            names.setdefault(name, path)
        if settings is not None:
            listed[path] = settings
    return listed


def _check_references(
    entries: object,
    listed: Mapping[str, UpstreamSettings],
    folder: Path,
    secrets: SecretSources,
    faults: list[ConfigFault],
) -> None:
    """Add the faults of secrets and files that faulty *entries* name. Those in *listed* are checked when they are read."""
    for at, entry in enumerate(entries if isinstance(entries, list) else []):
        path = f"upstream[{at}]"
        if path in listed or not isinstance(entry, dict):
            continue
        for field in sorted(REFERENCE_FIELDS & entry.keys()):
            if any(f"{fault.path}.".startswith(f"{path}.{field}.") for fault in faults):
                continue
            alone = to_struct(UpstreamSettings, {"base_url": PLACEHOLDER_URL, field: entry[field]}, path, [])
            if alone is not None:
                secrets.key_of(alone, path, faults)
                secrets.headers_of(alone, path, faults)
                tls_of(alone, path, folder, faults, need_secrets=secrets.required)
                factory_of(alone, path, folder, faults, try_it=False)


def _socket(settings: UpstreamSettings, path: str, folder: Path, faults: list[ConfigFault]) -> str | None:
    """Return the absolute path of the upstream's Unix socket, or None; the socket need not exist yet."""
    if settings.socket is None:
        return None
    found = str(folder / settings.socket)
    if len(found.encode()) > MAX_SOCKET_BYTES:
        problem = f"the path of the Unix socket is longer than {MAX_SOCKET_BYTES} bytes"
        faults.append(ConfigFault(path, problem, "use a shorter path"))
    return found


def _resolved(settings: UpstreamSettings, model: str | None, *, first: bool = True, **more: Any) -> ResolvedUpstream:
    own = more.get("key") is not None or settings.has_configured_key or bool(settings.headers_env)
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
