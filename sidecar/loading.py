"""Reads the configuration and brings file, environment and flags together."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

from .chains import base_chain, profiles
from .settings import (
    OPENAI_HOST,
    Flags,
    Profile,
    ServerSettings,
    Settings,
    StoreSettings,
    UpstreamChoice,
    UpstreamSettings,
)
from .tables import ConfigError, ConfigFault, struct_from, unknown

SECTIONS = ("server", "store", "upstream", "policy", "profile")
SHIPPED = "defaults"
OPENAI = UpstreamSettings(f"https://{OPENAI_HOST}/v1", api_key_env="OPENAI_API_KEY", model="gpt-4o-mini")
CURE = "give --upstream URL, set SIDECAR_UPSTREAM or OPENAI_API_KEY, or write an [[upstream]]"


def default_text() -> str:
    """Return the shipped configuration file."""
    return resources.files(__package__).joinpath("defaults.toml").read_text("utf-8")


def load(path: Path | None, *, environ: Mapping[str, str], flags: Flags, need_upstream: bool = True) -> Settings:
    """Return the settings of *path*, or the shipped ones, with *environ* and *flags* over them.

    Raises `ConfigError` with every fault.  Without *need_upstream* a configuration that names none is complete.
    """
    source = SHIPPED if path is None else str(path)
    shipped = tomllib.loads(default_text())
    data = shipped if path is None else _read(path)
    folder = Path.cwd() if path is None else path.resolve().parent
    faults: list[ConfigFault] = [unknown(key, key, SECTIONS) for key in data if key not in SECTIONS]
    server = _server(data.get("server", {}), environ, flags, faults)
    store = _store(data.get("store", {}), environ, flags, faults)
    upstreams = _upstreams(data.get("upstream", []), environ, flags, faults, need=need_upstream)
    entries = data.get("policy", shipped["policy"])
    base = base_chain(entries, folder, faults)
    tables = data.get("profile", {})
    if "policy" not in data and isinstance(tables, dict):
        tables = {**shipped["profile"], **tables}
    chains = profiles(tables, base, faults)
    if faults or server is None or store is None:
        raise ConfigError(source, faults)
    return Settings(
        server=server,
        store=store,
        upstreams=upstreams,
        base=Profile("", base),
        profiles=chains,
        folder=folder,
        workers=flags.workers,
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        fault = ConfigFault("file", "does not exist", "`sidecar config > sidecar.toml` writes one to start from")
    except (OSError, UnicodeDecodeError) as error:
        fault = ConfigFault("file", f"cannot be read: {error}", "name a TOML file in UTF-8")
    except tomllib.TOMLDecodeError as error:
        fault = ConfigFault("file", f"is not TOML: {error}", "see `sidecar config` for an example")
    raise ConfigError(str(path), [fault])


def _server(table: Any, environ: Mapping[str, str], flags: Flags, faults: list[ConfigFault]) -> ServerSettings | None:
    server = struct_from(ServerSettings, table, "server", faults)
    host = flags.host or environ.get("SIDECAR_HOST")
    port: int | None = flags.port
    if port is None and (said := environ.get("SIDECAR_PORT")):
        port = _port(said, faults)
    changed: dict[str, Any] = {}
    if host:
        changed["host"] = host
    if port is not None:
        changed["port"] = port
    return msgspec.structs.replace(server, **changed) if server is not None and changed else server


def _port(said: str, faults: list[ConfigFault]) -> int | None:
    if said.isascii() and said.isdigit() and int(said) < 65536:  # noqa: PLR2004  # ports have 16 bits
        return int(said)
    faults.append(ConfigFault("SIDECAR_PORT", f"{said!r} is no port", "it must be a whole number from 0 to 65535"))
    return None


def _store(table: Any, environ: Mapping[str, str], flags: Flags, faults: list[ConfigFault]) -> StoreSettings | None:
    said = environ.get("SIDECAR_STORE")
    store = struct_from(StoreSettings, {"url": said} if said else table, "SIDECAR_STORE" if said else "store", faults)
    if store is not None and store.url == "memory://" and flags.workers > 1:
        right = "several workers need one store: write 'sqlite:///FILE', or serve with one worker"
        faults.append(ConfigFault("store.url", f"'memory://' cannot serve {flags.workers} workers", right))
    return store


def _upstreams(
    entries: Any, environ: Mapping[str, str], flags: Flags, faults: list[ConfigFault], *, need: bool
) -> tuple[UpstreamChoice, ...]:
    model = flags.model or environ.get("SIDECAR_MODEL") or None
    url = flags.upstream or environ.get("SIDECAR_UPSTREAM")
    if url:
        path = "--upstream" if flags.upstream else "SIDECAR_UPSTREAM"
        only = struct_from(UpstreamSettings, {"base_url": url}, path, faults)
        return () if only is None else (_choice(only, _lone_key(only, environ), model),)
    if not isinstance(entries, list):
        faults.append(ConfigFault("upstream", "is no list of tables", "write each upstream below an [[upstream]]"))
        return ()
    if not entries:
        if environ.get("OPENAI_API_KEY"):
            return (_choice(OPENAI, environ["OPENAI_API_KEY"], model),)
        if need:
            faults.append(ConfigFault("upstream", "there is none", CURE))
        return ()
    choices = []
    for at, entry in enumerate(entries):
        path = f"upstream[{at}]"
        settings = struct_from(UpstreamSettings, entry, path, faults)
        if settings is None:
            continue
        key = environ.get(settings.api_key_env) if settings.api_key_env else None
        if settings.api_key_env and not key:
            right = f"export {settings.api_key_env}, or leave api_key_env out"
            faults.append(ConfigFault(f"{path}.api_key_env", f"{settings.api_key_env} is not set", right))
        choices.append(_choice(settings, key, model, name=settings.name or f"upstream-{at + 1}"))
    return tuple(choices)


def _lone_key(settings: UpstreamSettings, environ: Mapping[str, str]) -> str | None:
    if key := environ.get("SIDECAR_UPSTREAM_KEY"):
        return key
    return environ.get("OPENAI_API_KEY") if urlsplit(settings.base_url).hostname == OPENAI_HOST else None


def _choice(
    settings: UpstreamSettings, key: str | None, model: str | None, *, name: str = "upstream-1"
) -> UpstreamChoice:
    at_openai = urlsplit(settings.base_url).hostname == OPENAI_HOST
    return UpstreamChoice(
        base_url=settings.base_url.rstrip("/"),
        name=settings.name or name,
        api_key_env=settings.api_key_env,
        model=model or settings.model or (OPENAI.model if at_openai else None),
        connect=settings.connect,
        idle=settings.idle,
        key=key,
    )
