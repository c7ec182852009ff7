"""`sidecar key new`, `rotate` and `list`: what they print, and that no file is changed."""

from __future__ import annotations

import json
import re
import tomllib
from hashlib import sha256
from pathlib import Path

import pytest
from api_keys import key
from process import ran
from serving import settings_of

from sidecar.cli import main as cli
from sidecar.cli.key_commands import KeyNotRotated, key_lines, keys_as_json, keys_as_table, rotated_key
from sidecar.config.access import Access

NOW = 1_800_000_000.0
"""2027-01-15T08:00:00Z."""
NEVER = "9999-12-31"
OLD = sha256(b"k").hexdigest()
SEE = "see `sidecar key new --help`"


def keys_of(folder: Path, text: str) -> tuple[Access, ...]:
    return settings_of(folder, "http://h/v1", text).keys


def rotated(folder: Path, text: str, **more: object) -> tuple[str, str]:
    """Return the new key of the id `web`, and the rest of what is printed."""
    printed = rotated_key(keys_of(folder, text), "web", source="'s.toml'", now=NOW, **more)  # type: ignore[arg-type]
    token, _, rest = printed.partition("\n\n")
    return token, rest


def test_new_key_has_the_given_values(tmp_path: Path) -> None:
    """`key new` writes id, date and comment into the table, which the sidecar accepts; quotes are escaped."""
    flags = ["--id", "acme-web", "--not-after", NEVER, "--comment", 'ask "Kim"\u00e9']
    code, out, err = ran(
        "key", "new", "--tenant", "acme", *flags, folder=tmp_path, environ={"PYTHONIOENCODING": "ascii"}
    )
    token, _, table = out.partition("\n\n")
    (access,) = keys_of(tmp_path, table)
    assert (code, err) == (0, "")
    assert table.startswith('[[key]]\nid = "acme-web"\ntenant = "acme"\nsha256 = "')
    assert f"\nnot_after = {NEVER}\n" in table
    assert (access.key_id, access.tenant, access.table["comment"]) == ("acme-web", "acme", 'ask "Kim"\u00e9')
    assert access.hashes[0].digest == sha256(token.encode()).digest()


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--id", "a b"], f"--id: invalid id; use 1 to 64 letters, digits, '.', '_' and '-', with a letter or digit first; {SEE}"),
        (["--comment", "a\nb"], f"--comment: invalid comment; use at most 200 printable characters; {SEE}"),
        (["--not-after", "soon"], f"--not-after: invalid value 'soon': expected a date, or a date-time with an offset; write a date like 2026-12-31 or a date-time like 2026-12-31T18:00:00Z; {SEE}"),
        (["--not-after", "2000-01-01"], "--not-after: 2000-01-01 has passed; name a later date"),
        (["--tenant", "a\nb"], f"--tenant: invalid name; use 1 to 128 printable characters; {SEE}"),
        (["--tenant", "a\udcff"], f"--tenant: invalid name; use 1 to 128 printable characters; {SEE}"),
        (["--tenant", ""], f"--tenant: the value is empty: omit the flag, or give a value; {SEE}"),
    ],
)  # fmt: skip
def test_invalid_flag_is_one_line(arguments: list[str], line: str, capsys: pytest.CaptureFixture[str]) -> None:
    """An invalid flag of `key new` is one line on stderr and exit code 2; no key is printed."""
    assert cli.main(["key", "new", *arguments]) == 2
    assert capsys.readouterr() == ("", f"sidecar key new: argument {line}\n")


def test_rotation_prints_the_changed_table(tmp_path: Path) -> None:
    """`key rotate` prints a new key and the table with both hashes; the file stays, and the rest of the table too."""
    text = key(
        "k", "acme", 'id = "web"\nmodels = ["a"]\nlimits = { rate = { requests = 600 } }\nnot_after = 9999-12-31'
    )
    (tmp_path / "s.toml").write_text(text)
    code, out, err = ran("key", "rotate", "--id", "web", "--config", "s.toml", folder=tmp_path)
    token, _, rest = out.partition("\n\n")
    before, after = (tomllib.loads(each)["key"][0] for each in (text, rest))
    assert (code, err, token[:11]) == (0, "", "sk-sidecar-")
    assert after == {**before, "sha256": [sha256(token.encode()).hexdigest(), OLD]}
    assert list(after) == list(before)
    assert (tmp_path / "s.toml").read_text() == text
    assert [each.digest.hex() for each in keys_of(tmp_path, rest)[0].hashes] == after["sha256"]
    assert f"To retire the old key, remove its hash ({OLD[:8]}) from `sha256`" in rest


def test_rotation_can_date_the_old_key(tmp_path: Path) -> None:
    """With a date, the old hash ends by itself; a hash with a date of its own keeps it; expired ones are left out."""
    later = {"sha256": "1" * 64, "not_after": tomllib.loads("x = 2027-01-15")["x"]}
    entries = f'"{OLD}", {{ sha256 = "{"1" * 64}", not_after = 2027-01-15 }}, {{ sha256 = "{"2" * 64}", not_after = 2027-01-14 }}'
    text = f'[[key]]\nid = "web"\ntenant = "a"\nsha256 = [{entries}]\n'
    until = tomllib.loads("x = 2027-02-01T00:00:00Z")["x"]
    token, rest = rotated(tmp_path, text, old_not_after=until)
    (table,) = tomllib.loads(rest)["key"]
    assert table["sha256"] == [
        sha256(token.encode()).hexdigest(), {"sha256": OLD, "not_after": until}, later,
    ]  # fmt: skip
    assert "refused after 2027-02-01T00:00:00Z in any case" in rest
    assert len(keys_of(tmp_path, rest)[0].hashes) == 3


def test_rotation_of_an_expired_key(tmp_path: Path) -> None:
    """A key whose own date has passed needs a new date; the output says so."""
    _, rest = rotated(tmp_path, key("k", "a", 'id = "web"\nnot_after = 2027-01-14'))
    assert "`not_after` of the key has passed: set a later one" in rest
    only_old = f'[[key]]\nid = "web"\ntenant = "a"\nsha256 = [{{ sha256 = "{OLD}", not_after = 2027-01-14 }}]\n'
    token, rest = rotated(tmp_path, only_old)
    assert tomllib.loads(rest)["key"][0]["sha256"] == sha256(token.encode()).hexdigest()
    assert "old key" not in rest


def test_rotation_is_refused_with_the_cure(tmp_path: Path) -> None:
    """An unknown id, a file without ids and a full list of hashes are refused."""
    full = f'[[key]]\nid = "web"\ntenant = "a"\nsha256 = {json.dumps([f"{at:064}" for at in range(8)])}\n'
    for text, message in (
        (key("k", "a", 'id = "b"') + key("l", "a"), "no [[key]] of 's.toml' has the id 'web'; ids: b"),
        (key("k", "a"), "no [[key]] of 's.toml' has the id 'web'; ids: none; add `id` to a [[key]]"),
        ("", "no [[key]] of 's.toml' has the id 'web'; ids: none; add `id` to a [[key]]"),
        (full, "the key 'web' has 8 valid hashes; remove those that are not used any more"),
    ):
        with pytest.raises(KeyNotRotated) as refused:
            rotated(tmp_path, text)
        assert str(refused.value) == message


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["rotate"], "sidecar key rotate: the following arguments are required: --id; see `sidecar key rotate --help`"),
        (["rotate", "--id", "x"], "sidecar key rotate: argument --id: no [[key]] of the shipped configuration has the id 'x'; ids: none; add `id` to a [[key]]"),
        (["rotate", "--id", "x", "--config", "none.toml"], "none.toml: file: not found; create one with `sidecar config > sidecar.toml`"),
        (["rotate", "--id", "x", "--old-not-after", "2000-01-01"], "sidecar key rotate: argument --old-not-after: 2000-01-01 has passed; name a later date"),
        (["list", "--config", "none.toml"], "none.toml: file: not found; create one with `sidecar config > sidecar.toml`"),
    ],
)  # fmt: skip
def test_refused_command_exits_with_2(
    arguments: list[str], line: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A refused command prints one line on stderr, no key, and exits with 2."""
    monkeypatch.delenv("SIDECAR_CONFIG", raising=False)
    assert cli.main(["key", *arguments]) == 2
    assert capsys.readouterr() == ("", line + "\n")


LISTED = (
    key("k", "acme", 'id = "web"\nmodels = ["a", "b-*"]\nprofiles = ["balanced"]\nnot_after = 2027-01-15\ncomment = "ask Kim"')
    + key("l", "b", "not_after = 2027-01-14T00:00:00+01:00")
    + f'[[key]]\nid = "two"\ntenant = "acme"\nsha256 = ["{"1" * 64}", {{ sha256 = "{"2" * 64}", not_after = 2027-01-14 }}]\n'
)  # fmt: skip


def test_list_is_json(tmp_path: Path) -> None:
    """`key list --json` has every key with its dates and the beginnings of its hashes, and no whole hash."""
    text = keys_as_json(key_lines(keys_of(tmp_path, LISTED), NOW))
    found = json.loads(text)
    hashes = [[each["sha256"] for each in line.pop("hashes")] for line in found]
    assert hashes == [[OLD[:8]], [sha256(b"l").hexdigest()[:8]], ["1" * 8, "2" * 8]]
    assert found == [
        {"id": "web", "tenant": "acme", "expired": False, "not_after": "2027-01-15", "models": ["a", "b-*"], "profiles": ["balanced"], "comment": "ask Kim"},
        {"id": "", "tenant": "b", "expired": True, "not_after": "2027-01-14T00:00:00+01:00", "models": None, "profiles": None, "comment": ""},
        {"id": "two", "tenant": "acme", "expired": False, "not_after": None, "models": None, "profiles": None, "comment": ""},
    ]  # fmt: skip
    assert [each["expired"] for each in json.loads(text)[2]["hashes"]] == [False, True]
    assert re.search("[0-9a-f]{9}", text) is None


def test_list_is_a_table(tmp_path: Path) -> None:
    """`key list` prints one line for each key; without keys it says who may call."""
    lines = keys_as_table(key_lines(keys_of(tmp_path, LISTED), NOW)).splitlines()
    assert [re.split(r"  +", line) for line in lines] == [
        ["id", "tenant", "state", "not after", "hashes", "models", "profiles", "comment"],
        ["web", "acme", "valid", "2027-01-15", f"1: {OLD[:8]}", "a, b-*", "balanced", "ask Kim"],
        ["-", "b", "expired", "2027-01-14T00:00:00+01:00", f"1: {sha256(b'l').hexdigest()[:8]} (expired)", "*", "*"],
        ["two", "acme", "valid", "-", "2: 11111111, 22222222 (expired)", "*", "*"],
    ]
    assert keys_as_table([]) == "no keys: every client is the tenant 'default'"


def test_list_without_a_file_says_so(tmp_path: Path) -> None:
    """Without a file there are no keys; a line on stderr names the flag that may be missing."""
    code, out, err = ran("key", "list", folder=tmp_path)
    assert (code, out) == (0, "no keys: every client is the tenant 'default'\n")
    assert err == "sidecar key list: no file is named: give --config FILE\n"


def test_list_needs_no_secret(tmp_path: Path) -> None:
    """`key list` works where the variables and files of upstreams' keys are missing, and opens no store."""
    upstreams = '[[upstream]]\nbase_url = "http://h/v1"\napi_key_env = "NOT_SET"\n'
    (tmp_path / "s.toml").write_text(upstreams + LISTED)
    code, out, err = ran("key", "list", "--config", "s.toml", "--json", folder=tmp_path)
    assert (code, err, len(json.loads(out))) == (0, "", 3)
    assert [path.name for path in tmp_path.iterdir()] == ["s.toml"]
