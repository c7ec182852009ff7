"""`[[policy]] use = "params"`: the faults of its table, each at its place and with the cure."""

from __future__ import annotations

from pathlib import Path

import pytest
from checked_files import lines, loaded

SEE = "see `sidecar config` for an example"
GOVERNED = "cannot be changed, because limits depend on it"
OTHER = "change it in a policy of your own"
CEILING = "use `set` to lower it, or `limit_field` of the [[upstream]] for its name"
NAME = "use the name of a field at the top level of the body: 1 to 64 letters, digits, '_' and '-'"

UNBOUNDED = (
    "the server may call its own tools on /v1/responses without a bound; add 'max_tool_calls' to `set`, or select other "
    "paths by `only`"
)


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ("", ["policy[0]: the policy changes no field; add `default`, `set`, `drop` or `rename`"]),
        ("set = {}\ndrop = []", ["policy[0]: the policy changes no field; add `default`, `set`, `drop` or `rename`"]),
        ("drop = 'seed'", [f"policy[0].drop: invalid value 'seed': expected a list; {SEE}"]),
        ("drop = [3]", [f"policy[0].drop[0]: invalid value 3: expected a string; {SEE}"]),
        ("set = 3", [f"policy[0].set: invalid value 3: expected a table; {SEE}"]),
        ("rename = { a = 3 }", [f"policy[0].rename.a: invalid value 3: expected a string; {SEE}"]),
        ("rename = ['a']", [f"policy[0].rename: invalid value ['a']: expected a table; {SEE}"]),
        ("sett = { seed = 1 }", ["policy[0].sett: unknown key; did you mean 'set'?"]),
        ("set = { model = 'x' }", [f"policy[0].set.model: 'model' {GOVERNED}; use `models` of the [[upstream]] to send another name"]),
        ("set = { Model = 'x' }", ["policy[0].set.Model: must be spelt 'model', because some servers read both as one field; correct the name"]),
        ("default = { models = ['x'] }", [f"policy[0].default.models: 'models' {GOVERNED}; use `models` of the [[upstream]] to send another name"]),
        ("drop = ['seed', 'messages']", [f"policy[0].drop[1]: 'messages' {GOVERNED}; {OTHER}"]),
        ("set = { stream = true }", [f"policy[0].set.stream: 'stream' {GOVERNED}; remove it: the client alone sets it"]),
        ("set.stream_options.include_usage = false", [f"policy[0].set.stream_options: 'stream_options' {GOVERNED}; remove it: the client alone sets it"]),
        ("set = { n = 1, best_of = 1 }", [f"policy[0].set.n: 'n' {GOVERNED}; {OTHER}", f"policy[0].set.best_of: 'best_of' {GOVERNED}; {OTHER}"]),
        ("drop = ['prompt', 'input']", [f"policy[0].drop[0]: 'prompt' {GOVERNED}; {OTHER}", f"policy[0].drop[1]: 'input' {GOVERNED}; {OTHER}"]),
        ("rename = { model = 'seed' }", [f"policy[0].rename.model: 'model' {GOVERNED}; use `models` of the [[upstream]] to send another name"]),
        ("rename = { x = 'model' }", ["policy[0].rename.x: 'model' cannot be changed, because limits depend on it; use `models` of the [[upstream]] to send another name"]),
        ("rename = { max_tokens = 'seed' }", [f"policy[0].rename.max_tokens: 'max_tokens' cannot be renamed, and no field can get its name; {CEILING}"]),
        ("rename = { x = 'max_tokens' }", [f"policy[0].rename.x: 'max_tokens' cannot be renamed, and no field can get its name; {CEILING}"]),
        ("rename = { x = 'user' }", ["policy[0].rename.x: 'user' cannot be renamed, and no field can get its name; use `set`, `default` or `drop` for it"]),
        ("rename = { x = 'service_tier' }", ["policy[0].rename.x: 'service_tier' cannot be renamed, and no field can get its name; use `set`, `default` or `drop` for it"]),
        ("rename = { x = 'provider' }", ["policy[0].rename.x: a client's value cannot get the name 'provider'; use a documented one (docs/configuration.md) that holds a number, a word or a switch"]),
        ("rename = { x = 'num_predict' }", ["policy[0].rename.x: a client's value cannot get the name 'num_predict'; use a documented one (docs/configuration.md) that holds a number, a word or a switch"]),
        ("rename = { x = 'tools' }", ["policy[0].rename.x: a client's value cannot get the name 'tools'; use a documented one (docs/configuration.md) that holds a number, a word or a switch"]),
        ("rename = { top_p = 'top_k', top_k = 'seed' }", ["policy[0].rename.top_p: 'top_k' is changed by another option too; keep one of the two"]),
        ("rename = { x = 'top_k' }\nset = { top_k = 1 }", ["policy[0].rename.x: 'top_k' is changed by another option too; keep one of the two"]),
        ("drop = ['max_tokens']", [f"policy[0].drop[0]: 'max_tokens' is a ceiling, which may only be lowered; {CEILING}"]),
        ("drop = ['seed', 'seed']", ["policy[0].drop[1]: 'seed' is already changed by drop[0]; keep one of the two"]),
        ("drop = ['seed']\nset = { seed = 1 }", ["policy[0].drop[0]: 'seed' is already changed by set.seed; keep one of the two"]),
        ("default = { seed = 2 }\nset = { seed = 1 }", ["policy[0].default.seed: 'seed' is already changed by set.seed; keep one of the two"]),
        ("set = { max_tokens = 0 }", ["policy[0].set.max_tokens: invalid value 0: expected a whole number >= 1; correct or remove it"]),
        ("set = { max_tokens = true }", ["policy[0].set.max_tokens: invalid value True: expected a whole number >= 1; correct or remove it"]),
        ("set = { max_tokens = 10, max_completion_tokens = 10 }", ["policy[0].set.max_completion_tokens: the ceiling is already set by 'max_tokens'; keep one of them"]),
        ("default = { max_tokens = 20 }\nset = { max_completion_tokens = 10 }", ["policy[0].default.max_tokens: 20 is above the 10 of `set`; lower it"]),
        ("set = { seed = 2026-01-02 }", ["policy[0].set.seed: a date does not exist in JSON; write it as a string"]),
        ("set = { metadata = { at = 2026-01-02T03:04:05Z } }", ["policy[0].set.metadata: a datetime does not exist in JSON; write it as a string"]),
        ("set = { temperature = nan }", [f"policy[0].set.temperature: invalid value nan: expected a finite number; {SEE}"]),
        ("set = { stop = [inf] }", ["policy[0].set.stop: inf does not exist in JSON; use a finite number"]),
        ("set = { stop = [9007199254740992] }", ["policy[0].set.stop: 9007199254740992 is too large for JSON; use at most 9007199254740991"]),
        (f"set = {{ stop = {'[' * 33}1{']' * 33} }}", ["policy[0].set.stop: the value is nested too deeply; use at most 32 levels"]),
        (f"set = {{ stop = '{'x' * 16_384}' }}", ["policy[0]: the values have 16400 bytes as JSON; use at most 16384"]),
        (f"set = {{ stop = [{'[1],' * 501}] }}", ["policy[0]: the lists and tables have 1002 values; use at most 1000"]),
        (f"drop = [{', '.join(repr(f'f{at}') for at in range(65))}]", ["policy[0]: 65 fields are too many; list at most 64, or use several policies"]),
        ("set = { 'a.b' = 1 }", [f"policy[0].set: invalid name 'a.b'; {NAME}"]),
        ("drop = ['']", [f"policy[0].drop[0]: invalid name ''; {NAME}"]),
        ("rename = { seed = '' }", [f"policy[0].rename.seed: invalid name ''; {NAME}"]),
        ("set = { tools = [{ type = 'web_search' }] }", ["policy[0].set.tools: " + UNBOUNDED]),
        ("only = { path = ['/v1/resp*'] }\ndefault = { tools = [{ type = 'function', name = 'f' }, { type = 'mcp' }] }", ["policy[0].default.tools: " + UNBOUNDED]),
        ("drop = ['seed']\nonly = { profile = 'x' }", ["policy[0].only.profile: unknown key; known keys: model, path, tenant"]),
    ],
)  # fmt: skip
def test_fault_of_the_policy_names_its_place(tmp_path: Path, options: str, found: list[str]) -> None:
    """Each fault of a table is one line with its place and the cure."""
    assert lines(tmp_path, f'[[policy]]\nuse = "params"\n{options}\n') == [f"F: {line}" for line in found]


@pytest.mark.parametrize(
    ("table", "path"),
    [
        ("[profile.small]\nparams = { set = { seed = 2 } }", "profile.small.params.set"),
        ("[[key]]\ntenant = 'a'\nsha256 = '" + "0" * 64 + "'\nlimits = { params = { drop = [] } }", "key[0].limits.params.drop"),
    ],
)  # fmt: skip
def test_options_cannot_differ(tmp_path: Path, table: str, path: str) -> None:
    """Profiles and keys cannot change the options: a client chooses its profile, and with it a looser ceiling."""
    whose = "keys" if path.startswith("key") else "profiles"
    problem = f"cannot differ between {whose}; a client could choose the looser one"
    text = f'[[policy]]\nuse = "params"\nset = {{ seed = 1 }}\n{table}\n'
    assert lines(tmp_path, text) == [f"F: {path}: {problem}: select calls by `only` in [[policy]] instead"]


@pytest.mark.parametrize(
    "options",
    [
        "set = { tools = [{ type = 'web_search' }], max_tool_calls = 4 }",
        "default = { tools = [{ type = 'web_search' }], max_tool_calls = 4 }",
        "set = { tools = [{ type = 'function', name = 'f' }] }",
        "set = { tools = [] }",
        "set = { tools = [{ type = 'web_search' }] }\nonly = { path = '/v1/messages' }",
    ],
)
def test_bounded_tools_are_accepted(tmp_path: Path, options: str) -> None:
    """Tools may be set whose calls are bounded, which the client runs, or on routes without such a bound."""
    assert loaded(tmp_path, f'[[policy]]\nuse = "params"\n{options}\n').base.policies


def test_valid_table_is_loaded(tmp_path: Path) -> None:
    """A table may use all options together, and TOML's sub-tables."""
    text = """
    [[policy]]
    use = "params"
    name = "qwen"
    only = { model = "qwen*" }
    drop = ["logit_bias"]
    [policy.default]
    max_tokens = 500
    [policy.set]
    max_completion_tokens = 1000
    chat_template_kwargs = { enable_thinking = false }
    [policy.rename]
    typical_p = "typical"
    """
    (policy,) = loaded(tmp_path, text).base.policies
    assert policy.name == "qwen"
