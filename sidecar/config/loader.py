"""Load the configuration: merge the file, the environment and the flags, and validate the result."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import msgspec

from policies.api.policy import Policy

from .access import Access, Profile
from .keys import read_keys
from .log import LogSettings
from .named_objects import hiding_modules
from .observers import read_observers
from .policies import BaseChain, base_chain, uses_defaults
from .prices import check_prices, with_prices
from .profiles import read_profiles
from .relay.passthrough import Passthrough, PassthroughSettings, TenantChain, opened_routes
from .settings import DEFAULT_TENANT, Flags, ServerSettings, Settings, StoreSettings
from .tables import SEE_EXAMPLE, ConfigError, ConfigFault, single_field, to_struct, unknown_key
from .upstream_sources import check_fallback_targets, resolve_upstreams

KNOWN_SECTIONS = ("server", "store", "log", "upstream", "key", "policy", "profile", "prices", "observer")
SHIPPED_NAME = "defaults"
STORE_VARIABLE = "SIDECAR_STORE"


def default_text() -> str:
    """Return the text of the shipped configuration file."""
    return resources.files(__package__).joinpath("defaults.toml").read_text("utf-8")


def load(path: Path | None, *, environ: Mapping[str, str], flags: Flags, need_upstream: bool = True) -> Settings:
    """Return the settings of the file *path*, or the shipped ones if it is None.

    *flags* override *environ*, which overrides the file.  With *need_upstream*, a missing upstream is a fault, and so is a
    secret that is not set; a process that only reads the settings needs neither.  Raises `ConfigError` with all faults.
    """
    source = SHIPPED_NAME if path is None else str(path)
    shipped = tomllib.loads(default_text())
    faults: list[ConfigFault] = []
    read = shipped if path is None else _read(path, faults)
    # The environment and the flags are checked also without a readable file.
    data: dict[str, Any] = {} if read is None else read
    serves = need_upstream and read is not None
    folder = Path.cwd() if path is None else path.resolve().parent
    faults += [unknown_key(key, key, KNOWN_SECTIONS) for key in data if key not in KNOWN_SECTIONS]
    server = _server(data.get("server", {}), environ, flags, faults)
    store = _store(data.get("store", {}), environ, flags, faults)
    log = to_struct(LogSettings, data.get("log", {}), "log", faults)
    observers = read_observers(data.get("observer", []), folder, faults)
    choices = resolve_upstreams(data.get("upstream", []), folder, environ, flags, faults, need=serves)
    entries = with_prices(data.get("policy", shipped["policy"]), data.get("prices"), faults)
    if path is not None:
        faults += map(_hiding_module, hiding_modules(folder))
    chain = base_chain(entries, shipped["policy"], folder, faults)
    inherited = shipped["profile"] if "policy" not in data or uses_defaults(entries) else {}
    base = Profile("", chain.policies)
    profiles = read_profiles(data.get("profile", {}), inherited, chain.policies, chain.broken, faults)
    accesses = read_keys(data.get("key", []), base, profiles, chain.broken, faults)
    check_prices(chain.policies, choices, faults)
    chains = _chains(chain, profiles, accesses)
    relayed = _passthrough(data.get("server", {}), server, [each.name for each in choices], chains, faults)
    check_fallback_targets(_by_path(chain, profiles, accesses), data.get("upstream", []), faults)
    if faults or server is None or store is None or log is None:
        raise ConfigError(source, faults)
    return Settings(
        server=server,
        store=store,
        log=log,
        observers=observers,
        upstreams=choices,
        base=base,
        profiles=profiles,
        folder=folder,
        keys=accesses,
        passthrough=relayed,
        workers=flags.workers,
    )


def _hiding_module(name: str) -> ConfigFault:
    problem = f"{name} beside the configuration has the name of a package that policies import"
    return ConfigFault("policy", problem, f"rename {name}, for example to my_{name}")


def _by_path(chain: BaseChain, profiles: Mapping[str, Profile], accesses: Sequence[Access]) -> dict[str, Policy]:
    """Return the policies of the base chain, and those that a profile or a key changes, by key path."""
    base = {policy.name: policy for policy in chain.policies}
    found = {chain.paths[name]: policy for name, policy in base.items()}
    changing = [(f"profile.{profile.name}", profile) for profile in profiles.values()]
    changing += [(f"{access.base.owner}.limits", access.base) for access in accesses]
    for path, profile in changing:
        own = (policy for policy in profile.policies if policy != base[policy.name])
        found |= {f"{path}.{policy.name}": policy for policy in own}
    return found


def _chains(base: BaseChain, profiles: Mapping[str, Profile], accesses: Sequence[Access]) -> list[TenantChain]:
    """Return all chains of the file, by tenant; none where a policy has a fault, because it might be the needed budget."""
    if base.broken:
        return []
    if not accesses:
        own = [TenantChain(DEFAULT_TENANT, each.policies, f"profile.{each.name}") for each in profiles.values()]
        return [TenantChain(DEFAULT_TENANT, base.policies, ""), *own]
    return [
        TenantChain(access.tenant, each.policies, each.owner or (f"profile.{each.name}" if each.name else ""))
        for access in accesses
        for each in (access.base, *access.profiles.values())
    ]


def _passthrough(
    table: Any,
    server: ServerSettings | None,
    names: Sequence[str],
    chains: Sequence[TenantChain],
    faults: list[ConfigFault],
) -> tuple[Passthrough, ...]:
    """Return the relayed routes of *table*, which may have other faults; *names* are those of the upstreams."""
    listed = table.get("passthrough") if isinstance(table, dict) else None
    entries: list[tuple[str, PassthroughSettings]] = []
    for at, entry in enumerate(listed if isinstance(listed, list) else ()):
        where, own = f"server.passthrough[{at}]", list[ConfigFault]()
        if isinstance(entry, dict):
            settings = to_struct(PassthroughSettings, entry, where, faults)
        elif isinstance(entry, str):
            settings = to_struct(PassthroughSettings, {"path": entry}, where, own)
            faults += [msgspec.structs.replace(fault, path=where) for fault in own]
        else:
            continue  # a fault of its type already
        if settings is not None:
            entries.append((where, settings))
    max_body = (server or ServerSettings()).max_body
    routes: list[Passthrough] = []
    for route in opened_routes(entries, max_body, names, chains):
        if isinstance(route, Passthrough):
            routes.append(route)
        else:
            faults.append(ConfigFault(*route))
    return tuple(routes)


def _read(path: Path, faults: list[ConfigFault]) -> dict[str, Any] | None:
    """Return the tables of the file *path*; add a fault and return None if it cannot be read."""
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
    faults.append(fault)
    return None


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
    url = flags.store or environ.get(STORE_VARIABLE)
    if store is not None and store.location.has_password and not url:
        cure = f"keep passwords out of files: set the whole URL in the environment variable {STORE_VARIABLE}"
        faults.append(ConfigFault(path, "the URL contains a password", cure))
    if url:
        path = "--store" if flags.store else STORE_VARIABLE
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
