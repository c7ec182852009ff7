"""Faults that `sidecar check` reports, one of each kind, and what it accepts of server and upstreams."""

from __future__ import annotations

from pathlib import Path

import pytest
from checked_files import HERE, POLICY_MODULES, lines, loaded
from importable_modules import folder_with_modules

from sidecar.config.loader import load
from sidecar.config.settings import Flags
from sidecar.config.tables import ConfigError
from sidecar.config.upstream import ResolvedUpstream

STORE_CURE = "write 'sqlite:///FILE', 'redis://HOST:PORT/DB', or 'memory://' for a trial"
URL_CURE = "write it like 'http://127.0.0.1:11434/v1'"
ORIGIN_CURE = "write it like 'https://app.example.org' or 'http://localhost:5173', or '*' for any"
USE_CURE = "use a built-in policy (rate, params, trim, max_tokens, budget, fallback, retry), an installed one, or 'module:Class'"
CLASS_CURE = "derive the class from policies.Policy and override one of admit, enter, retry"
EXAMPLE_CURE = "see `sidecar config` for an example"
NAME_CURE = "use printable ASCII without quotes, and not 'temperature': headers and profiles contain the name"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with policy modules; imports from it are undone after the test."""
    return folder_with_modules(tmp_path, monkeypatch, POLICY_MODULES)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("x = \n", "line 1, column 5: invalid TOML: Invalid value; " + EXAMPLE_CURE),
        ("[server]\nport = 1\nport = 2\n", "line 3, column 9: invalid TOML: Cannot overwrite a value; " + EXAMPLE_CURE),
        ("x = " + "[" * 9999, "file: nested too deeply; " + EXAMPLE_CURE),
        ("[server]\nhost = ''", "server.host: invalid value '': expected a non-empty string; omit host for the default '127.0.0.1'"),
        ("[server]\nport = -1", "server.port: invalid value -1: expected a whole number >= 0; omit port for the default 8787"),
        ("[server]\nheartbeat = nan", "server.heartbeat: invalid value nan: expected a finite number; omit heartbeat for the default 15"),
        ("[server]\ndrain = inf", "server.drain: invalid value inf: expected a finite number; omit drain for the default 30"),
        ("[server]\nmax_body = 9007199254740992", "server.max_body: invalid value 9007199254740992: expected at most 9007199254740991; omit max_body for the default 16777216"),
        ("[server]\nchat_roles = []", "server.chat_roles: invalid value []: expected a non-empty list; " + EXAMPLE_CURE),
        ("[server]\nchat_roles = ['user', 'robot']", "server.chat_roles[1]: invalid value 'robot': expected one of user, assistant, system, developer; " + EXAMPLE_CURE),
        ("[server]\nchat_system_prompt = 'yes'", "server.chat_system_prompt: invalid value 'yes': expected one of ignore, use; omit chat_system_prompt for the default 'ignore'"),
        ("[server]\ncors_origins = '*'", "server.cors_origins: invalid value '*': expected a list; " + EXAMPLE_CURE),
        ("[server]\ncors_origins = ['*', 'http://h/']", "server.cors_origins[1]: 'http://h/' is not an origin; " + ORIGIN_CURE),
        ("[server]\ncors_origins = ['http://h:99999']", "server.cors_origins[0]: 'http://h:99999' is not an origin; " + ORIGIN_CURE),
        ("[store]\nurl = 'mysql://h'", "store.url: invalid store URL 'mysql://h'; " + STORE_CURE),
        ("[store]\nurl = 'sqlite:///'", "store.url: invalid store URL 'sqlite:///'; " + STORE_CURE),
        ("upstream = 'http://h/v1'", "upstream: expected a list of tables; write each upstream below [[upstream]]"),
        ("[upstream]\nbase_url = 'http://h/v1'", "upstream: expected a list of tables; write each upstream below [[upstream]]"),
        ("[[upstream]]\nbase_url = 'http://h:0/v1'", "upstream[0].base_url: 'http://h:0/v1' is not an http:// or https:// URL; " + URL_CURE),
        ("[[upstream]]\nbase_url = 'http://[::1/v1'", "upstream[0].base_url: 'http://[::1/v1' is not an http:// or https:// URL; " + URL_CURE),
        ("[[upstream]]\nbase_url = 'http://h/v1?k=1'", 'upstream[0].base_url: contains a query or a fragment; put parameters into `query = { name = "value" }`'),
        ("[[upstream]]\nbase_url = 'http://h/v1/chat/completions?api-version=1'", 'upstream[0].base_url: contains a query or a fragment and ends in \'/chat/completions\', the path of one endpoint; put parameters into `query = { name = "value" }`, and remove \'/chat/completions\''),
        ("[[upstream]]\nbase_url = 'ftp://me:secret@h/v1?k=secret'", "upstream[0].base_url: 'ftp://h/v1' is not an http:// or https:// URL; " + URL_CURE),
        ("[[upstream]]\nbase_url = 'http://h/v1'\nserves = []", "upstream[0].serves: invalid value []: expected a non-empty list; " + EXAMPLE_CURE),
        ("[[upstream]]\nbase_url = 'http://h/v1'\nserves = ['a', 'b', 'a']", "upstream[0].serves[2]: 'a' is listed twice; remove one of the two"),
        ("[[upstream]]\nbase_url = 'http://h/v1'\nweight = 0", "upstream[0].weight: invalid value 0: expected a number > 0; omit weight for the default 1"),
        ("[[upstream]]\nbase_url = 'http://h/v1'\nca = 'ca.pem'", "upstream[0].ca: base_url is not https, so there is no certificate to verify; write https:// in base_url, or remove ca"),
        ("[[upstream]]\nbase_url = 'http://h/v1'\nheaders = { Api-Key = 'k' }", "upstream[0].headers: 'Api-Key' is a secret header; keep secrets out of files: name its environment variable in headers_env"),
        ("[[upstream]]\nbase_url = 'http://h/v1'\napi_key_env = 'X'\napi_key_header = 'x-mine'\nheaders = { X-Mine = 'k' }", "upstream[0].headers: 'X-Mine' is a secret header; keep secrets out of files: name its environment variable in headers_env"),
        ("[[upstream]]\nbase_url = 'http://h/v1'\nheaders = { Host = 'k' }", "upstream[0].headers: the sidecar sets 'Host' itself; remove it"),
        ("[[upstream]]\nbase_url = 'http://h/v1'\nheaders = { 'a b' = 'k' }", "upstream[0].headers: 'a b' is not a header name; use letters, digits and dashes"),
        ("[[upstream]]\nbase_url = 'http://h/v1'\nheaders = { a = \"x\\ny\" }", "upstream[0].headers: invalid value for 'a'; use printable ASCII"),
        ("[[upstream]]\nbase_url = 'http://h/v1'\nheaders_env = { a = 'sk-1' }", "upstream[0].headers_env: the value for 'a' is not the name of an environment variable; write the name, never the secret"),
        ("[[upstream]]\nbase_url = 'http://h/v1'\nheaders = { a = '1' }\nheaders_env = { A = 'X' }", "upstream[0].headers_env: 'A' is set twice (header names ignore case); remove one of them"),
        ("[[upstream]]\nbase_url = 'http://h/v1'\napi_key_env = 'X'\npass_authorization = true", "upstream[0].pass_authorization: this upstream has a configured key; remove one of the two"),
        ("[[upstream]]\nbase_url = 'http://h/v1'\nlimit_field = 'max'", "upstream[0].limit_field: invalid value 'max': expected one of max_tokens, max_completion_tokens; " + EXAMPLE_CURE),
        ("[[upstream]]\nbase_url = 'http://h/v1'\nmodels = { a = '' }", "upstream[0].models: 'a' maps to an empty name; write the server's name for it, or remove it"),
        ("[[upstream]]\nbase_url = 'http://a:b@h/v1'", "upstream[0].base_url: contains a user name or password; name the environment variable of the key in api_key_env"),
        ("[[upstream]]\nbase_url = 'http://h/v1'\napi_key_env = 'sk-123'", "upstream[0].api_key_env: not the name of an environment variable; write the name, never the key itself"),
        ("[[upstream]]\nbase_url = 'http://h/v1'\napi_key = 'sk-123'", "upstream[0].api_key: unknown key; did you mean 'api_key_env'?"),
        ("[[upstream]]\nbase_url = 'http://h'\n[[upstream]]\nbase_url = 'http://i'\nname = 'upstream-1'", "upstream[1].name: 'upstream-1' is already the name of upstream[0]; rename one of them"),
        ("[[upstream]]\nbase_url = 'http://h/v1'\n[[upstream]]\nbase_url = 'http://i/v1'\nname = ''", "upstream[1].name: invalid value '': expected a non-empty string; " + EXAMPLE_CURE),
        ("[[upstream]]\nbase_url = 'http://h/v1'\nheaders_env = { Authorization = 'X' }\npass_authorization = true", "upstream[0].pass_authorization: this upstream has a configured key; remove one of the two"),
        ("[[upstream]]\nbase_url = 'http://h/v1'\napi_key_header = 'api-key'", "upstream[0].api_key_header: no key is configured; name its environment variable in api_key_env, or its file in api_key_file, or remove api_key_header"),
        ("[[upstream]]\nbase_url = 'http://h/v1'\nquery = { '' = 'x' }", "upstream[0].query: a parameter has an empty name; write it like `query = { name = 'value' }`"),
        ("[[upstream]]\nbase_url = 'http://h/v1'\nmodels = { '' = 'x' }", "upstream[0].models: the model name '' is empty; to set the model of calls that name none, write `model = 'NAME'`"),
        ("[[upstream]]\nbase_url = 'http://h/v1'\nmodels = { b = 'hidden', gpt-4 = 3 }", "upstream[0].models.gpt-4: invalid value 3: expected a string; " + EXAMPLE_CURE),
        ("[[upstream]]\nbase_url = 'http://h/v1'\nheaders = { a = { b = 'hidden' } }", "upstream[0].headers.a: invalid value { ... }: expected a string; " + EXAMPLE_CURE),
        ("[[upstream]]\nbase_url = 'http://h/v1'\nbreaker = { window = 0.01 }", "upstream[0].breaker.window: invalid value 0.01: expected a number of seconds >= 0.1; omit window for the default 30"),
        ("policy = 1", "policy: expected a list of tables; write each policy below [[policy]]"),
        ("policy = [1]", "policy[0]: expected a table; write each policy below [[policy]]"),
        ("[[policy]]\nuse = 3", "policy[0].use: expected a non-empty string; " + USE_CURE),
        ("[[policy]]\nuse = 'nothing-like-it'", "policy[0].use: cannot use 'nothing-like-it': unknown policy; " + USE_CURE),
        ("[[policy]]\nuse = 'check_rules:'", "policy[0].use: cannot use 'check_rules:': not the name of a module and a class; write 'module:Class'"),
        ("[[policy]]\nuse = '.check_rules:Runs'", "policy[0].use: cannot use '.check_rules:Runs': not the name of a module and a class; write 'module:Class'"),
        ("[[policy]]\nuse = 'check_none:X'", "policy[0].use: cannot use 'check_none:X': No module named 'check_none'; install the module, or put it into FOLDER"),
        ("[[policy]]\nuse = 'check_rules:Run'", "policy[0].use: cannot use 'check_rules:Run': module 'check_rules' has no 'Run'; name a class of that module, as 'module:Class'"),
        ("[[policy]]\nuse = 'check_broken:X'", "policy[0].use: cannot use 'check_broken:X': ZeroDivisionError: division by zero; fix the module"),
        ("[[policy]]\nuse = 'check_syntax:X'", "policy[0].use: cannot use 'check_syntax:X': SyntaxError: invalid syntax (check_syntax.py, line 1); fix the module"),
        ("[[policy]]\nuse = 'check_rules:Call'", "policy[0].use: cannot use 'check_rules:Call': not a subclass of policies.Policy; " + CLASS_CURE),
        ("[[policy]]\nuse = 'check_rules:Empty'", "policy[0].use: cannot use 'check_rules:Empty': the class overrides no hook; " + CLASS_CURE),
        ("[[policy]]\nuse = 'check_rules:Vague'\nprice = 1", "policy[0].use: cannot use 'check_rules:Vague': a field has an unknown type: name 'Decimal' is not defined; import it outside of TYPE_CHECKING"),
        ("[[policy]]\nuse = 'check_rules:Runs'\nleast = 10", "policy[0].least: 10 is more than most; lower it"),
        ("[[policy]]\nuse = 'check_rules:Runs'\n[profile.x]\nRuns = { most = 0 }", "profile.x.Runs.least: 1 is more than most; lower it"),
        ("[[policy]]\nuse = 'retry'\nbase = 9", "policy[0].base: 9 is more than cap (8); lower base, or raise cap"),
        ("[[policy]]\nuse = 'retry'\n[profile.x]\nretry = { cap = 0.1 }", "profile.x.retry.base: 0.5 is more than cap (0.1); lower base, or raise cap"),
        ("[[policy]]\nuse = 'budget'\nusd = 1\nprices = { a = { input = 1, output = 1 }, b = { input = 1, output = 'x' } }", "policy[0].prices.b.output: invalid value 'x': expected a number; " + EXAMPLE_CURE),
        ("[[policy]]\nuse = 'fallback'\non = ['interrupted']", "policy[0].on[0]: 'interrupted' occurs when no other attempt is possible; remove it"),
        ("[[policy]]\nuse = 'fallback'\non = ['timeout', 'idle_timeout']", "policy[0].on[1]: 'idle_timeout' occurs when no other attempt is possible; remove it"),
        ("[[policy]]\nuse = 'retry'\non = ['total_timeout']", "policy[0].on[0]: 'total_timeout' occurs when no other attempt is possible; remove it"),
        ("[[policy]]\nuse = 'retry'\nnever = ['interrupted']", "policy[0].never[0]: 'interrupted' occurs when no other attempt is possible; remove it"),
        ("[[policy]]\nuse = 'retry'\non = ['status:99999']", "policy[0].on[0]: 'status:99999' is not the status of a failure; use one from 201 to 599, like 'status:425'"),
        ("[[policy]]\nuse = 'fallback'\non = ['status:503', 'status:200']", "policy[0].on[1]: 'status:200' is not the status of a failure; use one from 201 to 599, like 'status:425'"),
        ("[[policy]]\nuse = 'retry'\n[[policy]]\nuse = 'fallback'", "policy[1]: has no effect: the earlier policy 'retry' decides every failure; move the fallback above policy[0]"),
        ("[[policy]]\nuse = 'retry'\nonly = { path = '/v1/*' }\n[[policy]]\nuse = 'fallback'\nonly = { path = '/v1/*', model = 'a' }", "policy[1]: has no effect: the earlier policy 'retry' decides every failure; move the fallback above policy[0]"),
        ("[[policy]]\nuse = 'retry'\nname = 'temperature'", "policy[0].name: invalid name 'temperature'; " + NAME_CURE),
        ("[[policy]]\nuse = 'retry'\nname = \"a\\nb\"", "policy[0].name: invalid name 'a\\nb'; " + NAME_CURE),
        ("[[policy]]\nuse = 'retry'\nonly = '/v1'", "policy[0].only: expected a table, found '/v1'; write it as { key = value }"),
        ("[[policy]]\nuse = 'retry'\nonly = { path = ['/v1', 3] }", "policy[0].only.path[1]: invalid value 3: expected a string; omit path for the default '*'"),
        ("[[policy]]\nuse = 'retry'\nwhen_store_fails = 'wait'", "policy[0].when_store_fails: invalid value 'wait': expected one of refuse, admit; omit when_store_fails for the default 'refuse'"),
        ("[[policy]]\nuse = 'max_tokens'\noutput = 4\nrequest = 'x'", "policy[0].request: invalid value 'x': expected a whole number; " + EXAMPLE_CURE),
        ("profile = 1", "profile: expected a table; write each profile below [profile.NAME]"),
        ("[profile]\nx = 1", "profile.x: expected a table; write its overrides below [profile.x]"),
        ("[profile.' ']\ntemperature = 1", "profile: invalid name ' '; use a name that is not blank"),
        ("[profile.Calm]\n[profile.calm]\n", "profile.calm: duplicate of profile.Calm (names ignore case and spaces); rename one of them"),
        ("[profile.x]\nbudget = { tokens = 'x' }", "profile.x.budget.tokens: invalid value 'x': expected a whole number; " + EXAMPLE_CURE),
        ("[profile.x]\nbudget = { floor = 0 }", "profile.x.budget.floor: invalid value 0: expected a whole number >= 1; " + EXAMPLE_CURE),
        ("[profile.x]\nbudget = { by = 'ip' }", "profile.x.budget.by: cannot differ between profiles; they share one counter: set it in [[policy]] instead"),
        ("[profile.x]\ntemperature = '1'", "profile.x.temperature: invalid value '1': expected a number; " + EXAMPLE_CURE),
    ],
)  # fmt: skip
def test_fault(folder: Path, text: str, line: str) -> None:
    """Each fault is one line: file, key path, problem and cure."""
    environ = {"SIDECAR_UPSTREAM": HERE}
    assert lines(folder, text, environ, upstream=None) == [f"F: {line}"]


@pytest.mark.parametrize(
    ("url", "ending", "cure"),
    [
        ("http://h/v1/chat/completions", "/chat/completions", "remove '/chat/completions'"),
        ("http://h/v1/chat/completions/", "/chat/completions", "remove '/chat/completions'"),
        ("https://h/CHAT/Completions", "/CHAT/Completions", "remove '/CHAT/Completions'"),
        ("http://h/v1/responses", "/responses", "remove '/responses'"),
        ("http://h/v1/completions", "/completions", "remove '/completions'"),
        ("http://h/v1/embeddings", "/embeddings", "remove '/embeddings'"),
        ("http://h/v1/messages", "/messages", "remove '/messages'"),
        ("http://h/api/v1/models", "/models", "remove '/models'"),
        ("http://h/v1/images/generations", "/images/generations", "remove '/images/generations'"),
        ("http://h:11434/api/chat", "/api/chat", "write '/v1' instead of '/api/chat'"),
        ("http://h:11434/api/generate", "/api/generate", "write '/v1' instead of '/api/generate'"),
        ("http+unix:///run/e.sock/v1/chat/completions", "/chat/completions", "remove '/chat/completions'"),
    ],
)
def test_base_url_that_ends_in_an_endpoint_is_refused(folder: Path, url: str, ending: str, cure: str) -> None:
    """A `base_url` with the path of an endpoint is refused in the file, in the variable and in the flag, with the cure."""
    fault = f"ends in '{ending}', the path of one endpoint; {cure}"
    text = f"[[upstream]]\nbase_url = '{url}'"

    assert lines(folder, text, upstream=None) == [f"F: upstream[0].base_url: {fault}"]
    assert lines(folder, "", {"SIDECAR_UPSTREAM": url}, upstream=None) == [f"F: SIDECAR_UPSTREAM: {fault}"]
    assert lines(folder, "", upstream=url) == [f"F: --upstream: {fault}"]


@pytest.mark.parametrize(
    "url",
    ["http://h/v1", "http://h/v1/", "http://h/v1//", "http://h", "http://messages", "https://x.services.ai.azure.com/models", "https://h/openai/deployments/chat", "http+unix:///run/messages/e.sock/v1/", "https://h/api/v1/responses-proxy"],
)  # fmt: skip
def test_other_base_url_is_accepted(folder: Path, url: str) -> None:
    """A base URL may end in slashes, which are removed, and in a segment that is no endpoint."""
    assert loaded(folder, "", upstream=url).upstreams[0].base_url == url.rstrip("/")


def test_every_value_of_a_mapping(folder: Path) -> None:
    """Each invalid value of a mapping is reported by its key; valid values, which may be secret, are not shown."""
    text = "[[upstream]]\nbase_url = 'http://h/v1'\nheaders_env = { a = 1, b = 'hidden', c = ['C'] }"

    assert lines(folder, text) == [
        "F: upstream[0].headers_env.a: invalid value 1: expected a string; see `sidecar config` for an example",
        "F: upstream[0].headers_env.c: invalid value ['C']: expected a string; see `sidecar config` for an example",
    ]


@pytest.mark.parametrize("field", ["headers", "headers_env"])
@pytest.mark.parametrize(
    "header",
    ["Host", "Content-Length", "Content-Type", "Accept", "Accept-Encoding", "Transfer-Encoding", "Connection"],
)
def test_connection_headers_cannot_be_configured(folder: Path, field: str, header: str) -> None:
    """Headers that the sidecar sets for each request cannot be configured."""
    text = f"[[upstream]]\nbase_url = 'http://h/v1'\n{field} = {{ {header} = 'x' }}"

    assert lines(folder, text) == [f"F: upstream[0].{field}: the sidecar sets {header!r} itself; remove it"]


def test_replaced_upstreams(folder: Path) -> None:
    """Upstreams replaced by a flag need no key in the environment; their own faults are still reported."""
    unset = "[[upstream]]\nbase_url = 'http://h/v1'\napi_key_env = 'NOT_SET'\n"
    assert [each.base_url for each in loaded(folder, unset).upstreams] == [HERE]

    assert lines(folder, unset + "idle = 0") == [
        "F: upstream[0].idle: invalid value 0: expected a number of seconds > 0; omit idle for the default 300"
    ]
    assert lines(folder, "", upstream="") == [f"F: --upstream: '' is not an http:// or https:// URL; {URL_CURE}"]


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
def test_key_of_an_upstream_from_a_flag(url: str, environ: dict[str, str], key: str | None) -> None:
    """OPENAI_API_KEY is sent only to OpenAI and only over TLS; without a configured key the client's is forwarded."""
    for variables, flags in ((environ | {"SIDECAR_UPSTREAM": url}, Flags()), (environ, Flags(upstream=url))):
        (choice,) = load(None, environ=variables, flags=flags).upstreams
        assert (choice.key, choice.pass_authorization) == (key, key is None)
        assert choice.base_url == url.rstrip("/")


def test_key_with_invalid_characters(folder: Path) -> None:
    """A key with a line end or a non-ASCII character is refused, and not shown."""
    text = "[[upstream]]\nbase_url = 'http://h/v1'\napi_key_env = 'MINE'"
    fault = "the value of MINE cannot be sent in a header; use printable ASCII"

    assert lines(folder, text, {"MINE": "sk\u2013secret"}, upstream=None) == [f"F: upstream[0].api_key_env: {fault}"]
    assert lines(folder, text, {"MINE": "a\r\nb"}, upstream=None) == [f"F: upstream[0].api_key_env: {fault}"]


def test_keys_are_not_shown() -> None:
    """The repr of settings contains no key."""
    settings = load(None, environ={"OPENAI_API_KEY": "sk-hidden"}, flags=Flags())

    assert settings.upstreams[0].key == "sk-hidden"
    assert "sk-hidden" not in repr(settings)
    assert repr(ResolvedUpstream(base_url=HERE, key="sk-hidden")) == f"ResolvedUpstream({HERE!r}, model=None, key=set)"


def test_default_model(folder: Path) -> None:
    """The default model comes from the flag, the environment, the upstream or OpenAI's default, in this order.

    Flag and environment apply to the first upstream only.
    """
    both = "[[upstream]]\nbase_url = 'http://h'\nmodel = 'm'\n[[upstream]]\nbase_url = 'https://api.openai.com/v1'\n[[upstream]]\nbase_url = 'http://i'"  # fmt: skip
    from_environment = {"SIDECAR_MODEL": "env"}

    def models(environ: dict[str, str], **flags: str) -> list[str | None]:
        return [each.model for each in loaded(folder, both, environ, upstream=None, **flags).upstreams]

    assert models({}) == ["m", "gpt-4o-mini", None]
    assert models(from_environment) == ["env", "gpt-4o-mini", None]
    assert models(from_environment, model="flag") == ["flag", "gpt-4o-mini", None]


@pytest.mark.parametrize("port", ["x", "-1", "65536", "1.5", "\u0663"])
def test_environment_is_checked(folder: Path, port: str) -> None:
    """Environment variables are validated like the file; an empty variable counts as not set."""
    assert [line.split(":")[1] for line in lines(folder, "", {"SIDECAR_PORT": port})] == [" SIDECAR_PORT"]
    assert lines(folder, "", {"SIDECAR_STORE": "x"}) == [f"F: SIDECAR_STORE: invalid store URL 'x'; {STORE_CURE}"]
    empty = dict.fromkeys(("SIDECAR_PORT", "SIDECAR_HOST", "SIDECAR_STORE", "SIDECAR_MODEL", "SIDECAR_UPSTREAM"), "")
    assert loaded(folder, "", empty) == loaded(folder, "")


def test_byte_order_mark(folder: Path) -> None:
    """A UTF-8 byte order mark is accepted; another encoding is a fault."""
    (folder / "bom.toml").write_bytes(b"\xef\xbb\xbf[server]\nport = 3\n")
    assert load(folder / "bom.toml", environ={}, flags=Flags(upstream=HERE)).server.port == 3
    (folder / "latin.toml").write_bytes(b"# \xe4\n")
    with pytest.raises(ConfigError, match=r"file: cannot be read: .*; name a TOML file in UTF-8"):
        load(folder / "latin.toml", environ={}, flags=Flags(upstream=HERE))
    with pytest.raises(ConfigError, match=r"file: cannot be read: .*; name a TOML file in UTF-8"):
        load(folder, environ={}, flags=Flags(upstream=HERE))


def test_missing_secrets_and_certificates(folder: Path) -> None:
    """Each missing environment variable and certificate file of an upstream is reported at its key path."""
    (folder / "not.pem").write_text("hello")
    text = "[[upstream]]\nbase_url = 'https://h/v1'\nca = '{}'\nheaders_env = {{ x-a = 'NONE', x-b = 'BAD' }}"
    missing, empty = (
        lines(folder, text.format(name), {"BAD": "a\nb"}, upstream=None) for name in ("none.pem", "not.pem")
    )

    cure = "name a PEM file, relative to the folder of this file"
    assert missing[:2] == [
        "F: upstream[0].headers_env.x-a: the environment variable NONE is not set; export NONE, or remove the header",
        "F: upstream[0].headers_env.x-b: the value of BAD cannot be sent in a header; use printable ASCII",
    ]
    assert (
        missing[2] == f"F: upstream[0].ca: cannot load certificates from 'none.pem': No such file or directory; {cure}"
    )
    assert empty[2].startswith("F: upstream[0].ca: cannot load certificates from 'not.pem': ")
    assert empty[2].endswith(cure)
