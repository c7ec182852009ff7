"""Define the commands, their flags and their `--help`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, TypeAlias

from sidecar import __version__

from . import help_text

MAX_PORT = 65535
DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = 8787
DEFAULT_MOCK_PORT = 8788
MICRO_DOLLARS_PER_DOLLAR = 1_000_000
MAX_GRANT = 10**15
"""Most tokens, or micro-dollars, that one command grants."""
PORT_HELP = "port to listen on; 0 picks a free one (default: %(default)s)"
CONFIGURED_COMMANDS = frozenset({"serve", "usage", "budget reset", "budget grant", "check", "key rotate", "key list"})
"""Commands that read the configuration."""

Run: TypeAlias = Callable[[argparse.Namespace], int]


class InvalidFlag(NamedTuple):
    """Placeholder for the invalid value of a flag, so that the other flags are checked too."""

    message: str


def take_faults(options: argparse.Namespace) -> list[str]:
    """Return a line for each flag of *options* with an invalid value, and set those flags to None."""
    program, lines = f"sidecar {options.command}", []
    for name, value in vars(options).items():
        if isinstance(value, InvalidFlag):
            lines.append(f"{program}: argument --{name.replace('_', '-')}: {value.message}; see `{program} --help`")
            setattr(options, name, None)
    return lines


class _Parser(argparse.ArgumentParser):
    """A parser with one-line errors and, if *lists_policies*, a list of policies that is made only for `--help`."""

    lists_policies = False

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}; see `{self.prog} --help`\n")

    def format_help(self) -> str:
        if not self.lists_policies:
            return super().format_help()
        from .policy_list import policy_lines  # noqa: PLC0415  # imports the built-in and installed policies

        policies = f"policies (for `use` in [[policy]]):\n{policy_lines()}\n"
        return super().format_help() + "\n" + policies


def make_parser(commands: Mapping[str, Run]) -> argparse.ArgumentParser:
    """Return the parser of the program; the `run` of its result is the function of the command, from *commands*.

    The keys of *commands* are the names of commands on the command line, "key new" included.
    """
    texts = help_text
    parser = _Parser(
        prog="sidecar",
        description="A policy sidecar: a reverse proxy in front of any OpenAI-compatible endpoint.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=f"{texts.TOP_LEVEL_EXAMPLES}\n{texts.ENVIRONMENT_VARIABLES}\n{texts.EXIT_CODES}",
    )
    parser.lists_policies = True
    version = f"sidecar {__version__}"
    parser.add_argument("--version", action="version", version=version, help="print the version and exit")
    subparsers = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def add(name: str, summary: str, description: str, examples: str, *, to: Any = subparsers) -> _Parser:
        environment = texts.ENVIRONMENT_VARIABLES if name in CONFIGURED_COMMANDS else texts.NO_ENVIRONMENT
        command: _Parser = to.add_parser(
            name.rpartition(" ")[2],
            help=summary,
            description=description,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            epilog=f"{examples}\n{environment}\n{texts.EXIT_CODES}",
        )
        command.set_defaults(run=commands[name], command=name)
        return command

    serve = add("serve", "run the sidecar", texts.SERVE_DESCRIPTION, texts.SERVE_EXAMPLES)
    demo_summary = "try it: a mock upstream and a sidecar in front of it"
    demo = add("demo", demo_summary, texts.DEMO_DESCRIPTION, texts.DEMO_EXAMPLES)
    mock = add("mock", "run the mock upstream alone", texts.MOCK_DESCRIPTION, texts.MOCK_EXAMPLES)
    config_summary = "print the shipped configuration, ready to save and edit"
    config = add("config", config_summary, texts.CONFIG_DESCRIPTION, texts.CONFIG_EXAMPLES)
    usage = add("usage", "show how much of each budget is spent", texts.USAGE_DESCRIPTION, texts.USAGE_EXAMPLES)
    budget_help = "correct what a tenant has spent"
    budget = subparsers.add_parser("budget", help=budget_help, description="Correct what a tenant has spent.")
    corrections = budget.add_subparsers(title="commands", required=True, metavar="COMMAND")
    reset_summary = "set what a tenant has spent in the current window to 0"
    reset = add("budget reset", reset_summary, texts.RESET_DESCRIPTION, texts.RESET_EXAMPLES, to=corrections)
    grant_summary = "give a tenant more until the end of the current window"
    grant = add("budget grant", grant_summary, texts.GRANT_DESCRIPTION, texts.GRANT_EXAMPLES, to=corrections)
    key_help = "create, rotate and list keys of clients"
    key = subparsers.add_parser("key", help=key_help, description="Create, rotate and list keys of clients.")
    actions = key.add_subparsers(title="commands", required=True, metavar="COMMAND")
    key_summary = "print a new key and its [[key]] table"
    new = add("key new", key_summary, texts.NEW_KEY_DESCRIPTION, texts.NEW_KEY_EXAMPLES, to=actions)
    rotate_summary = "print a new key for a [[key]], and its changed table"
    rotate = add("key rotate", rotate_summary, texts.ROTATE_KEY_DESCRIPTION, texts.ROTATE_KEY_EXAMPLES, to=actions)
    listing_summary = "list the keys of the configuration"
    listing = add("key list", listing_summary, texts.LIST_KEYS_DESCRIPTION, texts.LIST_KEYS_EXAMPLES, to=actions)
    check = add("check", "validate a configuration file", texts.CHECK_DESCRIPTION, texts.CHECK_EXAMPLES)

    _add_serve_flags(serve)
    demo.add_argument("--port", type=_port, default=DEFAULT_PORT, metavar="P", help=PORT_HELP)
    _add_mock_flags(mock)
    for command in (usage, reset, grant, check, rotate, listing):
        _add_config(command)
    check.add_argument("file", nargs="?", type=Path, metavar="FILE", help="the file to validate, like --config")
    for command in (usage, reset, grant):
        _add_store(command)
    _add_correction_flags(reset, grant)
    usage.add_argument("--tenant", type=_text, metavar="T", help="show this tenant only (default: all)")
    usage.add_argument("--json", action="store_true", help="print JSON: a list with one object for each budget counter")
    _add_key_flags(new, rotate)
    listing.add_argument("--json", action="store_true", help="print JSON: a list with one object for each key")
    for command in (serve, config, check):
        command.lists_policies = True
    return parser


def _add_serve_flags(serve: argparse.ArgumentParser) -> None:
    _add_config(serve)
    url_help = (
        "base URL of the upstream, with /v1, as an OpenAI SDK takes it (default: the [[upstream]] list of the file, "
    )
    url_help += "else OpenAI if OPENAI_API_KEY is set)"
    model_help = "model of calls that name none (default: `model` of the upstream, else the first model that it lists)"
    workers_help = "number of processes (default: %(default)s); several need a sqlite:/// or redis:// store"
    serve.add_argument("--upstream", type=_text, metavar="URL", help=url_help)
    serve.add_argument("--model", type=_text, metavar="NAME", help=model_help)
    serve.add_argument("--host", type=_text, metavar="H", help=f"address to listen on (default: {DEFAULT_HOST})")
    serve.add_argument("--port", type=_port, metavar="P", help=PORT_HELP % {"default": DEFAULT_PORT})
    _add_store(serve)
    serve.add_argument("--workers", type=_positive, default=1, metavar="N", help=workers_help)


def _add_mock_flags(mock: argparse.ArgumentParser) -> None:
    host_help = "address to listen on (default: %(default)s)"
    tokens_help = "tokens of a response (default: %(default)s)"
    interval_help = "milliseconds between two tokens (default: %(default)g)"
    first_help = "milliseconds before the first token (default: %(default)g)"
    mock.add_argument("--host", type=_text, default=DEFAULT_HOST, metavar="H", help=host_help)
    mock.add_argument("--port", type=_port, default=DEFAULT_MOCK_PORT, metavar="P", help=PORT_HELP)
    mock.add_argument("--tokens", type=_positive, default=64, metavar="N", help=tokens_help)
    mock.add_argument("--interval-ms", type=_milliseconds, default=0.0, metavar="N", help=interval_help)
    mock.add_argument("--first-ms", type=_milliseconds, default=0.0, metavar="N", help=first_help)


def _add_key_flags(new: _Parser, rotate: _Parser) -> None:
    tenant_help = "tenant of the key (default: %(default)s)"
    new_date_help = "last day of the key, or its last moment with an offset from UTC (default: none)"
    old_date_help = "last day or last moment of the old key (default: it is valid until its hash is removed)"
    new.add_argument("--tenant", type=_tenant, default="default", metavar="T", help=tenant_help)
    new.add_argument(
        "--id", type=_key_id, metavar="ID", help="name of the key in logs and for `key rotate` (default: none)"
    )
    new.add_argument("--not-after", type=_date, metavar="DATE", help=new_date_help)
    new.add_argument("--comment", type=_comment, metavar="TEXT", help="a note for `key list` (default: none)")
    rotate.add_argument("--id", type=_key_id, required=True, metavar="ID", help="`id` of the [[key]]")
    rotate.add_argument("--old-not-after", type=_date, metavar="DATE", help=old_date_help)


def _add_correction_flags(reset: _Parser, grant: _Parser) -> None:
    for command, policy_help in (
        (reset, "correct this budget only (default: all that count by tenant)"),
        (grant, "budget to correct (default: the only one in this unit that counts by tenant)"),
    ):
        command.add_argument("--tenant", type=_text, required=True, metavar="T", help="tenant to correct")
        command.add_argument("--policy", type=_text, metavar="P", help=policy_help)
        for kind in ("user", "model", "ip"):
            counted_help = f"counters of this {kind} only, in budgets that count by {kind}"
            command.add_argument(f"--{kind}", type=_text, metavar="NAME", help=counted_help)
    amount = grant.add_mutually_exclusive_group(required=True)
    amount.add_argument("--tokens", type=_granted_tokens, metavar="N", help="tokens to subtract from what is spent")
    amount.add_argument("--usd", type=_micro_dollars, metavar="N", help="dollars to subtract from what is spent")


def _add_config(parser: argparse.ArgumentParser) -> None:
    file_help = "configuration file (default: the shipped configuration; no file is searched for)"
    parser.add_argument("--config", type=Path, metavar="FILE", help=file_help)


def _add_store(parser: argparse.ArgumentParser) -> None:
    store_help = (
        "store of the limits: sqlite:///FILE, redis://HOST:PORT/DB or memory:// (default: `store.url` of the file)"
    )
    parser.add_argument("--store", type=_text, metavar="URL", help=store_help)


def _text(text: str) -> str | InvalidFlag:
    return text if text.strip() else InvalidFlag("the value is empty: omit the flag, or give a value")


def _tenant(text: str) -> str | InvalidFlag:
    from sidecar.config.key_values.texts import tenant_fault  # noqa: PLC0415

    found = _text(text)
    return InvalidFlag(fault) if isinstance(found, str) and (fault := tenant_fault(text)) else found


def _key_id(text: str) -> str | InvalidFlag:
    from sidecar.config.key_values.texts import id_fault  # noqa: PLC0415  # two commands need it

    return InvalidFlag(fault) if (fault := id_fault(text)) else text


def _comment(text: str) -> str | InvalidFlag:
    from sidecar.config.key_values.texts import comment_fault  # noqa: PLC0415

    return InvalidFlag(fault) if (fault := comment_fault(text)) else text


def _date(text: str) -> date | InvalidFlag:
    from sidecar.config.key_values.expiry import read_date  # noqa: PLC0415

    try:
        return read_date(text)
    except ValueError as error:
        return InvalidFlag(str(error))


def _port(text: str) -> int | InvalidFlag:
    return _number(text, range(MAX_PORT + 1), f"a whole number from 0 to {MAX_PORT}")


def _positive(text: str) -> int | InvalidFlag:
    return _number(text, range(1, sys.maxsize), "a whole number >= 1")


def _granted_tokens(text: str) -> int | InvalidFlag:
    return _number(text, range(1, MAX_GRANT + 1), f"a whole number from 1 to {MAX_GRANT:,}")


def _micro_dollars(text: str) -> int | InvalidFlag:
    from decimal import Decimal  # noqa: PLC0415  # one command needs it

    expected = f"a number of dollars from 0.000001 to {MAX_GRANT // MICRO_DOLLARS_PER_DOLLAR:,}"
    try:
        amount = Decimal(text) * MICRO_DOLLARS_PER_DOLLAR
        is_whole = amount == int(amount)
    except (ArithmeticError, ValueError):  # no number, infinite, or none at all
        return _invalid(text, expected)
    return int(amount) if is_whole and 1 <= amount <= MAX_GRANT else _invalid(text, expected)


def _number(text: str, allowed: range, expected: str) -> int | InvalidFlag:
    try:
        number = int(text)
    except ValueError:
        return _invalid(text, expected)
    return number if number in allowed else _invalid(text, expected)


def _milliseconds(text: str) -> float | InvalidFlag:
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number < float("inf"):
        return _invalid(text, "a number of milliseconds >= 0")
    return number


def _invalid(text: str, expected: str) -> InvalidFlag:
    return InvalidFlag(f"invalid value {text!r}: expected {expected}")
