"""The command line."""

from __future__ import annotations

import argparse
import gc
import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from sidecar import __version__

if TYPE_CHECKING:
    from sidecar.config.settings import Settings

INTERRUPTED = 130


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}; see `{self.prog} --help`\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command that *argv* names; return the exit code: 2 for wrong flags and files."""
    try:
        code = _run(argv)
        if sys.stdout is not None:
            sys.stdout.flush()
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has gone; nothing more may be written, not even at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return code


def _run(argv: Sequence[str] | None) -> int:
    try:
        options = _parser().parse_args(argv)
    except SystemExit as end:
        return int(end.code or 0)
    code: int = options.run(options)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="sidecar", description="A policy sidecar in front of any OpenAI-compatible endpoint.")
    parser.add_argument("--version", action="version", version=f"sidecar {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    serve = commands.add_parser("serve", help="run the sidecar")
    serve.add_argument("--config", type=Path, metavar="FILE", help="a configuration file; the shipped one without")
    serve.add_argument(
        "--upstream", type=_text, metavar="URL", help="the endpoint, as an OpenAI SDK takes it (with /v1)"
    )
    serve.add_argument("--model", type=_text, metavar="NAME", help="the model of calls that name none")
    serve.add_argument("--host", type=_text, metavar="H", help="address to listen on (127.0.0.1)")
    serve.add_argument("--port", type=_port, metavar="P", help="port to listen on (8787); 0 picks one")
    serve.add_argument("--workers", type=_positive, default=1, metavar="N", help="processes (1)")
    serve.set_defaults(run=_serve)

    demo = commands.add_parser("demo", help="try it: a mock upstream and a sidecar in front of it")
    demo.add_argument("--port", type=_port, default=8787, metavar="P", help="port to listen on (8787)")
    demo.set_defaults(run=_demo)

    mock = commands.add_parser("mock", help="run the mock upstream alone")
    mock.add_argument("--host", type=_text, default="127.0.0.1", metavar="H", help="address to listen on (127.0.0.1)")
    mock.add_argument("--port", type=_port, default=8788, metavar="P", help="port to listen on (8788); 0 picks one")
    mock.add_argument("--tokens", type=_positive, default=64, metavar="N", help="tokens of an answer (64)")
    mock.add_argument("--interval-ms", type=_milliseconds, default=0.0, metavar="N", help="between two tokens (0)")
    mock.add_argument("--first-ms", type=_milliseconds, default=0.0, metavar="N", help="before the first token (0)")
    mock.set_defaults(run=_mock)

    config = commands.add_parser("config", help="print the shipped configuration, ready to save and edit")
    config.set_defaults(run=_config)

    usage = commands.add_parser("usage", help="show where each budget stands")
    usage.add_argument("--config", type=Path, metavar="FILE", help="the file; the shipped defaults without")
    usage.add_argument("--tenant", type=_text, metavar="T", help="this tenant's alone")
    usage.add_argument("--json", action="store_true", help="as JSON: a list with an object for each counter")
    usage.set_defaults(run=_usage)

    key = commands.add_parser("key", help="make keys for clients")
    actions = key.add_subparsers(title="commands", required=True, metavar="COMMAND")
    new = actions.add_parser("new", help="print a new key, and the table that lets it in")
    new.add_argument("--tenant", type=_text, default="default", metavar="T", help="for whom its calls count (default)")
    new.set_defaults(run=_new_key)

    check = commands.add_parser("check", help="validate a configuration file")
    check.add_argument("--config", type=Path, metavar="FILE", help="the file; the shipped defaults without")
    check.set_defaults(run=_check)
    return parser


def _text(text: str) -> str:
    if not text.strip():
        msg = "it is empty; leave it out, or say what it is to be"
        raise argparse.ArgumentTypeError(msg)
    return text


def _number(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        msg = f"{text!r} is no whole number"
        raise argparse.ArgumentTypeError(msg) from None


def _port(text: str) -> int:
    port = _number(text)
    if not 0 <= port < 65536:  # noqa: PLR2004  # ports have 16 bits
        msg = f"{port} is no port, it must be from 0 to 65535"
        raise argparse.ArgumentTypeError(msg)
    return port


def _positive(text: str) -> int:
    number = _number(text)
    if number < 1:
        msg = f"{number} is too small, it must be at least 1"
        raise argparse.ArgumentTypeError(msg)
    return number


def _milliseconds(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number < float("inf"):
        msg = f"{text!r} is no number of milliseconds"
        raise argparse.ArgumentTypeError(msg)
    return number


def _settings(options: argparse.Namespace, *, need_upstream: bool) -> Settings | None:
    from sidecar.config.loader import load
    from sidecar.config.settings import Flags
    from sidecar.config.tables import ConfigError

    environ = os.environ
    path: Path | None = options.config or (Path(said) if (said := environ.get("SIDECAR_CONFIG")) else None)
    given = {name: value for name in Flags.__struct_fields__ if (value := getattr(options, name, None)) is not None}
    try:
        return load(path, environ=environ, flags=Flags(**given), need_upstream=need_upstream)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return None


def _serve(options: argparse.Namespace) -> int:
    # What is imported now stays: to look through it for garbage again and again takes a tenth of the start.
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

    from .budget_report import NothingToRead, as_json, as_table, usage

    try:
        standings = asyncio.run(usage(settings, tenant=options.tenant, now=time.time()))
    except (StoreDown, NothingToRead) as error:
        print(f"sidecar: store.url: {error}", file=sys.stderr)
        return 2 if isinstance(error, NothingToRead) else 1
    print(as_json(standings) if options.json else as_table(standings, settings))
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
    settings = _settings(options, need_upstream=False)
    if settings is None:
        return 2
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    chain = " → ".join(policy.name for policy in settings.base.policies) or "no policy"
    print(f"ok: {chain}; profiles: {', '.join(sorted(settings.profiles)) or 'none'}")
    return 0
