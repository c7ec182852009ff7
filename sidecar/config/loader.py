"""Reads the configuration and brings file, environment and flags together."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import msgspec

from .access import Profile
from .keys import keys
from .policies import base_chain
from .prices import check_prices, with_prices
from .profiles import profiles
from .settings import Flags, ServerSettings, Settings, StoreSettings
from .tables import EXAMPLE, ConfigError, ConfigFault, single_field, to_struct, unknown
from .upstream_sources import check_fallback_targets, upstreams

SECTIONS = ("server", "store", "upstream", "key", "policy", "profile", "prices")
SHIPPED = "defaults"


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
    choices = upstreams(data.get("upstream", []), folder, environ, flags, faults, need=need_upstream)
    entries = with_prices(data.get("policy", shipped["policy"]), data.get("prices"), faults)
    base, broken = base_chain(entries, folder, faults)
    inherited = {} if "policy" in data else shipped["profile"]
    chains = profiles(data.get("profile", {}), inherited, base, broken, faults)
    base_profile = Profile("", base)
    accesses = keys(data.get("key", []), base_profile, chains, broken, faults)
    check_prices(base, choices, faults)
    check_fallback_targets(base, data.get("upstream", []), faults)
    if faults or server is None or store is None:
        raise ConfigError(source, faults)
    return Settings(
        server=server,
        store=store,
        upstreams=choices,
        base=base_profile,
        profiles=chains,
        folder=folder,
        keys=accesses,
        workers=flags.workers,
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text("utf-8-sig"))
    except FileNotFoundError:
        fault = ConfigFault("file", "does not exist", "`sidecar config > sidecar.toml` writes one to start from")
    except (OSError, UnicodeDecodeError) as error:
        fault = ConfigFault("file", f"cannot be read: {error}", "name a TOML file in UTF-8")
    except RecursionError:
        fault = ConfigFault("file", "is nested too deeply", EXAMPLE)
    except ValueError as error:
        what, found, where = str(error).rpartition(" (at ")
        place = where.removesuffix(")") if found else "file"
        fault = ConfigFault(place, f"is not TOML: {what or error}", EXAMPLE)
    raise ConfigError(str(path), [fault])


def _server(table: Any, environ: Mapping[str, str], flags: Flags, faults: list[ConfigFault]) -> ServerSettings | None:
    server = to_struct(ServerSettings, table, "server", faults)
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
    store, path = to_struct(StoreSettings, table, "store", faults), "store.url"
    if store is not None and store.location.has_password and "SIDECAR_STORE" not in environ:
        right = "a file is no place for it: put the whole address into SIDECAR_STORE"
        faults.append(ConfigFault(path, "holds a password", right))
    if said := environ.get("SIDECAR_STORE"):
        path = "SIDECAR_STORE"
        store = single_field(StoreSettings, "url", said, path, faults)
    if store is not None and not _is_shared(store, path, faults) and flags.workers > 1:
        right = "several workers need one store: write 'sqlite:///FILE', or serve with one worker"
        faults.append(ConfigFault(path, f"{store.url!r} cannot serve {flags.workers} workers", right))
    return store


def _is_shared(store: StoreSettings, path: str, faults: list[ConfigFault]) -> bool:
    try:
        return store.location.is_shared_between_processes
    except ValueError as error:
        problem, _, remedy = str(error).partition("; ")
        faults.append(ConfigFault(path, problem, remedy))
        return True
