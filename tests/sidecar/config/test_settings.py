"""Loading of the configuration: shipped defaults, precedence, keys and faults."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import msgspec
import pytest

from policies import Budget, Fallback, MaxTokens, Policy, Rate, RetryClassifier, Trim
from sidecar.config.loader import default_text, load
from sidecar.config.policies import BUILT_IN
from sidecar.config.settings import Flags, ServerSettings, Settings, StoreSettings
from sidecar.config.tables import ConfigError
from sidecar.config.upstream import UpstreamSettings

HERE = "http://127.0.0.1:1/v1"


def loaded(folder: Path, text: str | None, environ: dict[str, str] | None = None, **flags: Any) -> Settings:
    path = None
    if text is not None:
        path = folder / "s.toml"
        path.write_text(text)
    flags.setdefault("upstream", HERE)
    return load(path, environ=environ or {}, flags=Flags(**flags))


def faults(folder: Path, text: str, environ: dict[str, str] | None = None, **flags: Any) -> list[str]:
    with pytest.raises(ConfigError) as found:
        loaded(folder, text, environ, **flags)
    return [fault.line("FILE") for fault in found.value.faults]


def named(settings: Settings, profile: str, policy: str) -> Any:
    return next(x for x in settings.profiles[profile].policies if x.name == policy)


def test_shipped_chain_and_profiles(tmp_path: Path) -> None:
    """The shipped chain and profiles have Chat Nest's limits."""
    settings = loaded(tmp_path, None)

    assert [policy.name for policy in settings.base.policies] == [
        "rate",
        "trim",
        "max_tokens",
        "budget",
        "fallback",
        "retry",
    ]
    assert [type(policy) for policy in settings.base.policies] == [
        Rate,
        Trim,
        MaxTokens,
        Budget,
        Fallback,
        RetryClassifier,
    ]
    numbers = {
        name: (
            named(settings, name, "max_tokens").output,
            named(settings, name, "trim").max_messages,
            settings.profiles[name].temperature,
            named(settings, name, "budget").tokens,
            named(settings, name, "max_tokens").request,
            named(settings, name, "rate").requests,
        )
        for name in settings.profiles
    }
    assert numbers == {
        "constrained": (150, 4, 0.5, 30_000, 2048, 15),
        "balanced": (400, 6, 0.7, 70_000, 2048, 30),
        "expanded": (3000, 12, 0.8, 200_000, 12_000, 60),
    }


def test_printed_configuration_equals_the_defaults(tmp_path: Path) -> None:
    """Loading the printed configuration gives the same settings as loading none."""
    plain = msgspec.structs.replace(loaded(tmp_path, None), folder=tmp_path)

    assert loaded(tmp_path, default_text()) == plain


def test_every_option_is_in_the_file() -> None:
    """The shipped file lists every option of the server, store, upstream and built-in policies with its default."""
    text = default_text()
    data = tomllib.loads(text)
    for kind, table in ((ServerSettings, data["server"]), (StoreSettings, data["store"])):
        found = msgspec.to_builtins(msgspec.convert(table, kind))
        assert found == msgspec.to_builtins(kind())
        assert set(table) == set(found)
    for use, policy in BUILT_IN.items():
        fields = [field for field in msgspec.structs.fields(policy) if field.name not in Policy.__struct_fields__]
        entries = [entry for entry in data["policy"] if entry["use"] == use]
        if not entries:  # it is not in the shipped chain: a comment shows it
            comment = text.split(f'# use = "{use}"')[1].split("\n\n")[0]
            assert all(f"\n# {field.name} = " in comment for field in fields)
            continue
        (entry,) = entries
        commented = {field.name for field in fields if f"\n# {field.name} = " in text}
        assert {field.name for field in fields} - {"usd", "prices"} - commented <= set(entry)
        for field in [field for field in fields if field.name in entry]:
            found = msgspec.convert(entry[field.name], field.type)
            assert field.required or field.default in (None, found)
    for field_name in (*Policy.__struct_encode_fields__, *UpstreamSettings.__struct_fields__):
        assert f"{field_name} = " in text


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("sever = 1", "sever: unknown key; did you mean 'server'?"),
        ("[server]\nprot = 1", "server.prot: unknown key; did you mean 'port'?"),
        ("[server]\nport = 99999", "server.port: invalid value 99999: expected a whole number <= 65535; omit port for the default 8787"),
        ("[server]\nport = 'x'", "server.port: invalid value 'x': expected a whole number; omit port for the default 8787"),
        ("[server]\nheartbeat = 0", "server.heartbeat: invalid value 0: expected a number of seconds > 0; omit heartbeat for the default 15"),
        ("[server]\ndrain = true", "server.drain: invalid value true: expected a number of seconds; omit drain for the default 30"),
        ("server = 3", "server: expected a table, found 3; write its keys below [server]"),
        ("[server]\ncors_origins = ['x']", "server.cors_origins[0]: 'x' is not an origin; write it like 'https://app.example.org' or 'http://localhost:5173', or '*' for any"),
        ("[store]\nurl = 'redis://h/x'", "store.url: invalid store URL 'redis://h/x'; the database must be a number: 'redis://HOST:PORT/0'"),
        ("[store]\nurl = 'redis://h?db=3'", "store.url: invalid store URL 'redis://h'; remove the option 'db': there are only 'prefix' and 'wait'"),
        ("[store]\nurl = 'redis://:secret@h'", "store.url: the URL contains a password; keep passwords out of files: set the whole URL in the environment variable SIDECAR_STORE"),
        ("[[upstream]]\nmodel = 'x'", "upstream[0].base_url: required key is missing; set it to a string"),
        ("[[upstream]]\nbase_url = 'ftp://x'", "upstream[0].base_url: 'ftp://x' is not an http:// or https:// URL; write it like 'http://127.0.0.1:11434/v1'"),
        ("[[upstream]]\nbase_url = 'http://h/v1'\napi_key_env = 'NO_SUCH'", "upstream[0].api_key_env: the environment variable NO_SUCH is not set; export NO_SUCH, or remove api_key_env"),
        ("[[policy]]\nrequests = 1", "policy[0].use: required key is missing; use a built-in policy (rate, params, trim, max_tokens, budget, fallback, retry), an installed one, or 'module:Class'"),
        ("[[policy]]\nuse = 'trimm'", "policy[0].use: cannot use 'trimm': unknown policy; did you mean 'trim'?"),
        ("[[policy]]\nuse = 'trim'\nmax_mesages = 3\nmax_messages = 3", "policy[0].max_mesages: unknown key; did you mean 'max_messages'?"),
        ("[[policy]]\nuse = 'trim'", "policy[0].max_messages: required key is missing; set it to a whole number"),
        ("[[policy]]\nuse = 'trim'\nmax_messages = 0", "policy[0].max_messages: invalid value 0: expected a whole number >= 1; see `sidecar config` for an example"),
        ("[[policy]]\nuse = 'trim'\nmax_messages = 2.5", "policy[0].max_messages: invalid value 2.5: expected a whole number; see `sidecar config` for an example"),
        ("[[policy]]\nuse = 'rate'\nrequests = 1\nonly = { pth = 'x' }", "policy[0].only.pth: unknown key; did you mean 'path'?"),
        ("[[policy]]\nuse = 'rate'\nrequests = 1\nby = 'nobody'", "policy[0].by: invalid value 'nobody': expected one of tenant, ip, model, user, global; omit by for the default 'tenant'"),
        ("[[policy]]\nuse = 'budget'\ntokens = 1\ntimezone = 'X/Y'", "policy[0].timezone: 'X/Y' is no IANA time zone; write one like 'UTC' or 'Europe/Berlin'"),
        ("[[policy]]\nuse = 'retry'\n[[policy]]\nuse = 'retry'", "policy[1]: 'retry' is already the name of policy[0]; set a different `name` on one of them"),
        ("[[policy]]\nuse = 'json:dumps'", "policy[0].use: cannot use 'json:dumps': not a subclass of policies.Policy; derive the class from policies.Policy and override one of admit, enter, retry"),
        ("[[policy]]\nuse = 'policies:Policy'", "policy[0].use: cannot use 'policies:Policy': the class overrides no hook; derive the class from policies.Policy and override one of admit, enter, retry"),
        ("[profile.x]\nrat = { requests = 1 }", "profile.x.rat: unknown key; did you mean 'rate'?"),
        ("[profile.x]\nrate = { requests = 61 }", "profile.x.rate.requests: 61 is looser than the base chain; profiles can only tighten a limit: use at most 60"),
        ("[profile.x]\nrate = { window = 1 }", "profile.x.rate.window: cannot differ between profiles; they share one counter: set it in [[policy]] instead"),
        ("[profile.x]\nrate = { request = 1 }", "profile.x.rate.request: unknown key; did you mean 'requests'?"),
        ("[profile.x]\nrate = 3", "profile.x.rate: expected a table; write rate = { field = value }"),
        ("[profile.x]\ntemperature = 3", "profile.x.temperature: invalid value 3: expected a number <= 2; see `sidecar config` for an example"),
    ],
)  # fmt: skip
def test_faults(tmp_path: Path, text: str, line: str) -> None:
    """Each fault names the key path, the problem and the cure."""
    flags = {"upstream": None} if "[[upstream]]" in text else {}
    assert faults(tmp_path, text, **flags) == [f"FILE: {line}"]


def test_all_faults_are_reported_at_once(tmp_path: Path) -> None:
    """One load reports every fault of a file."""
    text = "x = 1\n[server]\nport = -1\nhost = 3\n[[policy]]\nuse = 'trim'\n[profile.p]\nnone = 1"

    assert [line.split(": ")[1] for line in faults(tmp_path, text)] == [
        "x",
        "server.port",
        "server.host",
        "policy[0].max_messages",
        "profile.p.none",
    ]


def test_missing_or_invalid_file(tmp_path: Path) -> None:
    """A missing file, or one that is not TOML, is one fault."""
    assert "invalid TOML" in faults(tmp_path, "x = ")[0]
    with pytest.raises(ConfigError, match=r"file: not found; create one with `sidecar config > sidecar.toml`"):
        load(tmp_path / "none.toml", environ={}, flags=Flags(upstream=HERE))


def test_precedence(tmp_path: Path) -> None:
    """Flags override the environment, which overrides the file, which overrides the defaults."""
    text = "[server]\nhost = 'file'\nport = 1\n[store]\nurl = 'sqlite:///file.db'\n[[upstream]]\nbase_url = 'http://file/v1'"
    environ = {"SIDECAR_HOST": "env", "SIDECAR_PORT": "2", "SIDECAR_STORE": "memory://", "SIDECAR_UPSTREAM": "http://env/v1/"}  # fmt: skip
    only_file = loaded(tmp_path, text, upstream=None)
    by_env = loaded(tmp_path, text, environ, upstream=None)
    by_flag = loaded(tmp_path, text, environ, upstream="http://flag/v1", host="flag", port=0, model="m")

    def effective(x: Settings) -> tuple[Any, ...]:
        return x.server.host, x.server.port, x.store.url, [y.base_url for y in x.upstreams]

    assert effective(only_file) == ("file", 1, "sqlite:///file.db", ["http://file/v1"])
    assert effective(by_env) == ("env", 2, "memory://", ["http://env/v1"])
    assert effective(by_flag) == ("flag", 0, "memory://", ["http://flag/v1"])
    assert by_flag.upstreams[0].model == "m"


def test_keys_are_sent_only_to_their_upstream(tmp_path: Path) -> None:
    """Each key is sent only to the upstream that it is configured for."""
    env = {"OPENAI_API_KEY": "sk-o", "MINE": "sk-m"}
    named_key = "[[upstream]]\nbase_url = 'http://h/v1'\napi_key_env = 'MINE'\n[[upstream]]\nbase_url = 'http://i/v1'\n"
    named_key += "[[upstream]]\nbase_url = 'http://j/v1'\npass_authorization = true"
    openai = loaded(tmp_path, None, env, upstream=None).upstreams[0]
    there = loaded(tmp_path, None, env, upstream="https://api.openai.com/v1").upstreams[0]
    elsewhere = loaded(tmp_path, None, env).upstreams[0]
    own = loaded(tmp_path, None, env | {"SIDECAR_UPSTREAM_KEY": "sk-s"}).upstreams[0]
    two = loaded(tmp_path, named_key, env, upstream=None).upstreams

    assert (openai.base_url, openai.model, openai.key) == ("https://api.openai.com/v1", "gpt-4o-mini", "sk-o")
    assert (there.key, there.model, elsewhere.key, own.key) == ("sk-o", "gpt-4o-mini", None, "sk-s")
    assert [(x.name, x.key, x.pass_authorization) for x in two] == [
        ("upstream-1", "sk-m", False),
        ("upstream-2", None, False),
        ("upstream-3", None, True),
    ]


def test_serving_needs_an_upstream(tmp_path: Path) -> None:
    """`serve` needs an upstream; `check` does not."""
    with pytest.raises(
        ConfigError, match="upstream: no upstream is configured; give --upstream URL, set SIDECAR_UPSTREAM or"
    ):
        loaded(tmp_path, None, upstream=None)
    assert load(None, environ={}, flags=Flags(), need_upstream=False).upstreams == ()


def test_memory_store_needs_a_single_worker(tmp_path: Path) -> None:
    """Several workers with a store in memory are refused: each would count separately (BerriAI/litellm#16011)."""
    (line,) = faults(tmp_path, "[store]\nurl = 'memory://'", workers=2)
    assert line.startswith("FILE: store.url: 'memory://' cannot serve 2 workers")


def test_own_policies_replace_the_shipped_chain(tmp_path: Path) -> None:
    """Policies in a file replace the shipped chain and profiles; profiles alone are added to the shipped ones."""
    own = loaded(tmp_path, "[[policy]]\nuse = 'retry'\n[profile.calm]\nretry = { attempts = 1 }")
    assert (list(own.profiles), named(own, "calm", "retry").attempts) == (["calm"], 1)
    joined = loaded(tmp_path, "[profile.Balanced]\nrate = { requests = 7 }")
    assert named(joined, "balanced", "rate").requests == 7
    assert named(joined, "constrained", "rate").requests == 15
    assert named(joined, "balanced", "budget").tokens == 500_000


def test_policy_of_a_module(tmp_path: Path) -> None:
    """A policy class in a module beside the file is loaded with its options and named after its class."""
    (tmp_path / "my_rules_x.py").write_text(
        "from policies import Call, Policy\n\n\nclass Shout(Policy, frozen=True):\n    times: int\n\n"
        "    async def admit(self, call: Call) -> None:\n        call.model = call.model.upper() * self.times\n"
    )
    settings = loaded(tmp_path, "[[policy]]\nuse = 'my_rules_x:Shout'\ntimes = 2")
    assert settings.base.policies[0].name == "Shout"
    assert faults(tmp_path, "[[policy]]\nuse = 'my_rules_x:Shout'\ntimes = 'x'") == [
        "FILE: policy[0].times: invalid value 'x': expected a whole number; see `sidecar config` for an example"
    ]
    (missing,) = faults(tmp_path, "[[policy]]\nuse = 'no_such_module_x:Shout'")
    assert "cannot use 'no_such_module_x:Shout': No module named 'no_such_module_x'" in missing


@pytest.mark.parametrize(
    ("name", "profile"),
    [(None, "balanced"), ("", "balanced"), ("nope", "balanced"), (" FREE ", "expanded"), ("Budget", "constrained"), ("moderate", "balanced")],
)  # fmt: skip
def test_chat_profile(tmp_path: Path, name: str | None, profile: str) -> None:
    """A Chat Nest call always has a profile: by name or legacy name, ignoring case, else `balanced`."""
    assert loaded(tmp_path, None).default_access.chat_profile(name).name == profile
    assert loaded(tmp_path, "[[policy]]\nuse = 'retry'").default_access.chat_profile(name).name == ""
