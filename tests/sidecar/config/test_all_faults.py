"""All faults of a configuration are reported by one start, also several of one table."""

from __future__ import annotations

from pathlib import Path

import pytest
from checked_files import POLICY_MODULES, lines
from importable_modules import folder_with_modules

from sidecar.config.loader import load
from sidecar.config.settings import Flags
from sidecar.config.tables import ConfigError

TEXT = """
unknown = 1
[server]
port = "x"
hoast = "h"
cors_origins = ["nope", "*", "neither"]
trusted_proxies = ["10.0.0.1", "me"]
chat_roles = ["robot", "user", "tool"]
[store]
url = "mysql://user:secret@h"
[log]
level = "loud"
format = 3
[[upstream]]
base_url = "http://h/v1/chat/completions"
api_key_env = "NOT_SET"
headers = { "a b" = "x", Cookie = "c" }
forward_headers = ["cookie", "*"]
idle = 0
[[upstream]]
base_url = "https://h/v1"
name = "upstream-1"
api_key_file = "none.key"
ca = "none.pem"
breaker = { rate = 2, calls = -1 }
[[key]]
sha256 = "x"
profiles = ["none"]
limits = { rate = { requests = "many" }, nothing = { x = 1 } }
[prices.a]
input = "x"
output = -1
[[observer]]
use = "check_none:X"
[[policy]]
use = "rate"
requests = 0
by = "nobody"
[[policy]]
use = "budget"
name = "day"
tokens = 0
timezone = "Mars/Base"
reserve = "bound"
answer = 3
[[policy]]
use = "retry"
on = ["idle_timeout", "nope"]
never = ["status:200"]
base = 9
cap = 1
[[policy]]
use = "retry"
[[policy]]
use = "fallback"
to = ["far", "upstream-1", "far"]
[profile.guest]
rate = { requests = "few", requets = 1 }
day = { tokens = 1.5, window = "hour" }
temperature = 9
[profile.other]
none = 1
"""
PATHS = [
    "unknown", "server.port", "server.hoast", "server.cors_origins[0]", "server.cors_origins[2]",
    "server.trusted_proxies[1]", "server.chat_roles[0]", "server.chat_roles[2]", "store.url", "log.level", "log.format",
    "upstream[0].base_url", "upstream[0].api_key_env", "upstream[0].headers", "upstream[0].headers",
    "upstream[0].forward_headers[0]", "upstream[0].forward_headers[1]", "upstream[0].idle",
    "upstream[1].name", "upstream[1].api_key_file", "upstream[1].ca", "upstream[1].breaker.rate",
    "upstream[1].breaker.calls", "key[0].tenant", "key[0].sha256", "key[0].profiles[0]", "key[0].limits.rate.requests",
    "key[0].limits.nothing", "prices.a.input", "prices.a.output", "observer[0].use", "policy[0].requests", "policy[0].by",
    "policy[1].tokens", "policy[1].timezone", "policy[1].answer", "policy[2].on[0]", "policy[2].on[1]",
    "policy[2].never[0]", "policy[2].base", "policy[3]", "policy[4].to", "profile.guest.rate.requests",
    "profile.guest.rate.requets", "profile.guest.day.tokens", "profile.guest.day.window", "profile.guest.temperature",
    "profile.other.none", "SIDECAR_PORT", "SIDECAR_UPSTREAM_KEY",
]  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with policy modules; imports from it are undone after the test."""
    return folder_with_modules(tmp_path, monkeypatch, POLICY_MODULES)


def paths(found: list[str]) -> list[str]:
    return [line.split(": ")[1] for line in found]


def test_every_fault_is_reported_once(folder: Path) -> None:
    """Unknown keys, wrong types, impossible values, missing secrets and files of all tables are reported together, once."""
    environ = {"SIDECAR_PORT": "x"}
    found = lines(folder, TEXT, environ, upstream=None)
    by_flag = lines(folder, TEXT, environ | {"SIDECAR_UPSTREAM_KEY": "a\nb"}, upstream="ftp://h", store="x")

    assert sorted(paths(found)) == sorted(each for each in PATHS if each != "SIDECAR_UPSTREAM_KEY")
    assert {"--upstream", "--store", "SIDECAR_PORT", "SIDECAR_UPSTREAM_KEY"} <= set(paths(by_flag))
    assert "user" not in "".join(line for line in found if "store" in line)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[[policy]]\nuse = 'budget'\ntokns = 5\n", ["policy[0].tokns"]),
        ("[[policy]]\nuse = 'budget'\nusd = 'x'\n[prices.a]\ninput = 1\noutput = 1\n", ["policy[0].usd"]),
        ("[[policy]]\nuse = 'budget'\ntokens = 'x'\n", ["policy[0].tokens"]),
        ("[[policy]]\nuse = 'retry'\ncap = 'x'\nbase = 9\n", ["policy[0].cap"]),
        ("[[policy]]\nuse = 'check_rules:Runs'\nleast = 'x'\n", ["policy[0].least"]),
        ("[[policy]]\nuse = 'check_rules:Runs'\nmost = 0\nname = 3\n", ["policy[0].name", "policy[0].least"]),
        ("[[upstream]]\nbase_url = 'http://h/v1'\napi_key_env = 3\napi_key_header = 'api-key'\n", ["upstream[0].api_key_env"]),
        ("[[upstream]]\nbase_url = 'ftp://h/v1'\nca = 'x.pem'\n", ["upstream[0].base_url"]),
        ("[[policy]]\nuse = 'rat'\nrequests = 1\n[profile.x]\nrate = { requests = 1 }\n", ["policy[0].use"]),
        ("policy = 3\n[profile.x]\nrate = { requests = 1 }\n", ["policy"]),
    ],
)  # fmt: skip
def test_fault_has_no_consequences(folder: Path, text: str, expected: list[str]) -> None:
    """A faulty option is not taken for a missing one, nor for its default: what depends on it is not reported."""
    assert paths(lines(folder, text)) == expected


def test_environment_is_checked_without_a_readable_file(folder: Path) -> None:
    """A file that is missing or is no TOML is one fault, beside those of the environment; its upstreams are not missed."""
    (folder / "bad.toml").write_text("x = \n")
    for name, expected in (("bad.toml", "line 1, column 5"), ("none.toml", "file")):
        with pytest.raises(ConfigError) as found:
            load(folder / name, environ={"SIDECAR_PORT": "x", "SIDECAR_STORE": "y"}, flags=Flags())
        assert [fault.path for fault in found.value.faults] == [expected, "SIDECAR_PORT", "SIDECAR_STORE"]


def test_upstreams_of_fallbacks_in_profiles(folder: Path) -> None:
    """An unknown upstream is found in the chain, in profiles and in limits of keys, at the key path of its place in the list."""
    text = "[[policy]]\nuse = 'fallback'\nto = ['a', 'b']\n[profile.x]\nfallback = { to = ['c'] }\n"
    text = "[[upstream]]\nbase_url = 'http://h/v1'\nname = 'a'\n" + text
    text += f"[[key]]\ntenant = 't'\nsha256 = '{'0' * 64}'\nlimits = {{ fallback = {{ to = ['d'] }} }}\n"

    cure = "use one of 'a'"
    assert lines(folder, text, upstream=None) == [
        f"F: policy[0].to[1]: unknown upstream 'b'; {cure}",
        f"F: profile.x.fallback.to[0]: unknown upstream 'c'; {cure}",
        f"F: key[0].limits.fallback.to[0]: unknown upstream 'd'; {cure}",
    ]


def test_password_of_a_wrong_type_is_not_shown(folder: Path) -> None:
    """A store URL in a list is a wrong type, and its password is not repeated."""
    (line,) = lines(folder, "[store]\nurl = ['redis://me:se/cret@h/0']")
    assert line.startswith("F: store.url: invalid value ['redis://h/0']: expected a string")
