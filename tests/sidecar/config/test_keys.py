"""`[[key]]` tables: their faults, and the tables that `sidecar key new` prints."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

import pytest
from api_keys import key
from process import ran
from serving import settings_of

from sidecar.config.tables import ConfigError

HASH = f"'{sha256(b'k').hexdigest()}'"
NO_HASH = "not a SHA-256 (64 hexadecimal digits); create key and hash with `sidecar key new`"
BAD_ID = "invalid id; use 1 to 64 letters, digits, '.', '_' and '-', with a letter or digit first"
NINE = str([f"{at:064}" for at in range(9)])[:57] + "..."


def hashes(*entries: str) -> str:
    """Return a `[[key]]` with a list of hashes."""
    return f"[[key]]\ntenant = 'a'\nsha256 = [{', '.join(entries)}]\n"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("key = 3\n[store]", "key: expected a list of tables; write each key below [[key]]"),
        ("[[key]]\ntenant = 'a'", "key[0].sha256: required key is missing; set it to a string or a list"),
        ("[[key]]\ntenant = 'a'\nsha256 = 'sk-secret'", "key[0].sha256: not a SHA-256 (64 hexadecimal digits); create key and hash with `sidecar key new`"),
        (key("k", " "), "key[0].tenant: invalid name; use 1 to 128 printable characters"),
        (key("k", "a", "profile = []"), "key[0].profile: unknown key; did you mean 'profiles'?"),
        (key("k", "a", "profiles = ['x']"), "key[0].profiles[0]: unknown profile 'x'; use one of balanced, constrained, expanded"),
        (key("k", "a", "models = []"), "key[0].models: invalid value []: expected a non-empty list; see `sidecar config` for an example"),
        (key("k", "a", "fields = 'some'"), "key[0].fields: invalid value 'some': expected one of any, known; omit fields for the default 'any'"),
        ("[[key]]\ntenant = 'a'\nsha256 = 3", "key[0].sha256: invalid value 3: expected a string or a list; see `sidecar config` for an example"),
        ("[[key]]\ntenant = 'a'\nsha256 = []", "key[0].sha256: invalid value []: expected a non-empty list; see `sidecar config` for an example"),
        ("[[key]]\ntenant = 'a'\nsha256 = [3]", "key[0].sha256[0]: invalid value 3: expected a string or a table; see `sidecar config` for an example"),
        (hashes(HASH, "'sk-secret'"), f"key[0].sha256[1]: {NO_HASH}"),
        (hashes("{ sha256 = 'sk-secret', not_after = 2030-01-01 }"), f"key[0].sha256[0].sha256: {NO_HASH}"),
        (hashes(f"{{ sha256 = {HASH} }}"), "key[0].sha256[0].not_after: required key is missing; set it to a date or date-time"),
        (hashes(f"{{ sha256 = {HASH}, not_after = true }}"), "key[0].sha256[0].not_after: invalid value 'True': expected a date or date-time without quotes; write a date like 2026-12-31 or a date-time like 2026-12-31T18:00:00Z"),
        (hashes(f"{{ sha256 = {HASH}, not_after = 2030-01-01, until = 3 }}"), "key[0].sha256[0].until: unknown key; known keys: not_after, sha256"),
        (hashes(HASH, HASH), "key[0].sha256[1]: the list has this hash already; remove one of the two"),
        (hashes(HASH, HASH.upper()), "key[0].sha256[1]: the list has this hash already; remove one of the two"),
        (hashes(HASH, f"{{ sha256 = {HASH}, not_after = 2030-01-01 }}"), "key[0].sha256[1]: the list has this hash already; remove one of the two"),
        (key("k", "b") + hashes("'" + "0" * 64 + "'", HASH), "key[1].sha256[1]: same key as key[0]; create a separate key for each with `sidecar key new`"),
        (hashes(*(f"'{at:064}'" for at in range(9))), f"key[0].sha256: invalid value {NINE}: expected a list of length <= 8; see `sidecar config` for an example"),
        (key("k", "a", "id = ''\nid2 = ''"), "key[0].id2: unknown key; did you mean 'id'?"),
        (key("k", "a", "id = 'a b'"), f"key[0].id: {BAD_ID}"),
        (key("k", "a", "id = '-a'"), f"key[0].id: {BAD_ID}"),
        (key("k", "a", f"id = '{'a' * 65}'"), f"key[0].id: {BAD_ID}"),
        (key("k", "a", "id = 3"), "key[0].id: invalid value 3: expected a string; see `sidecar config` for an example"),
        (key("k", "a", "id = 'x'") + key("l", "a", "id = 'x'"), "key[1].id: 'x' is already the id of key[0]; choose another id for one of them"),
        (key("k", "a", "comment = 'a\tb'"), "key[0].comment: invalid comment; use at most 200 printable characters"),
        (key("k", "a", f"comment = '{'a' * 201}'"), "key[0].comment: invalid comment; use at most 200 printable characters"),
        (key("k", "a", "comment = ['a']"), "key[0].comment: invalid value ['a']: expected a string; see `sidecar config` for an example"),
        (key("k", "a", "not_after = '2026-12-31'"), "key[0].not_after: invalid value '2026-12-31': expected a date or date-time without quotes; write a date like 2026-12-31 or a date-time like 2026-12-31T18:00:00Z"),
        (key("k", "a", "not_after = 20261231"), "key[0].not_after: invalid value '20261231': expected a date or date-time without quotes; write a date like 2026-12-31 or a date-time like 2026-12-31T18:00:00Z"),
        (key("k", "a", "not_after = 07:32:00"), "key[0].not_after: invalid value '07:32:00': expected a date or date-time without quotes; write a date like 2026-12-31 or a date-time like 2026-12-31T18:00:00Z"),
        (key("k", "a", "not_after = 2026-12-31T18:00:00"), "key[0].not_after: the date-time 2026-12-31T18:00:00 has no offset from UTC; add it, such as 2026-12-31T18:00:00Z"),
        (key("k", "a", "not_after = 2026-02-30"), "line 6, column 13: invalid TOML: Invalid date or datetime; see `sidecar config` for an example"),
        (key("k", "a", "not_afer = 2026-02-03"), "key[0].not_afer: unknown key; did you mean 'not_after'?"),
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
    assert [each.digest for each in settings.keys[0].hashes] == [sha256(token.encode()).digest()]
    assert outputs[0][1] != outputs[1][1]
