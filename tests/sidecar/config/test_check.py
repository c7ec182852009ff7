"""What a configuration is refused for, and what it is not: the corners of `sidecar check`."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest

from sidecar.config.loader import load
from sidecar.config.policies import GROUP, PolicyFault, policy_class
from sidecar.config.settings import Flags, Settings
from sidecar.config.tables import ConfigError
from sidecar.config.upstream import ResolvedUpstream

HERE = "http://127.0.0.1:1/v1"
STORES = "write 'sqlite:///FILE', 'redis://HOST:PORT/DB', or 'memory://' for a trial"
ADDRESS = "write it like 'http://127.0.0.1:11434/v1'"
ORIGIN = "write it like 'https://app.example.org' or 'http://localhost:5173', or '*'"
KINDS = "name a built-in policy (rate, trim, max_tokens, budget, fallback, retry), an installed one, or 'module:Class'"
CURE = "derive it from policies.Policy and override one of admit, claims, enter, retry"
LATE = "comes when nothing can be begun again, leave it out"
STATUS = "is no status of a failure, write one from 201 to 599, like 'status:425'"
EXAMPLE = "see `sidecar config` for an example"
NAMES = "write printable ASCII without quotes, and not 'temperature': it stands in headers and profiles"

RULES = """
from typing import TYPE_CHECKING

from policies import Call, Policy, RunningPolicy, Services

if TYPE_CHECKING:
    from decimal import Decimal


class Empty(Policy, frozen=True):
    async def admitt(self, call: Call) -> None:
        pass


class Runs(Policy, frozen=True):
    least: int = 1
    most: int = 9

    def __post_init__(self) -> None:
        if self.least > self.most:
            raise ValueError(f"least: {self.least} is more than most; lower it")

    def open(self, services: Services) -> RunningPolicy:
        return Hooks()


class Vague(Policy, frozen=True):
    price: "Decimal"

    async def admit(self, call: Call) -> None:
        pass
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with modules in it; what they leave behind in the interpreter goes."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    for name, text in {"check_rules": RULES, "check_broken": "x = 1 / 0", "check_syntax": "def"}.items():
        (tmp_path / f"{name}.py").write_text(text)
        monkeypatch.setitem(sys.modules, name, None)
        monkeypatch.delitem(sys.modules, name)
    return tmp_path


def loaded(folder: Path, text: str, environ: dict[str, str] | None = None, **flags: Any) -> Settings:
    (folder / "s.toml").write_text(text)
    flags.setdefault("upstream", HERE)
    return load(folder / "s.toml", environ=environ or {}, flags=Flags(**flags))


def lines(folder: Path, text: str, environ: dict[str, str] | None = None, **flags: Any) -> list[str]:
    with pytest.raises(ConfigError) as found:
        loaded(folder, text, environ, **flags)
    return [fault.line("F").replace(str(folder), "FOLDER") for fault in found.value.faults]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("x = \n", "line 1, column 5: is not TOML: Invalid value, " + EXAMPLE),
        ("[server]\nport = 1\nport = 2\n", "line 3, column 9: is not TOML: Cannot overwrite a value, " + EXAMPLE),
        ("x = " + "[" * 9999, "file: is nested too deeply, " + EXAMPLE),
        ("[server]\nhost = ''", "server.host: '' does not do, it must be a string of length >= 1"),
        ("[server]\nport = -1", "server.port: -1 does not do, it must be a whole number >= 0"),
        ("[server]\nheartbeat = nan", "server.heartbeat: nan does not do, it must be a finite number"),
        ("[server]\ndrain = inf", "server.drain: inf does not do, it must be a finite number"),
        ("[server]\nmax_body = 9007199254740992", "server.max_body: 9007199254740992 does not do, it must be at most 9007199254740991"),
        ("[server]\nchat_roles = []", "server.chat_roles: [] does not do, it must be a list of length >= 1"),
        ("[server]\nchat_roles = ['user', 'robot']", "server.chat_roles[1]: 'robot' does not do, it must be one of user, assistant, system, developer"),
        ("[server]\nchat_system_prompt = 'yes'", "server.chat_system_prompt: 'yes' does not do, it must be one of ignore, use"),
        ("[server]\ncors_origins = '*'", "server.cors_origins: '*' does not do, it must be a list"),
        ("[server]\ncors_origins = ['*', 'http://h/']", "server.cors_origins[1]: 'http://h/' is no origin, " + ORIGIN),
        ("[server]\ncors_origins = ['http://h:99999']", "server.cors_origins[0]: 'http://h:99999' is no origin, " + ORIGIN),
        ("[store]\nurl = 'mysql://h'", "store.url: invalid store URL 'mysql://h', " + STORES),
        ("[store]\nurl = 'sqlite:///'", "store.url: invalid store URL 'sqlite:///', " + STORES),
        ("upstream = 'http://h/v1'", "upstream: is no list of tables, write each upstream below an [[upstream]]"),
        ("[upstream]\nbase_url = 'http://h/v1'", "upstream: is no list of tables, write each upstream below an [[upstream]]"),
        ("[[upstream]]\nbase_url = 'http://h:0/v1'", "upstream[0].base_url: 'http://h:0/v1' is no address of an API, " + ADDRESS),
        ("[[upstream]]\nbase_url = 'http://[::1/v1'", "upstream[0].base_url: 'http://[::1/v1' is no address of an API, " + ADDRESS),
        ("[[upstream]]\nbase_url = 'http://h/v1?k=1'", 'upstream[0].base_url: it has a query or a fragment, write its parameters into `query = { name = "value" }`'),
        ("[[upstream]]\nbase_url = 'http://h/v1'\nca = 'ca.pem'", "upstream[0].ca: there is no certificate to check, write https:// in base_url, or leave ca out"),
        ("[[upstream]]\nbase_url = 'http://h/v1'\nheaders = { Api-Key = 'k' }", "upstream[0].headers: 'Api-Key' is a secret, a file is no place for it: name its variable in headers_env"),
        ("[[upstream]]\nbase_url = 'http://h/v1'\napi_key_header = 'x-mine'\nheaders = { X-Mine = 'k' }", "upstream[0].headers: 'X-Mine' is a secret, a file is no place for it: name its variable in headers_env"),
        ("[[upstream]]\nbase_url = 'http://h/v1'\nheaders = { Host = 'k' }", "upstream[0].headers: 'Host' belongs to each connection, leave it out"),
        ("[[upstream]]\nbase_url = 'http://h/v1'\nheaders = { 'a b' = 'k' }", "upstream[0].headers: 'a b' is no name of a header, write letters, digits and dashes"),
        ("[[upstream]]\nbase_url = 'http://h/v1'\nheaders = { a = \"x\\ny\" }", "upstream[0].headers: the value of 'a' fits into no header, it must be printable ASCII"),
        ("[[upstream]]\nbase_url = 'http://h/v1'\nheaders_env = { a = 'sk-1' }", "upstream[0].headers_env: the value of 'a' is no name of a variable, write the name, never the secret"),
        ("[[upstream]]\nbase_url = 'http://h/v1'\nheaders = { a = '1' }\nheaders_env = { A = 'X' }", "upstream[0].headers_env: 'A' is given twice, case is ignored: leave one of them out"),
        ("[[upstream]]\nbase_url = 'http://h/v1'\napi_key_env = 'X'\npass_authorization = true", "upstream[0].pass_authorization: this upstream has a key of its own, leave one of them out"),
        ("[[upstream]]\nbase_url = 'http://h/v1'\nlimit_field = 'max'", "upstream[0].limit_field: 'max' does not do, it must be one of max_tokens, max_completion_tokens"),
        ("[[upstream]]\nbase_url = 'http://h/v1'\nmodels = { a = '' }", "upstream[0].models: 'a' has no name there, write what the server calls it, or leave it out"),
        ("[[upstream]]\nbase_url = 'http://a:b@h/v1'", "upstream[0].base_url: it holds a name or a password, keys come from the environment, name one in api_key_env"),
        ("[[upstream]]\nbase_url = 'http://h/v1'\napi_key_env = 'sk-123'", "upstream[0].api_key_env: it is no name of a variable, write the name, never the key itself"),
        ("[[upstream]]\nbase_url = 'http://h/v1'\napi_key = 'sk-123'", "upstream[0].api_key: is not known, did you mean 'api_key_env'?"),
        ("[[upstream]]\nbase_url = 'http://h'\n[[upstream]]\nbase_url = 'http://i'\nname = 'upstream-1'", "upstream[1].name: 'upstream-1' is also the name of upstream[0], give one of them another name"),
        ("[[upstream]]\nbase_url = 'http://h/v1'\n[[upstream]]\nbase_url = 'http://i/v1'\nname = ''", "upstream[1].name: '' does not do, it must be a string of length >= 1"),
        ("[[upstream]]\nbase_url = 'http://h/v1'\nheaders_env = { Authorization = 'X' }\npass_authorization = true", "upstream[0].pass_authorization: this upstream has a key of its own, leave one of them out"),
        ("[[upstream]]\nbase_url = 'http://h/v1'\napi_key_header = 'api-key'", "upstream[0].api_key_header: there is no key to send, name its variable in api_key_env, or leave it out"),
        ("[[upstream]]\nbase_url = 'http://h/v1'\nquery = { '' = 'x' }", "upstream[0].query: a parameter has no name, write it like `query = { name = 'value' }`"),
        ("[[upstream]]\nbase_url = 'http://h/v1'\nmodels = { '' = 'x' }", "upstream[0].models: '' is the name of no model, for calls that name none write `model = 'NAME'`"),
        ("[[upstream]]\nbase_url = 'http://h/v1'\nmodels = { b = 'hidden', gpt-4 = 3 }", "upstream[0].models.gpt-4: 3 does not do, it must be a string"),
        ("[[upstream]]\nbase_url = 'http://h/v1'\nheaders = { a = { b = 'hidden' } }", "upstream[0].headers.a: a table does not do, it must be a string"),
        ("[[upstream]]\nbase_url = 'http://h/v1'\nbreaker = { window = 0.01 }", "upstream[0].breaker.window: 0.01 does not do, it must be a number >= 0.1"),
        ("policy = 1", "policy: is no list of tables, write each policy below a [[policy]]"),
        ("policy = [1]", "policy[0]: is no table, write each policy below a [[policy]]"),
        ("[[policy]]\nuse = 3", "policy[0].use: does not do, " + KINDS),
        ("[[policy]]\nuse = 'nothing-like-it'", "policy[0].use: 'nothing-like-it' cannot be used: no such policy, " + KINDS),
        ("[[policy]]\nuse = 'check_rules:'", "policy[0].use: 'check_rules:' cannot be used: it is no place of a class, write it as 'module:Class'"),
        ("[[policy]]\nuse = '.check_rules:Runs'", "policy[0].use: '.check_rules:Runs' cannot be used: it is no place of a class, write it as 'module:Class'"),
        ("[[policy]]\nuse = 'check_none:X'", "policy[0].use: 'check_none:X' cannot be used: No module named 'check_none', install it, or put it into FOLDER"),
        ("[[policy]]\nuse = 'check_rules:Run'", "policy[0].use: 'check_rules:Run' cannot be used: 'check_rules' has no 'Run', name a class of the module, as 'module:Class'"),
        ("[[policy]]\nuse = 'check_broken:X'", "policy[0].use: 'check_broken:X' cannot be used: ZeroDivisionError: division by zero, mend the module"),
        ("[[policy]]\nuse = 'check_syntax:X'", "policy[0].use: 'check_syntax:X' cannot be used: SyntaxError: invalid syntax (check_syntax.py, line 1), mend the module"),
        ("[[policy]]\nuse = 'check_rules:Call'", "policy[0].use: 'check_rules:Call' cannot be used: it is no Policy, " + CURE),
        ("[[policy]]\nuse = 'check_rules:Empty'", "policy[0].use: 'check_rules:Empty' cannot be used: it overrides no hook (is one misspelt?), " + CURE),
        ("[[policy]]\nuse = 'check_rules:Vague'\nprice = 1", "policy[0].use: 'check_rules:Vague' cannot be used: it has a field of an unknown type: name 'Decimal' is not defined, import it outside of TYPE_CHECKING"),
        ("[[policy]]\nuse = 'check_rules:Runs'\nleast = 10", "policy[0].least: 10 is more than most, lower it"),
        ("[[policy]]\nuse = 'check_rules:Runs'\n[profile.x]\nRuns = { most = 0 }", "profile.x.Runs.least: 1 is more than most, lower it"),
        ("[[policy]]\nuse = 'retry'\nbase = 9", "policy[0].base: 9 is more than cap, which is 8, lower it, or raise cap"),
        ("[[policy]]\nuse = 'retry'\n[profile.x]\nretry = { cap = 0.1 }", "profile.x.retry.base: 0.5 is more than cap, which is 0.1, lower it, or raise cap"),
        ("[[policy]]\nuse = 'budget'\nusd = 1\nprices = { a = { input = 1, output = 1 }, b = { input = 1, output = 'x' } }", "policy[0].prices.b.output: 'x' does not do, it must be a number"),
        ("[[policy]]\nuse = 'fallback'\non = ['interrupted']", "policy[0].on[0]: 'interrupted' " + LATE),
        ("[[policy]]\nuse = 'fallback'\non = ['timeout', 'idle_timeout']", "policy[0].on[1]: 'idle_timeout' " + LATE),
        ("[[policy]]\nuse = 'retry'\non = ['total_timeout']", "policy[0].on[0]: 'total_timeout' " + LATE),
        ("[[policy]]\nuse = 'retry'\nnever = ['interrupted']", "policy[0].never[0]: 'interrupted' " + LATE),
        ("[[policy]]\nuse = 'retry'\non = ['status:99999']", "policy[0].on[0]: 'status:99999' " + STATUS),
        ("[[policy]]\nuse = 'fallback'\non = ['status:503', 'status:200']", "policy[0].on[1]: 'status:200' " + STATUS),
        ("[[policy]]\nuse = 'retry'\n[[policy]]\nuse = 'fallback'", "policy[1]: never acts: 'retry' judges every failure before it, fallback stands before retry: put it above policy[0]"),
        ("[[policy]]\nuse = 'retry'\nonly = { path = '/v1/*' }\n[[policy]]\nuse = 'fallback'\nonly = { path = '/v1/*', model = 'a' }", "policy[1]: never acts: 'retry' judges every failure before it, fallback stands before retry: put it above policy[0]"),
        ("[[policy]]\nuse = 'retry'\nname = 'temperature'", "policy[0].name: 'temperature' does not do, " + NAMES),
        ("[[policy]]\nuse = 'retry'\nname = \"a\\nb\"", "policy[0].name: 'a\\nb' does not do, " + NAMES),
        ("[[policy]]\nuse = 'retry'\nonly = '/v1'", "policy[0].only: '/v1' is no table, write its keys below a [table] of that name"),
        ("[[policy]]\nuse = 'retry'\nonly = { path = ['/v1', 3] }", "policy[0].only.path[1]: 3 does not do, it must be a string"),
        ("[[policy]]\nuse = 'retry'\nwhen_store_fails = 'wait'", "policy[0].when_store_fails: 'wait' does not do, it must be one of refuse, admit"),
        ("[[policy]]\nuse = 'max_tokens'\noutput = 4\nrequest = 'x'", "policy[0].request: 'x' does not do, it must be a whole number"),
        ("profile = 1", "profile: is no table, write each profile below a [profile.NAME]"),
        ("[profile]\nx = 1", "profile.x: is no table, write its overrides below a [profile.x]"),
        ("[profile.' ']\ntemperature = 1", "profile: ' ' is no name, calls without a profile have the base chain"),
        ("[profile.Calm]\n[profile.calm]\n", "profile.calm: is the same as profile.Calm, case and spaces are ignored: give one of them another name"),
        ("[profile.x]\nbudget = { tokens = 'x' }", "profile.x.budget.tokens: 'x' does not do, it must be a whole number"),
        ("[profile.x]\nbudget = { floor = 0 }", "profile.x.budget.floor: 0 does not do, it must be a whole number >= 1"),
        ("[profile.x]\nbudget = { by = 'ip' }", "profile.x.budget.by: cannot differ between profiles, they share one counter: set it in [[policy]]"),
        ("[profile.x]\ntemperature = '1'", "profile.x.temperature: '1' does not do, it must be a number"),
    ],
)  # fmt: skip
def test_fault(folder: Path, text: str, line: str) -> None:
    """Every bad file has one line: where, what is wrong, what would be right."""
    environ = {"SIDECAR_UPSTREAM": HERE}
    assert lines(folder, text, environ, upstream=None) == [f"F: {line}"]


def test_every_value_of_a_mapping(folder: Path) -> None:
    """Each value of a mapping that does not do is told by its key, with no word of the others."""
    text = "[[upstream]]\nbase_url = 'http://h/v1'\nheaders_env = { a = 1, b = 'hidden', c = ['C'] }"

    assert lines(folder, text) == [
        "F: upstream[0].headers_env.a: 1 does not do, it must be a string",
        "F: upstream[0].headers_env.c: ['C'] does not do, it must be a string",
    ]


@pytest.mark.parametrize(
    "text",
    [
        "[[policy]]\nuse = 'fallback'\n[[policy]]\nuse = 'retry'\n",
        "[[policy]]\nuse = 'retry'\nonly = { path = '/api/chat' }\n[[policy]]\nuse = 'fallback'\n",
        "[[policy]]\nuse = 'retry'\nonly = { model = 'a' }\n[[policy]]\nuse = 'fallback'\nonly = { path = '/v1/*' }\n",
    ],
)
def test_fallback_that_acts(folder: Path, text: str) -> None:
    """A fallback may follow a retry that is for other calls."""
    assert len(loaded(folder, text).base.policies) == 2


@pytest.mark.parametrize("field", ["headers", "headers_env"])
@pytest.mark.parametrize(
    "header",
    ["Host", "Content-Length", "Content-Type", "Accept", "Accept-Encoding", "Transfer-Encoding", "Connection"],
)
def test_headers_of_each_connection(folder: Path, field: str, header: str) -> None:
    """A header that the sidecar sets for each request is nobody else's."""
    text = f"[[upstream]]\nbase_url = 'http://h/v1'\n{field} = {{ {header} = 'x' }}"

    assert lines(folder, text) == [f"F: upstream[0].{field}: {header!r} belongs to each connection, leave it out"]


def test_classes_that_act(folder: Path) -> None:
    """Every class that comes before the first output, every status of a failure and any code may be named."""
    some = ["timeout", "unavailable", "quota", "empty", "status:204", "status:302", "status:599", "code:x"]
    (retry,) = loaded(folder, f"[[policy]]\nuse = 'retry'\non = {some}").base.policies

    assert retry.on == tuple(some)  # type: ignore[attr-defined]


def test_policy_with_a_fault_is_not_absent(folder: Path) -> None:
    """An override of a policy that has a fault of its own says nothing more: that policy is meant to be there."""
    text = "[[policy]]\nuse = 'trim'\nmax_messages = 0\n[profile.x]\ntrim = { max_messages = 3 }"

    assert [line.split(": ")[1] for line in lines(folder, text)] == ["policy[0].max_messages"]


def test_no_limit_is_the_loosest(folder: Path) -> None:
    """Where the base chain has no limit, a profile may set any; what lowers nothing may be set freely."""
    text = "[[policy]]\nuse = 'max_tokens'\noutput = 9\n[[policy]]\nuse = 'retry'\n[profile.x]\nmax_tokens = { request = 999_999 }\nretry = { patience = 99 }\n"  # fmt: skip
    _, retry = loaded(folder, text).profiles["x"].policies

    assert loaded(folder, text).profiles["x"].policies[0].request == 999_999  # type: ignore[attr-defined]
    assert retry.patience == 99  # type: ignore[attr-defined]


def test_open_alone(folder: Path) -> None:
    """A policy that only makes a running object is one: what it makes has the hooks."""
    assert policy_class("check_rules:Runs", folder).__name__ == "Runs"


def test_folder_comes_last(folder: Path) -> None:
    """A module beside the file never hides one that is installed."""
    (folder / "json.py").write_text("class Dumps: ...")
    with pytest.raises(PolicyFault):
        policy_class("json:Dumps", folder)

    assert sys.path[-1] == str(folder)


def test_entry_point(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installed policy is found by its name, and loaded only where it is used."""
    dist = folder / "more_rules-1.dist-info"
    dist.mkdir()
    (dist / "METADATA").write_text("Metadata-Version: 2.1\nName: more-rules\nVersion: 1\n")
    (dist / "entry_points.txt").write_text(f"[{GROUP}]\nruns = check_rules:Runs\nbad = check_broken:X\n")
    monkeypatch.syspath_prepend(str(folder))
    importlib.invalidate_caches()
    settings = loaded(folder, "[[policy]]\nuse = 'runs'\nleast = 3")

    assert [(policy.name, type(policy).__name__) for policy in settings.base.policies] == [("runs", "Runs")]
    assert lines(folder, "[[policy]]\nuse = 'bad'")[0].endswith("ZeroDivisionError: division by zero, mend the module")


def test_replaced_upstreams(folder: Path) -> None:
    """Keys of upstreams that a flag replaces need not be set; what is wrong with them in themselves is still said."""
    unset = "[[upstream]]\nbase_url = 'http://h/v1'\napi_key_env = 'NOT_SET'\n"
    assert [each.base_url for each in loaded(folder, unset).upstreams] == [HERE]

    assert lines(folder, unset + "idle = 0") == ["F: upstream[0].idle: 0 does not do, it must be a number > 0.0"]
    assert lines(folder, "", upstream="") == [f"F: --upstream: '' is no address of an API, {ADDRESS}"]


@pytest.mark.parametrize(
    ("url", "environ", "key"),
    [
        ("https://api.openai.com/v1", {}, None),
        ("https://api.openai.com/v1", {"OPENAI_API_KEY": "sk-o"}, "sk-o"),
        ("https://API.OpenAI.com/v1/", {"OPENAI_API_KEY": "sk-o"}, "sk-o"),
        ("http://api.openai.com/v1", {"OPENAI_API_KEY": "sk-o"}, None),
        ("https://api.openai.com.example.org/v1", {"OPENAI_API_KEY": "sk-o"}, None),
        ("https://example.org/api.openai.com/v1", {"OPENAI_API_KEY": "sk-o"}, None),
        ("https://api.openai.com/v1", {"OPENAI_API_KEY": "sk-o", "SIDECAR_UPSTREAM_KEY": "sk-s"}, "sk-s"),
        ("http://example.org/v1", {"OPENAI_API_KEY": "sk-o", "SIDECAR_UPSTREAM_KEY": " sk-s\n"}, "sk-s"),
        ("http://example.org/v1", {"SIDECAR_UPSTREAM_KEY": "  "}, None),
    ],
)
def test_key_of_a_lone_upstream(url: str, environ: dict[str, str], key: str | None) -> None:
    """OpenAI's key goes to OpenAI alone, and never in the clear; with no key of ours the client's goes through."""
    for said, flags in ((environ | {"SIDECAR_UPSTREAM": url}, Flags()), (environ, Flags(upstream=url))):
        (choice,) = load(None, environ=said, flags=flags).upstreams
        assert (choice.key, choice.pass_authorization) == (key, key is None)
        assert choice.base_url == url.rstrip("/")


def test_key_that_no_header_carries(folder: Path) -> None:
    """A key with a line end in it, or a dash that a word processor made, is refused without being shown."""
    text = "[[upstream]]\nbase_url = 'http://h/v1'\napi_key_env = 'MINE'"
    said = "the key in MINE fits into no header, it must be printable ASCII"

    assert lines(folder, text, {"MINE": "sk\u2013secret"}, upstream=None) == [f"F: upstream[0].api_key_env: {said}"]
    assert lines(folder, text, {"MINE": "a\r\nb"}, upstream=None) == [f"F: upstream[0].api_key_env: {said}"]


def test_keys_are_not_shown() -> None:
    """A key stands in no representation of the settings."""
    settings = load(None, environ={"OPENAI_API_KEY": "sk-hidden"}, flags=Flags())

    assert settings.upstreams[0].key == "sk-hidden"
    assert "sk-hidden" not in repr(settings)
    assert repr(ResolvedUpstream(base_url=HERE, key="sk-hidden")) == f"UpstreamChoice({HERE!r}, model=None, key=set)"


def test_models(folder: Path) -> None:
    """Calls without a model get the flag's, else the environment's, else the upstream's, else OpenAI's, else none.

    The flag is for the first upstream: the others have names of their own.
    """
    both = "[[upstream]]\nbase_url = 'http://h'\nmodel = 'm'\n[[upstream]]\nbase_url = 'https://api.openai.com/v1'\n[[upstream]]\nbase_url = 'http://i'"  # fmt: skip
    said = {"SIDECAR_MODEL": "env"}

    def models(environ: dict[str, str], **flags: str) -> list[str | None]:
        return [each.model for each in loaded(folder, both, environ, upstream=None, **flags).upstreams]

    assert models({}) == ["m", "gpt-4o-mini", None]
    assert models(said) == ["env", "gpt-4o-mini", None]
    assert models(said, model="flag") == ["flag", "gpt-4o-mini", None]


@pytest.mark.parametrize("port", ["x", "-1", "65536", "1.5", "\u0663"])
def test_environment_is_checked(folder: Path, port: str) -> None:
    """The environment is checked as the file is; what is empty there is not said at all."""
    assert [line.split(":")[1] for line in lines(folder, "", {"SIDECAR_PORT": port})] == [" SIDECAR_PORT"]
    assert lines(folder, "", {"SIDECAR_STORE": "x"}) == [f"F: SIDECAR_STORE: invalid store URL 'x', {STORES}"]
    empty = dict.fromkeys(("SIDECAR_PORT", "SIDECAR_HOST", "SIDECAR_STORE", "SIDECAR_MODEL", "SIDECAR_UPSTREAM"), "")
    assert loaded(folder, "", empty) == loaded(folder, "")


def test_profile_of_a_header(folder: Path) -> None:
    """A profile is found whatever its case, and one without a table is the base chain."""
    settings = loaded(folder, "[profile.'My Own']\ntemperature = 1")

    assert settings.everybody.profile(" my own ").temperature == 1
    assert settings.everybody.profile("balanced").name == "balanced"
    assert settings.everybody.profile("nope") is settings.everybody.profile("") is settings.base


def test_byte_order_mark(folder: Path) -> None:
    """A mark that an editor put before the text is no fault; another encoding is."""
    (folder / "bom.toml").write_bytes(b"\xef\xbb\xbf[server]\nport = 3\n")
    assert load(folder / "bom.toml", environ={}, flags=Flags(upstream=HERE)).server.port == 3
    (folder / "latin.toml").write_bytes(b"# \xe4\n")
    with pytest.raises(ConfigError, match=r"file: cannot be read: .*, name a TOML file in UTF-8"):
        load(folder / "latin.toml", environ={}, flags=Flags(upstream=HERE))
    with pytest.raises(ConfigError, match=r"file: cannot be read: .*, name a TOML file in UTF-8"):
        load(folder, environ={}, flags=Flags(upstream=HERE))


def test_secrets_and_authorities(folder: Path) -> None:
    """What an upstream takes from the environment and from files must be there; each lack is told by its place."""
    (folder / "not.pem").write_text("hello")
    text = "[[upstream]]\nbase_url = 'https://h/v1'\nca = '{}'\nheaders_env = {{ x-a = 'NONE', x-b = 'BAD' }}"
    missing, empty = (
        lines(folder, text.format(name), {"BAD": "a\nb"}, upstream=None) for name in ("none.pem", "not.pem")
    )

    right = "name a PEM file of certificates, from the folder of this file"
    assert missing[:2] == [
        "F: upstream[0].headers_env.x-a: NONE is not set, export NONE, or leave it out",
        "F: upstream[0].headers_env.x-b: the key in BAD fits into no header, it must be printable ASCII",
    ]
    assert missing[2] == f"F: upstream[0].ca: 'none.pem' cannot be used: No such file or directory, {right}"
    assert empty[2].startswith("F: upstream[0].ca: 'not.pem' cannot be used: ")
    assert empty[2].endswith(right)


def test_unpriced_names(folder: Path) -> None:
    """Each name that an upstream has for a model needs a price where dollars are counted."""
    text = "[[upstream]]\nbase_url = 'http://h/v1'\nmodel = 'a'\nmodels = { a = 'b', c = 'd' }\n"
    text += "[[policy]]\nuse = 'budget'\nusd = 1\n[prices.d]\ninput = 1\noutput = 1\n"

    right = 'write [prices."b"] with input and output, in dollars per million tokens'
    assert lines(folder, text, upstream=None) == [f"F: prices: 'b' has no price for the budget 'budget', {right}"]
