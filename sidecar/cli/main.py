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


def _settings(options: argparse.Namespace, *, need_upstream: bool) -> Settings | None:
    from sidecar.config.loader import load
    from sidecar.config.settings import Flags
    from sidecar.config.tables import ConfigError

    environ = os.environ
    file: Path | None = getattr(options, "file", None)
    path = file or options.config or (Path(name) if (name := environ.get("SIDECAR_CONFIG")) else None)
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

    from .budget_report import StoreNotReadable, as_json, as_table, read_budgets
    from .limit_report import UnknownTenant, limits_table

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


def _new_key(options: argparse.Namespace) -> int:
    from sidecar.config.keys import new_key

    print(new_key(options.tenant), end="")
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
    "key new": _new_key,
}
"""The function of each command; it imports what the command needs, so that the others stay fast."""
