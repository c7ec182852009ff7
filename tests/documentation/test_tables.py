"""The tables of the documents say what the code does: settings, defaults, limits, refusals, figures."""

from __future__ import annotations

import re
import tomllib
from typing import Any

import msgspec
import pytest
from documents import rows
from places import ROOT

from policies import Budget, MaxTokens, Rate, Record, Trim
from policies.api.policy import Policy
from sidecar.config.access import Profile
from sidecar.config.keys import KeySettings
from sidecar.config.loader import load
from sidecar.config.log import LogSettings
from sidecar.config.policies import BUILT_IN
from sidecar.config.settings import Flags, ServerSettings, StoreSettings
from sidecar.config.upstream import UpstreamSettings
from sidecar.downstream import client_errors
from sidecar.downstream.upstream_failures import MESSAGES_BY_KIND
from sidecar.server.app import DATA_ROUTES
from sidecar.server.http1 import http_limits
from sidecar.wire.operations.chat_nest import CHAT_NEST
from sidecar.wire.operations.registry import GOVERNED_OPERATIONS
from sidecar.wire.request.documented_fields import OPENAI_FIELDS, SERVER_FIELDS
from sidecar.wire.stored.paths import COMPACT_PATH, CONVERSATIONS_PATH, RESPONSE_ROUTE

CONFIGURATION = (ROOT / "docs" / "configuration.md").read_text()
FAILURES = (ROOT / "docs" / "failures.md").read_text()
OPERATIONS = (ROOT / "docs" / "operations.md").read_text()
README = (ROOT / "README.md").read_text()
DEFAULTS = (ROOT / "sidecar" / "config" / "defaults.toml").read_text()
HEADER = "| setting | default | meaning |"
SECTIONS: dict[str, type[msgspec.Struct]] = {
    "server": ServerSettings,
    "store": StoreSettings,
    "[upstream]": UpstreamSettings,
    "[key]": KeySettings,
    "log": LogSettings,
}
SHIPPED = load(None, environ={}, flags=Flags(), need_upstream=False)


def documented(table: str) -> dict[str, Any]:
    """Return the settings of a table with their defaults; None for one without."""
    return {
        name.strip("`"): tomllib.loads(f"x = {default.strip('`')}")["x"] if default else None
        for name, default, _ in rows(table, HEADER)
    }


def defaults(settings: type[msgspec.Struct]) -> dict[str, Any]:
    """Return the settings of the code with their defaults; None for one without."""
    found = {}
    for field in msgspec.structs.fields(settings):
        default = field.default if field.default_factory is msgspec.NODEFAULT else field.default_factory()
        found[field.encode_name] = (
            None if default is msgspec.NODEFAULT else msgspec.json.decode(msgspec.json.encode(default))
        )
    return found


@pytest.mark.parametrize("section", SECTIONS)
def test_sections_have_all_settings(section: str) -> None:
    """Each section of docs/configuration.md has the settings of the code, with their defaults."""
    part = CONFIGURATION.split(f"\n## `[{section}]`\n")[1].split("\n## ")[0]
    assert documented(part) == defaults(SECTIONS[section])


@pytest.mark.parametrize("section", SECTIONS)
def test_shipped_configuration_has_all_settings(section: str) -> None:
    """`sidecar config` prints each section with all of its settings, and with no other one."""
    part = DEFAULTS.split(f"[{section}]\n")[1].split("\n\n")[0]
    assert set(re.findall(r"^(?:# )?(\w+) = ", part, re.MULTILINE)) == set(defaults(SECTIONS[section]))


@pytest.mark.parametrize("name", BUILT_IN)
def test_shipped_configuration_has_all_options(name: str) -> None:
    """`sidecar config` prints each built-in policy with all of its own options; prices and dollars have a comment."""
    part = DEFAULTS.split(f'use = "{name}"')[1].split("\n\n")[0]
    own = set(defaults(BUILT_IN[name])) - set(Policy.__struct_encode_fields__)
    assert own - set(re.findall(r"(\w+) = ", part)) <= {"prices"}


@pytest.mark.parametrize("name", BUILT_IN)
def test_policies_have_all_options(name: str) -> None:
    """Each built-in policy of docs/configuration.md has the options of its class, with their defaults."""
    part = (
        CONFIGURATION.split("\n## `[[policy]]`\n")[1].split(f"\n`{name}`: ")[1]
        if f"\n`{name}`: " in CONFIGURATION
        else ""
    )
    part = part or CONFIGURATION.split(f"\n`{name}`:\n")[1]
    shared = defaults(Policy)
    options = {option: default for option, default in defaults(BUILT_IN[name]).items() if option not in shared}
    assert documented(part) == options


def test_shared_options_are_documented() -> None:
    """docs/configuration.md has the options that all policies share."""
    part = CONFIGURATION.split("\n## `[[policy]]`\n")[1]
    assert {name.strip("`") for name, _, _ in rows(part, HEADER)} == set(Policy.__struct_encode_fields__)


def test_documented_fields_are_listed() -> None:
    """docs/configuration.md lists the fields that are forwarded with `fields = "known"`, in two groups."""
    part = CONFIGURATION.split("\n## Fields of requests\n")[1].split("\n## ")[0]
    paragraphs = [each for each in part.split("\n\n") if each.startswith("`")]
    listed = [re.findall(r"`(\w+)`", each) for each in paragraphs if "," in each]
    assert listed[-2:] == [list(OPENAI_FIELDS), list(SERVER_FIELDS)]


def test_every_api_is_described() -> None:
    """docs/apis.md has the routes of each API, below the base URL of upstreams too, and the README has each route."""
    apis = (ROOT / "docs" / "apis.md").read_text()
    governed = {(row[1].strip("`"), row[2].strip("`")) for row in rows(apis, "| API | route | upstream's route |")}
    assert governed == {(each.path, each.upstream_path) for each in (*GOVERNED_OPERATIONS, CHAT_NEST)}
    for document, table in [(apis, "| route | limits |"), (README, "| route | response |")]:
        named = [path for row in rows(document, table) for path in re.findall(r"/[\w/{}]+", row[0])]
        described = [*named, *(path for path, _ in governed if document is apis)]
        below = tuple(path for path in named if path in (CONVERSATIONS_PATH, RESPONSE_ROUTE))
        assert {path for path in DATA_ROUTES if path not in described and not path.startswith(below)} == {COMPACT_PATH}


def test_every_policy_is_described() -> None:
    """The README's table has each built-in policy."""
    assert {row[0].strip("`") for row in rows(README, "| policy | effect |")} == set(BUILT_IN)


def policy_of(profile: Profile, kind: type[Any]) -> Any:
    (found,) = (policy for policy in profile.policies if isinstance(policy, kind))
    return found


def test_documented_default_limits_are_the_shipped_ones() -> None:
    """The README's default limits are those of the shipped configuration."""
    base, chat, server = SHIPPED.base, SHIPPED.profiles["balanced"], SHIPPED.server
    ceiling = policy_of(chat, MaxTokens)
    expected = [
        [str(policy_of(each, Rate).requests) for each in (base, chat)],
        [f"{policy_of(each, Budget).tokens:,}" for each in (base, chat)],
        ["what the request sets; else until the budget is used up", f"{ceiling.output:,}"],
        ["unlimited", f"{ceiling.request:,}"],
        ["all", f"the last {policy_of(chat, Trim).max_messages}, and the instructions"],
        [f"{server.deadline:,.0f} s", f"{server.chat_deadline:,.0f} s"],
        [f"{size // 2**20} MiB" for size in (server.max_body, server.chat_max_body)],
    ]
    assert [row[1:] for row in rows(README, "| limit |")] == expected


def test_documented_profiles_are_the_shipped_ones() -> None:
    """docs/configuration.md has the shipped profiles and their limits."""
    expected = []
    for name, profile in SHIPPED.profiles.items():
        ceiling = policy_of(profile, MaxTokens)
        numbers = [policy_of(profile, Rate).requests, policy_of(profile, Trim).max_messages, ceiling.output]
        numbers += [ceiling.request, policy_of(profile, Budget).tokens]
        expected.append([f"`{name}`", *(f"{number:,}" for number in numbers), str(profile.temperature)])
    assert rows(CONFIGURATION, "| shipped profile |") == expected


def test_every_refusal_is_documented() -> None:
    """docs/failures.md has each refusal of the sidecar and of the built-in policies, with its status."""
    own = [
        client_errors.invalid_request("", None),
        client_errors.unauthorized(),
        client_errors.forbidden("", None),
        client_errors.host_not_allowed(""),
        client_errors.cross_site(""),
        client_errors.not_found(""),
        client_errors.method_not_allowed(""),
        client_errors.body_too_large(1),
        client_errors.unsupported_media_type(),
        client_errors.internal_error(),
        client_errors.draining(),
        client_errors.unread_requests_full(),
        client_errors.unknown_reference("response", ""),
        client_errors.owners_unavailable(),
        client_errors.too_many_counts(1),
        http_limits.slow_head(1.0),
        http_limits.long_url(),
        http_limits.many_fields(""),
        http_limits.other_version(),
        http_limits.no_websockets(),
    ]
    sources = [*(ROOT / "policies" / "builtin").glob("*.py"), ROOT / "policies" / "engine" / "ledger.py"]
    sources += (ROOT / "sidecar" / "upstream" / "routing").glob("*.py")
    sources.append(ROOT / "sidecar" / "upstream" / "relay_attempt.py")
    rejections = {
        (code, int(status))
        for source in sources
        for status, code in re.findall(r'Rejection\(\s*(\d+), "(\w+)"', source.read_text())
    }
    table = [(row[1].strip("`"), int(row[0])) for row in rows(FAILURES, "| status | code | cause |")]
    assert sorted(table) == sorted({(error.code, error.status) for error in own} | rejections)


def test_every_code_is_documented() -> None:
    """docs/failures.md names each code that is written in the sidecar, in the engine and in the built-in policies."""
    folders = ("policies/builtin", "policies/engine", "sidecar/downstream", "sidecar/server", "sidecar/upstream")
    text = "\n".join(path.read_text() for folder in folders for path in (ROOT / folder).rglob("*.py"))
    codes = set(re.findall(r'Rejection\(\s*\d+, "(\w+)"|\bcode=\s*"(\w+)"|"code": "(\w+)"', text))
    named = set(re.findall(r"`(\w+)`", FAILURES))
    assert {code for found in codes for code in found if code} <= named


def test_codes_of_upstream_failures_are_documented() -> None:
    """docs/failures.md names the codes that clients get for failures of upstreams."""
    text = FAILURES.split("Codes that clients receive:")[1].split("\n\n")[0]
    codes = {each.code for each in MESSAGES_BY_KIND.values()}
    assert codes <= set(re.findall(r"`(\w+)`", text))


def test_every_record_field_is_documented() -> None:
    """docs/operations.md has each field of a record."""
    named: set[str] = set()
    for text, fields, _ in rows(OPERATIONS, "| text | JSON | meaning |"):
        named.update(re.findall(r"`(\w+)`", text if fields == "the same" else fields))
    assert named == set(Record.__struct_fields__)


def test_costs_are_the_measured_ones() -> None:
    """The README's figures are those of bench/README.md."""
    bench = (ROOT / "bench" / "README.md").read_text().split("## Figures")[1]
    for _, sidecar, _, ratio in rows(README, "| CPU | sidecar | nginx | ratio |"):
        assert f"| {sidecar.removesuffix(' µs')} us | {ratio} |" in bench
