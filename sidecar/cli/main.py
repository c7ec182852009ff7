"""Run the commands of the command line."""

from __future__ import annotations

import argparse
import gc
import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .arguments import CONFIGURED_COMMANDS, make_parser, take_faults

if TYPE_CHECKING:
    from datetime import date

    from sidecar.config.settings import Settings

SIGINT_EXIT_CODE = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command in *argv*, or in the process's arguments if None; return the exit code (see `sidecar --help`)."""
    try:
        code = _run(argv)
        if sys.stdout is not None:
            sys.stdout.flush()
    except KeyboardInterrupt:
        return SIGINT_EXIT_CODE
    except BrokenPipeError:
        # The reader of stdout has closed the pipe: discard further output, also the flush at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return code


def _run(argv: Sequence[str] | None) -> int:
    try:
        options = make_parser(COMMAND_FUNCTIONS).parse_args(argv)
    except SystemExit as end:
        return int(end.code or 0)
    if lines := take_faults(options):
        print(*lines, sep="\n", file=sys.stderr)
        if options.command in CONFIGURED_COMMANDS:
            _settings(options, need_upstream=False)  # prints the faults of file and environment too
        return 2
    code: int = options.run(options)
    return code


def _config_path(options: argparse.Namespace) -> Path | None:
    """Return the configuration file of the flags or the environment; None for the shipped configuration."""
    file: Path | None = getattr(options, "file", None)
    named = os.environ.get("SIDECAR_CONFIG")
    return file or options.config or (Path(named) if named else None)


def _settings(options: argparse.Namespace, *, need_upstream: bool) -> Settings | None:
    from sidecar.config.loader import load
    from sidecar.config.settings import Flags
    from sidecar.config.tables import ConfigError

    environ = os.environ
    path = _config_path(options)
    given = {name: value for name in Flags.__struct_fields__ if (value := getattr(options, name, None)) is not None}
    try:
        return load(path, environ=environ, flags=Flags(**given), need_upstream=need_upstream)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return None


def _serve(options: argparse.Namespace) -> int:
    # Imported objects are never garbage: the default thresholds spend a tenth of the start on collections of them.
    gc.set_threshold(20_000, 20, 20)
    settings = _settings(options, need_upstream=True)
    if settings is None:
        return 2
    from sidecar.server.run import run

    return run(settings)


def _demo(options: argparse.Namespace) -> int:
    from .demo import demo

    return demo(options.port)


def _mock(options: argparse.Namespace) -> int:
    from .mock import serve_mock

    return serve_mock(
        options.host,
        options.port,
        tokens=options.tokens,
        interval_ms=options.interval_ms,
        first_ms=options.first_ms,
    )


def _usage(options: argparse.Namespace) -> int:
    settings = _settings(options, need_upstream=False)
    if settings is None:
        return 2
    import asyncio
    import time

    from policies.api.store import StoreDown

    from .budget_report import as_json, as_table, read_budgets
    from .limit_report import UnknownTenant, limits_table
    from .shared_store import StoreNotReadable

    try:
        lines = asyncio.run(read_budgets(settings, tenant=options.tenant, now=time.time()))
    except (StoreDown, StoreNotReadable) as error:
        print(f"sidecar: store.url: {error}", file=sys.stderr)
        return 2 if isinstance(error, StoreNotReadable) else 1
    except UnknownTenant as error:
        print(f"sidecar: --tenant: {error}", file=sys.stderr)
        return 2
    store = f"store: {settings.store.location.describe(settings.folder)}"
    if options.json:
        print(store, file=sys.stderr)
        print(as_json(lines))
    else:
        parts = [store, as_table(lines, settings), limits_table(settings, options.tenant)]
        print("\n\n".join(filter(None, parts)))
    return 0


def _correct_budget(options: argparse.Namespace) -> int:
    names = {kind: name for kind in ("user", "model", "ip") if (name := getattr(options, kind)) is not None}
    options.model = None  # `--model` of other commands is a setting
    settings = _settings(options, need_upstream=False)
    if settings is None:
        return 2
    from .budget_correction import correct_and_print
    from .budget_selection import Correction

    tokens, dollars = getattr(options, "tokens", None), getattr(options, "usd", None)
    wanted = Correction(
        tenant=options.tenant,
        policy=options.policy,
        names=names,
        unit="tokens" if dollars is None else "usd",
        amount=tokens if dollars is None else dollars,
    )
    return correct_and_print(settings, wanted)


def _new_key(options: argparse.Namespace) -> int:
    from sidecar.config.keys import new_key

    if _is_past(options.not_after, options.command, "--not-after"):
        return 2
    _print_toml(new_key(options.tenant, id=options.id, not_after=options.not_after, comment=options.comment))
    return 0


def _rotate_key(options: argparse.Namespace) -> int:
    if _is_past(options.old_not_after, options.command, "--old-not-after"):
        return 2
    settings = _settings(options, need_upstream=False)
    if settings is None:
        return 2
    import time

    from .key_commands import KeyNotRotated, rotated_key

    path = _config_path(options)
    source = "the shipped configuration" if path is None else repr(str(path))
    try:
        text = rotated_key(
            settings.keys, options.id, source=source, now=time.time(), old_not_after=options.old_not_after
        )
    except KeyNotRotated as error:
        print(f"sidecar key rotate: argument --id: {error}", file=sys.stderr)
        return 2
    _print_toml(text)
    return 0


def _print_toml(text: str) -> None:
    """Print *text* in UTF-8, the encoding of TOML files, also where the terminal has another one."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8")
    print(text, end="")


def _is_past(last_day: date | None, command: str, flag: str) -> bool:
    """Whether *last_day* has passed, which is printed as a fault of *flag*."""
    import time

    from sidecar.config.key_values.expiry import last_moment

    if time.time() <= last_moment(last_day):
        return False
    print(f"sidecar {command}: argument {flag}: {last_day} has passed; name a later date", file=sys.stderr)
    return True


def _list_keys(options: argparse.Namespace) -> int:
    settings = _settings(options, need_upstream=False)
    if settings is None:
        return 2
    import time

    from .key_commands import key_lines, keys_as_json, keys_as_table

    lines = key_lines(settings.keys, time.time())
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    if _config_path(options) is None:
        print("sidecar key list: no file is named: give --config FILE", file=sys.stderr)
    print(keys_as_json(lines) if options.json else keys_as_table(lines))
    return 0


def _config(_: argparse.Namespace) -> int:
    from sidecar.config.loader import default_text

    print(default_text(), end="")
    return 0


def _check(options: argparse.Namespace) -> int:
    if options.file and options.config and options.file.resolve() != options.config.resolve():
        problem = f"two files: {str(options.file)!r} and --config {str(options.config)!r}; name one of them"
        print(f"sidecar check: {problem}", file=sys.stderr)
        return 2
    settings = _settings(options, need_upstream=False)
    if settings is None:
        return 2
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    chain = " → ".join(policy.name for policy in settings.base.policies) or "no policy"
    print(f"ok: {chain}; profiles: {', '.join(sorted(settings.profiles)) or 'none'}")
    if len(settings.upstreams) > 1:
        from sidecar.config.summary import upstream_lines

        print(*(f"upstream {line}" for line in upstream_lines(settings)), sep="\n")
    return 0


COMMAND_FUNCTIONS = {
    "serve": _serve,
    "demo": _demo,
    "mock": _mock,
    "config": _config,
    "check": _check,
    "usage": _usage,
    "budget reset": _correct_budget,
    "budget grant": _correct_budget,
    "key new": _new_key,
    "key rotate": _rotate_key,
    "key list": _list_keys,
}
"""The function of each command; it imports what the command needs, so that the others stay fast."""
