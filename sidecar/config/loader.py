"""Load the configuration: merge the file, the environment and the flags, and validate the result."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import msgspec

from .access import Profile
from .keys import read_keys
from .log import LogSettings
from .observers import read_observers
from .policies import base_chain
from .prices import check_prices, with_prices
from .profiles import read_profiles
from .settings import Flags, ServerSettings, Settings, StoreSettings
from .shadowing import check_module_names
from .tables import SEE_EXAMPLE, ConfigError, ConfigFault, single_field, to_struct, unknown_key
from .upstream_sources import check_fallback_targets, resolve_upstreams

KNOWN_SECTIONS = ("server", "store", "log", "upstream", "key", "policy", "profile", "prices", "observer")
SHIPPED_NAME = "defaults"


def default_text() -> str:
    """Return the text of the shipped configuration file."""
    return resources.files(__package__).joinpath("defaults.toml").read_text("utf-8")


def load(path: Path | None, *, environ: Mapping[str, str], flags: Flags, need_upstream: bool = True) -> Settings:
    """Return the settings of the file *path*, or the shipped ones if it is None.

    *flags* override *environ*, which overrides the file.  With *need_upstream*, having no upstream is a fault.  Raises
    `ConfigError` with all faults.
    """
    source = SHIPPED_NAME if path is None else str(path)
    shipped = tomllib.loads(default_text())
    data = shipped if path is None else _read(path)
    folder = Path.cwd() if path is None else path.resolve().parent
    faults: list[ConfigFault] = [unknown_key(key, key, KNOWN_SECTIONS) for key in data if key not in KNOWN_SECTIONS]
    server = _server(data.get("server", {}), environ, flags, faults)
    store = _store(data.get("store", {}), environ, flags, faults)
    log = to_struct(LogSettings, data.get("log", {}), "log", faults)
    observers = read_observers(data.get("observer", []), folder, faults)
    choices = resolve_upstreams(data.get("upstream", []), folder, environ, flags, faults, need=need_upstream)
    entries = with_prices(data.get("policy", shipped["policy"]), data.get("prices"), faults)
    if path is not None:
        check_module_names(folder, faults)
    base, broken = base_chain(entries, folder, faults)
    inherited = {} if "policy" in data else shipped["profile"]
    chains = read_profiles(data.get("profile", {}), inherited, base, broken, faults)
    base_profile = Profile("", base)
    accesses = read_keys(data.get("key", []), base_profile, chains, broken, faults)
    check_prices(base, choices, faults)
    check_fallback_targets(base, data.get("upstream", []), faults)
    if faults or server is None or store is None or log is None:
        raise ConfigError(source, faults)
    return Settings(
        server=server,
        store=store,
        log=log,
        observers=observers,
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
        fault = ConfigFault("file", "not found", "create one with `sidecar config > sidecar.toml`")
    except (OSError, UnicodeDecodeError) as error:
        fault = ConfigFault("file", f"cannot be read: {error}", "name a TOML file in UTF-8")
    except RecursionError:
        fault = ConfigFault("file", "nested too deeply", SEE_EXAMPLE)
    except ValueError as error:
        what, found, where = str(error).rpartition(" (at ")
        place = where.removesuffix(")") if found else "file"
        fault = ConfigFault(place, f"invalid TOML: {what or error}", SEE_EXAMPLE)
    raise ConfigError(str(path), [fault])


def _server(table: Any, environ: Mapping[str, str], flags: Flags, faults: list[ConfigFault]) -> ServerSettings | None:
    server = to_struct(ServerSettings, table, "server", faults)
    host = flags.host or environ.get("SIDECAR_HOST")
    port: int | None = flags.port
    if port is None and (text := environ.get("SIDECAR_PORT")):
        port = _port(text, faults)
    changed: dict[str, Any] = {}
    if host:
        changed["host"] = host
    if port is not None:
        changed["port"] = port
    if changed:
        changed["uds"] = ""  # an address from a flag or the environment overrides the file's socket
    return msgspec.structs.replace(server, **changed) if server is not None and changed else server


def _port(text: str, faults: list[ConfigFault]) -> int | None:
    if text.isascii() and text.isdigit() and int(text) < 65536:  # noqa: PLR2004  # ports have 16 bits
        return int(text)
    problem = f"invalid value {text!r}: expected a whole number from 0 to 65535"
    faults.append(ConfigFault("SIDECAR_PORT", problem, "correct or unset the variable"))
    return None


def _store(table: Any, environ: Mapping[str, str], flags: Flags, faults: list[ConfigFault]) -> StoreSettings | None:
    store, path = to_struct(StoreSettings, table, "store", faults), "store.url"
    if store is not None and store.location.has_password and "SIDECAR_STORE" not in environ:
        cure = "keep passwords out of files: set the whole URL in the environment variable SIDECAR_STORE"
        faults.append(ConfigFault(path, "the URL contains a password", cure))
    if url := environ.get("SIDECAR_STORE"):
        path = "SIDECAR_STORE"
        store = single_field(StoreSettings, "url", url, path, faults)
    if store is not None and not _is_shared(store, path, faults) and flags.workers > 1:
        problem = f"{store.location.redacted!r} cannot serve {flags.workers} workers: each would count separately"
        faults.append(ConfigFault(path, problem, "use 'sqlite:///FILE' or 'redis://HOST:PORT/DB', or one worker"))
    return store


def _is_shared(store: StoreSettings, path: str, faults: list[ConfigFault]) -> bool:
    try:
        return store.location.is_shared_between_processes
    except ValueError as error:
        problem, _, remedy = str(error).partition("; ")
        faults.append(ConfigFault(path, problem, remedy))
        return True
