"""The configuration: what is shipped, what may be said, and every fault by its place."""

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


def test_shipped(tmp_path: Path) -> None:
    """The shipped chain has Chat Nest's hard caps, its profiles their own numbers."""
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


def test_printed_is_shipped(tmp_path: Path) -> None:
    """Saving what `sidecar config` prints changes nothing."""
    plain = msgspec.structs.replace(loaded(tmp_path, None), folder=tmp_path)

    assert loaded(tmp_path, default_text()) == plain


def test_every_option_is_in_the_file() -> None:
    """Every option of the server, the store, an upstream and each built-in policy stands in the shipped file, with its default."""
    text = default_text()
    data = tomllib.loads(text)
    for kind, table in ((ServerSettings, data["server"]), (StoreSettings, data["store"])):
        said = msgspec.to_builtins(msgspec.convert(table, kind))
        assert said == msgspec.to_builtins(kind())
        assert set(table) == set(said)
    for use, policy in BUILT_IN.items():
        (entry,) = (entry for entry in data["policy"] if entry["use"] == use)
        fields = [field for field in msgspec.structs.fields(policy) if field.name not in Policy.__struct_fields__]
        assert {field.name for field in fields} - {"usd", "prices"} <= set(entry)
        for field in [field for field in fields if field.name in entry]:
            said = msgspec.convert(entry[field.name], field.type)
            assert field.required or field.default in (None, said)
    for field_name in (*Policy.__struct_fields__, *UpstreamSettings.__struct_fields__):
        assert f"{field_name} = " in text


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("sever = 1", "sever: is not known, did you mean 'server'?"),
        ("[server]\nprot = 1", "server.prot: is not known, did you mean 'port'?"),
        ("[server]\nport = 99999", "server.port: 99999 does not do, it must be a whole number <= 65535"),
        ("[server]\nport = 'x'", "server.port: 'x' does not do, it must be a whole number"),
        ("[server]\nheartbeat = 0", "server.heartbeat: 0 does not do, it must be a number > 0.0"),
        ("[server]\ndrain = true", "server.drain: true does not do, it must be a number"),
        ("server = 3", "server: 3 is no table, write its keys below a [table] of that name"),
        ("[server]\ncors_origins = ['x']", "server.cors_origins[0]: 'x' is no origin, write it like 'https://app.example.org' or 'http://localhost:5173', or '*'"),
        ("[store]\nurl = 'redis://h/x'", "store.url: invalid store URL 'redis://h/x', the database must be a number: 'redis://HOST:PORT/0'"),
        ("[store]\nurl = 'redis://h?db=3'", "store.url: invalid store URL 'redis://h?db=3', instead of the option 'db' use 'prefix' with a name like 'sidecar'"),
        ("[store]\nurl = 'redis://:secret@h'", "store.url: holds a password, a file is no place for it: put the whole address into SIDECAR_STORE"),
        ("[[upstream]]\nmodel = 'x'", "upstream[0].base_url: is missing, it must be given: a string"),
        ("[[upstream]]\nbase_url = 'ftp://x'", "upstream[0].base_url: 'ftp://x' is no address of an API, write it like 'http://127.0.0.1:11434/v1'"),
        ("[[upstream]]\nbase_url = 'http://h/v1'\napi_key_env = 'NO_SUCH'", "upstream[0].api_key_env: NO_SUCH is not set, export NO_SUCH, or leave api_key_env out"),
        ("[[policy]]\nrequests = 1", "policy[0].use: is missing, name a built-in policy (rate, trim, max_tokens, budget, fallback, retry), an installed one, or 'module:Class'"),
        ("[[policy]]\nuse = 'trimm'", "policy[0].use: 'trimm' cannot be used: no such policy, did you mean 'trim'?"),
        ("[[policy]]\nuse = 'trim'\nmax_mesages = 3\nmax_messages = 3", "policy[0].max_mesages: is not known, did you mean 'max_messages'?"),
        ("[[policy]]\nuse = 'trim'", "policy[0].max_messages: is missing, it must be given: a whole number"),
        ("[[policy]]\nuse = 'trim'\nmax_messages = 0", "policy[0].max_messages: 0 does not do, it must be a whole number >= 1"),
        ("[[policy]]\nuse = 'trim'\nmax_messages = 2.5", "policy[0].max_messages: 2.5 does not do, it must be a whole number"),
        ("[[policy]]\nuse = 'rate'\nrequests = 1\nonly = { pth = 'x' }", "policy[0].only.pth: is not known, did you mean 'path'?"),
        ("[[policy]]\nuse = 'rate'\nrequests = 1\nby = 'nobody'", "policy[0].by: 'nobody' does not do, it must be one of tenant, ip, model, user, global"),
        ("[[policy]]\nuse = 'budget'\ntokens = 1\ntimezone = 'X/Y'", "policy[0]: 'X/Y' is no IANA time zone, write one like 'UTC' or 'Europe/Berlin'"),
        ("[[policy]]\nuse = 'retry'\n[[policy]]\nuse = 'retry'", "policy[1]: 'retry' is also the name of policy[0], give one of them a `name` of its own"),
        ("[[policy]]\nuse = 'json:dumps'", "policy[0].use: 'json:dumps' cannot be used: it is no Policy, derive it from policies.Policy and override one of admit, claims, enter, retry"),
        ("[[policy]]\nuse = 'policies:Policy'", "policy[0].use: 'policies:Policy' cannot be used: it overrides no hook (is one misspelt?), derive it from policies.Policy and override one of admit, claims, enter, retry"),
        ("[profile.x]\nrat = { requests = 1 }", "profile.x.rat: is not known, did you mean 'rate'?"),
        ("[profile.x]\nrate = { requests = 61 }", "profile.x.rate.requests: 61 is looser than the base chain, a profile only tightens it: at most 60"),
        ("[profile.x]\nrate = { window = 1 }", "profile.x.rate.window: cannot differ between profiles, they share one counter: set it in [[policy]]"),
        ("[profile.x]\nrate = { request = 1 }", "profile.x.rate.request: is not known, did you mean 'requests'?"),
        ("[profile.x]\nrate = 3", "profile.x.rate: is no table, write { field = value } for 'rate'"),
        ("[profile.x]\ntemperature = 3", "profile.x.temperature: 3 does not do, it must be a number <= 2.0"),
    ],
)  # fmt: skip
def test_faults(tmp_path: Path, text: str, line: str) -> None:
    """A fault names its place, what is wrong there, and what would be right."""
    flags = {"upstream": None} if "[[upstream]]" in text else {}
    assert faults(tmp_path, text, **flags) == [f"FILE: {line}"]


def test_all_faults(tmp_path: Path) -> None:
    """All faults of a file are said at once."""
    text = "x = 1\n[server]\nport = -1\nhost = 3\n[[policy]]\nuse = 'trim'\n[profile.p]\nnone = 1"

    assert [line.split(": ")[1] for line in faults(tmp_path, text)] == [
        "x",
        "server.port",
        "server.host",
        "policy[0].max_messages",
        "profile.p.none",
    ]


def test_not_a_file(tmp_path: Path) -> None:
    """A file that is not there, or is no TOML, is one fault."""
    assert "is not TOML" in faults(tmp_path, "x = ")[0]
    with pytest.raises(ConfigError, match=r"file: does not exist, `sidecar config > sidecar.toml` writes one"):
        load(tmp_path / "none.toml", environ={}, flags=Flags(upstream=HERE))


def test_precedence(tmp_path: Path) -> None:
    """Flags win over the environment, which wins over the file, which wins over the defaults."""
    text = "[server]\nhost = 'file'\nport = 1\n[store]\nurl = 'sqlite:///file.db'\n[[upstream]]\nbase_url = 'http://file/v1'"
    environ = {"SIDECAR_HOST": "env", "SIDECAR_PORT": "2", "SIDECAR_STORE": "memory://", "SIDECAR_UPSTREAM": "http://env/v1/"}  # fmt: skip
    only_file = loaded(tmp_path, text, upstream=None)
    by_env = loaded(tmp_path, text, environ, upstream=None)
    by_flag = loaded(tmp_path, text, environ, upstream="http://flag/v1", host="flag", port=0, model="m")

    def told(x: Settings) -> tuple[Any, ...]:
        return x.server.host, x.server.port, x.store.url, [y.base_url for y in x.upstreams]

    assert told(only_file) == ("file", 1, "sqlite:///file.db", ["http://file/v1"])
    assert told(by_env) == ("env", 2, "memory://", ["http://env/v1"])
    assert told(by_flag) == ("flag", 0, "memory://", ["http://flag/v1"])
    assert by_flag.upstreams[0].model == "m"


def test_keys(tmp_path: Path) -> None:
    """A key goes only where it is meant for."""
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


def test_no_upstream(tmp_path: Path) -> None:
    """Without any upstream there is nothing to serve; a check has nothing against it."""
    with pytest.raises(ConfigError, match="upstream: there is none, give --upstream URL, set SIDECAR_UPSTREAM or"):
        loaded(tmp_path, None, upstream=None)
    assert load(None, environ={}, flags=Flags(), need_upstream=False).upstreams == ()


def test_memory_and_workers(tmp_path: Path) -> None:
    """Workers that would each count for themselves are refused (BerriAI/litellm#16011)."""
    (line,) = faults(tmp_path, "[store]\nurl = 'memory://'", workers=2)
    assert line.startswith("FILE: store.url: 'memory://' cannot serve 2 workers")


def test_files_of_ones_own(tmp_path: Path) -> None:
    """Policies of a file replace the shipped ones with their profiles; without any, its profiles join the shipped ones."""
    own = loaded(tmp_path, "[[policy]]\nuse = 'retry'\n[profile.calm]\nretry = { attempts = 1 }")
    assert (list(own.profiles), named(own, "calm", "retry").attempts) == (["calm"], 1)
    joined = loaded(tmp_path, "[profile.Balanced]\nrate = { requests = 7 }")
    assert named(joined, "balanced", "rate").requests == 7
    assert named(joined, "constrained", "rate").requests == 15
    assert named(joined, "balanced", "budget").tokens == 500_000


def test_module(tmp_path: Path) -> None:
    """A policy of one's own is found beside the file, takes its options, and is called by its class."""
    (tmp_path / "my_rules_x.py").write_text(
        "from policies import Call, Policy\n\n\nclass Shout(Policy, frozen=True):\n    times: int\n\n"
        "    async def admit(self, call: Call) -> None:\n        call.model = call.model.upper() * self.times\n"
    )
    settings = loaded(tmp_path, "[[policy]]\nuse = 'my_rules_x:Shout'\ntimes = 2")
    assert settings.base.policies[0].name == "Shout"
    assert faults(tmp_path, "[[policy]]\nuse = 'my_rules_x:Shout'\ntimes = 'x'") == [
        "FILE: policy[0].times: 'x' does not do, it must be a whole number"
    ]
    (missing,) = faults(tmp_path, "[[policy]]\nuse = 'no_such_module_x:Shout'")
    assert "cannot be used: No module named 'no_such_module_x'" in missing


@pytest.mark.parametrize(
    ("said", "profile"),
    [(None, "balanced"), ("", "balanced"), ("nope", "balanced"), (" FREE ", "expanded"), ("Budget", "constrained"), ("moderate", "balanced")],
)  # fmt: skip
def test_chat_profile(tmp_path: Path, said: str | None, profile: str) -> None:
    """A Chat Nest call always has a profile, by its name or its legacy name, whatever the case."""
    assert loaded(tmp_path, None).everybody.chat_profile(said).name == profile
    assert loaded(tmp_path, "[[policy]]\nuse = 'retry'").everybody.chat_profile(said).name == ""
