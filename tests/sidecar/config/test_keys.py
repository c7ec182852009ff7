"""`[[key]]` tables: their faults, and the tables that `sidecar key new` prints."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

import pytest
from api_keys import key
from process import ran
from serving import settings_of

from sidecar.config.tables import ConfigError


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("key = 3\n[store]", "key: expected a list of tables; write each key below [[key]]"),
        ("[[key]]\ntenant = 'a'", "key[0].sha256: required key is missing; set it to a string"),
        ("[[key]]\ntenant = 'a'\nsha256 = 'sk-secret'", "key[0].sha256: not a SHA-256 (64 hexadecimal digits); create key and hash with `sidecar key new`"),
        (key("k", " "), "key[0].tenant: invalid name; use 1 to 128 printable characters"),
        (key("k", "a", "profile = []"), "key[0].profile: unknown key; did you mean 'profiles'?"),
        (key("k", "a", "profiles = ['x']"), "key[0].profiles[0]: unknown profile 'x'; use one of balanced, constrained, expanded"),
        (key("k", "a", "models = []"), "key[0].models: invalid value []: expected a non-empty list; see `sidecar config` for an example"),
        (key("k", "a", "fields = 'some'"), "key[0].fields: invalid value 'some': expected one of any, known; omit fields for the default 'any'"),
        (key("k", "a") + key("k", "b"), "key[1].sha256: same key as key[0]; create a separate key for each with `sidecar key new`"),
        (key("k", "a", "limits = { budgt = { tokens = 1 } }"), "key[0].limits.budgt: unknown key; did you mean 'budget'?"),
        (key("k", "a", "limits = { budget = { tokens = 0 } }"), "key[0].limits.budget.tokens: invalid value 0: expected a whole number >= 1; see `sidecar config` for an example"),
        (key("k", "a", "limits = { budget = { window = 'hour' } }"), "key[0].limits.budget.window: cannot differ between keys; they share one counter: set it in [[policy]] instead"),
        (key("k", "a", "limits = { budget = 3 }"), "key[0].limits.budget: expected a table; write budget = { field = value }"),
    ],
)  # fmt: skip
def test_fault_of_a_key_names_its_place(tmp_path: Path, text: str, line: str) -> None:
    """Each fault of a `[[key]]` table is reported at its place, with the cure, and shows no key."""
    with pytest.raises(ConfigError) as found:
        settings_of(tmp_path, "http://h/v1", text)
    assert [fault.line("F").removeprefix("F: ") for fault in found.value.faults] == [line]
    assert "sk-secret" not in str(found.value)


def test_new_key_is_accepted_by_its_table(tmp_path: Path) -> None:
    """`sidecar key new` prints a new key on its first line, then the table that accepts it."""
    outputs = [ran("key", "new", "--tenant", 'my "team"', folder=tmp_path) for _ in range(2)]

    token, _, table = outputs[0][1].partition("\n")
    settings = settings_of(tmp_path, "http://h/v1", table)
    assert (outputs[0][0], token[:11], len(token)) == (0, "sk-sidecar-", 54)
    assert settings.keys[0].tenant == 'my "team"'
    assert settings.keys[0].digest == sha256(token.encode()).digest()
    assert outputs[0][1] != outputs[1][1]
