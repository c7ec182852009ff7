"""Where calls go: the upstreams of flags, environment and file, each with its key and the model of calls without one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

from policies.api.policy import Policy
from policies.builtin.fallback import Fallback
from sidecar.config.upstream import MAX_SOCKET_BYTES, ResolvedUpstream, UpstreamSettings, fits_header

from .connections import factory_of, proxy_of, tls_of
from .settings import Flags
from .tables import ConfigFault, single_field, to_struct

OPENAI_HOST = "api.openai.com"
OPENAI_KEY = "OPENAI_API_KEY"
LONE_KEY = "SIDECAR_UPSTREAM_KEY"
OPENAI = UpstreamSettings(f"https://{OPENAI_HOST}/v1", model="gpt-4o-mini")
CURE = "give --upstream URL, set SIDECAR_UPSTREAM or OPENAI_API_KEY, or write an [[upstream]]"


def upstreams(
    entries: object, folder: Path, environ: Mapping[str, str], flags: Flags, faults: list[ConfigFault], *, need: bool
) -> tuple[ResolvedUpstream, ...]:
    """Return the upstreams of the file's *entries*, or the one that *flags* or *environ* put in their place.

    Faults are added to *faults*; with *need* it is one to have none.  The keys of entries that are replaced need not be
    set.  *folder* is where files are looked for.
    """
    model = flags.model or environ.get("SIDECAR_MODEL") or None
    listed = _listed(entries, faults)
    url = flags.upstream if flags.upstream is not None else environ.get("SIDECAR_UPSTREAM") or None
    if url is not None:
        path = "SIDECAR_UPSTREAM" if flags.upstream is None else "--upstream"
        lone = single_field(UpstreamSettings, "base_url", url, path, faults)
        if lone is None:
            return ()
        uds, via = _socket(lone, path, Path.cwd(), faults), proxy_of(lone, environ, faults)
        return (_choice(lone, model, key=_lone_key(lone, environ, faults), uds=uds, via=via),)
    if listed:
        return tuple(
            _choice(
                each,
                model if at == 0 else None,
                first=at == 0,
                key=_named_key(each, path, environ, faults),
                secret_headers=_secret_headers(each, path, environ, faults),
                trust=tls_of(each, path, folder, faults),
                via=proxy_of(each, environ, faults),
                uds=_socket(each, f"{path}.base_url", folder, faults),
                make_transport=factory_of(each, path, folder, faults, try_it=need),
            )
            for at, (path, each) in enumerate(listed.items())
        )
    if key := _key(OPENAI_KEY, OPENAI_KEY, environ, faults):
        return (_choice(OPENAI, model, key=key, via=proxy_of(OPENAI, environ, faults)),)
    if need and not entries:
        faults.append(ConfigFault("upstream", "there is none", CURE))
    return ()


def check_fallback_targets(policies: Sequence[Policy], entries: object, faults: list[ConfigFault]) -> None:
    """Add a fault for each name in a fallback of *policies* that none of the file's upstreams *entries* has."""
    tables = entries if isinstance(entries, list) else []
    names = [
        each.get("name") or f"upstream-{at + 1}" if isinstance(each, dict) else "" for at, each in enumerate(tables)
    ]
    for policy in policies:
        if not isinstance(policy, Fallback):
            continue
        for name in policy.to:
            if name not in names:
                right = f"name one of {', '.join(map(repr, names))}" if names else "write it below an [[upstream]]"
                faults.append(ConfigFault(f"policy.{policy.name}.to", f"there is no upstream {name!r}", right))


def _listed(entries: object, faults: list[ConfigFault]) -> dict[str, UpstreamSettings]:
    """Return the file's upstreams by their paths, all with a name."""
    listed: dict[str, UpstreamSettings] = {}
    if not isinstance(entries, list):
        faults.append(ConfigFault("upstream", "is no list of tables", "write each upstream below an [[upstream]]"))
        return listed
    names: dict[str, str] = {}
    for at, entry in enumerate(entries):
        path = f"upstream[{at}]"
        named: Any = {"name": f"upstream-{at + 1}", **entry} if isinstance(entry, dict) else entry
        settings = to_struct(UpstreamSettings, named, path, faults)
        if settings is None:
            continue
        if settings.name in names:
            wrong = f"{settings.name!r} is also the name of {names[settings.name]}"
            faults.append(ConfigFault(f"{path}.name", wrong, "give one of them another name"))
        names.setdefault(settings.name, path)
        listed[path] = settings
    return listed


def _named_key(
    settings: UpstreamSettings, path: str, environ: Mapping[str, str], faults: list[ConfigFault]
) -> str | None:
    if settings.api_key_env is None:
        return None
    return _named(settings.api_key_env, f"{path}.api_key_env", "api_key_env", environ, faults)


def _secret_headers(
    settings: UpstreamSettings, path: str, environ: Mapping[str, str], faults: list[ConfigFault]
) -> dict[str, str]:
    found = {
        header: _named(variable, f"{path}.headers_env.{header}", "it", environ, faults)
        for header, variable in settings.headers_env.items()
    }
    return {header: value for header, value in found.items() if value is not None}


def _named(variable: str, path: str, what: str, environ: Mapping[str, str], faults: list[ConfigFault]) -> str | None:
    """Return the secret in *variable*, which the file names at *path*; not to have it is a fault."""
    before = len(faults)
    key = _key(variable, path, environ, faults)
    if key is None and len(faults) == before:
        faults.append(ConfigFault(path, f"{variable} is not set", f"export {variable}, or leave {what} out"))
    return key


def _socket(settings: UpstreamSettings, path: str, folder: Path, faults: list[ConfigFault]) -> str | None:
    """Return the absolute path of the upstream's Unix socket, None where it has none; the socket may be made later."""
    if settings.socket is None:
        return None
    found = str(folder / settings.socket)
    if len(found.encode()) > MAX_SOCKET_BYTES:
        wrong = f"the path of the Unix socket has more than {MAX_SOCKET_BYTES} bytes"
        faults.append(ConfigFault(path, wrong, "the system allows no longer one: move the socket"))
    return found


def _lone_key(settings: UpstreamSettings, environ: Mapping[str, str], faults: list[ConfigFault]) -> str | None:
    if key := _key(LONE_KEY, LONE_KEY, environ, faults):
        return key
    return _key(OPENAI_KEY, OPENAI_KEY, environ, faults) if _is_openai(settings) else None


def _key(variable: str, path: str, environ: Mapping[str, str], faults: list[ConfigFault]) -> str | None:
    """Return the key in *variable* without the line end that files leave behind it; None where it is not set."""
    key = environ.get(variable, "").strip()
    if not fits_header(key):
        faults.append(ConfigFault(path, f"the key in {variable} fits into no header", "it must be printable ASCII"))
        return None
    return key or None


def _choice(settings: UpstreamSettings, model: str | None, *, first: bool = True, **more: Any) -> ResolvedUpstream:
    own = more.get("key") is not None or settings.api_key_env is not None or bool(settings.headers_env)
    asked = settings.pass_authorization
    said = msgspec.structs.asdict(settings) | {
        "base_url": settings.base_url.rstrip("/"),
        "name": settings.name or "upstream-1",
        "model": model or settings.model or (OPENAI.model if _is_openai(settings) else None),
        # Another server than the first was not chosen by whoever holds the client's key.
        "pass_authorization": first and not own if asked is None else asked,
    }
    return ResolvedUpstream(**said, **more)


def _is_openai(settings: UpstreamSettings) -> bool:
    """Whether the key for OpenAI may go there: to its host, and never in the clear."""
    parts = urlsplit(settings.base_url)
    return parts.hostname == OPENAI_HOST and parts.scheme == "https"
