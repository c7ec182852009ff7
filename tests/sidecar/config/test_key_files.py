"""`api_key_file`: the key of an upstream in a file, and what needs no secret."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from checked_files import lines, loaded

from sidecar.config.loader import load
from sidecar.config.settings import Flags
from sidecar.config.tables import ConfigError

UPSTREAM = "[[upstream]]\nbase_url = 'http://h/v1'\n"
KEY_FILE = UPSTREAM + "api_key_file = 'secrets/key'\n"
KEY = "sk-hidden-1"


def write(folder: Path, content: bytes) -> Path:
    (folder / "secrets").mkdir(exist_ok=True)
    file = folder / "secrets" / "key"
    file.write_bytes(content)
    return file


@pytest.mark.parametrize("content", [f"{KEY}\n", KEY, f"{KEY}\r\n", f"  {KEY}\n\n", f"\ufeff{KEY}\n"])
def test_key_is_read_from_the_file(tmp_path: Path, content: str) -> None:
    """The key is the content without line ends, from the configuration's folder; it is redacted, and no client key passes."""
    write(tmp_path, content.encode())
    (choice,) = loaded(tmp_path, KEY_FILE, upstream=None).upstreams

    assert (choice.key, choice.pass_authorization, choice.secrets) == (KEY, False, (KEY,))
    assert KEY not in repr(choice)


def test_absolute_path_and_header(tmp_path: Path) -> None:
    """An absolute path is taken as it is; `api_key_header` works with a file too."""
    file = write(tmp_path, KEY.encode())
    text = f"{UPSTREAM}api_key_file = '{file}'\napi_key_header = 'api-key'\n"
    assert loaded(tmp_path, text, upstream=None).upstreams[0].key == KEY


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "the file cannot be read: No such file or directory; name a file that the sidecar may read, relative to FOLDER, or remove api_key_file"),
        (b"", "the file is empty; write the key into it, or remove api_key_file"),
        (b" \n", "the file is empty; write the key into it, or remove api_key_file"),
        (b"sk-hidden-1\nsk-hidden-2\n", "the content of the file cannot be sent in a header; use one line of printable ASCII"),
        (b"sk-hidden-\xff", "the content of the file cannot be sent in a header; use one line of printable ASCII"),
        (b"x" * 16_385, "the file has more than 16_384 bytes; write the key alone into the file"),
    ],
)  # fmt: skip
def test_fault(tmp_path: Path, content: bytes | None, problem: str) -> None:
    """A file that is missing or holds no usable key is a fault of the key path; neither content nor name is shown."""
    if content is not None:
        write(tmp_path, content)
    assert lines(tmp_path, KEY_FILE, upstream=None) == [f"F: upstream[0].api_key_file: {problem}"]


def test_folder_or_key_in_place_of_a_file(tmp_path: Path) -> None:
    """A folder is a fault; a key that was written in place of the file name is not repeated."""
    (tmp_path / "secrets" / "key").mkdir(parents=True)
    assert "cannot be read: Is a directory" in lines(tmp_path, KEY_FILE, upstream=None)[0]
    (line,) = lines(tmp_path, f"{UPSTREAM}api_key_file = '{KEY}'", upstream=None)
    assert KEY not in line
    (line,) = lines(tmp_path, f'{UPSTREAM}api_key_file = "a\\u0000b"', upstream=None)
    assert "cannot be read: not a valid file name" in line


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every file")
def test_unreadable_file(tmp_path: Path) -> None:
    """A file without read permission is a fault that names the permission."""
    write(tmp_path, KEY.encode()).chmod(0)
    assert "cannot be read: Permission denied" in lines(tmp_path, KEY_FILE, upstream=None)[0]


def test_two_sources_of_a_key(tmp_path: Path) -> None:
    """A variable and a file at once are refused, and so is a forwarded key beside a file."""
    write(tmp_path, KEY.encode())
    assert lines(tmp_path, KEY_FILE + "api_key_env = 'X'\npass_authorization = true\n") == [
        "F: upstream[0].api_key_file: the key is configured twice, also by api_key_env; remove one of the two",
        "F: upstream[0].pass_authorization: this upstream has a configured key; remove one of the two",
    ]


def test_reading_settings_needs_no_secret(tmp_path: Path) -> None:
    """Without serving, no variable, key file or client certificate needs to exist; one that exists must be usable."""
    text = "[[upstream]]\nbase_url = 'https://h/v1'\nclient_cert = 'client.pem'\nheaders_env = { x-a = 'A' }\n"
    (tmp_path / "s.toml").write_text(text + KEY_FILE + UPSTREAM + "api_key_env = 'B'\n")

    settings = load(tmp_path / "s.toml", environ={}, flags=Flags(), need_upstream=False)
    assert [(each.key, each.pass_authorization) for each in settings.upstreams] == [(None, False)] * 3
    write(tmp_path, b"")
    assert paths(tmp_path, {"A": "a\nb"}) == ["upstream[0].headers_env.x-a", "upstream[1].api_key_file"]
    (tmp_path / "client.pem").write_text("no certificate")
    assert "upstream[0].client_cert" in paths(tmp_path, {})


def paths(folder: Path, environ: dict[str, str]) -> list[str]:
    with pytest.raises(ConfigError) as found:
        load(folder / "s.toml", environ=environ, flags=Flags(), need_upstream=False)
    return [fault.path for fault in found.value.faults]
