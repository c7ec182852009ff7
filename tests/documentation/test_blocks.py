"""The code blocks of the documents are valid: TOML loads as `sidecar check` loads it, Python runs."""

from __future__ import annotations

import ast
import inspect
import re
import shutil
import subprocess
import tomllib
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import trustme
from documents import DOCUMENTS, blocks, modules, name_of
from places import ROOT

from policies.stores.opening import STORE_GROUP
from sidecar.config.keys import KeySettings
from sidecar.config.loader import load
from sidecar.config.settings import Flags

TOML_BLOCKS = [
    pytest.param(block, id=f"{name_of(document)}-{at}")
    for document in DOCUMENTS
    for at, block in enumerate(blocks(document, "toml"))
]
VARIABLE = re.compile(r'_env = "(\w+)"')
HASH_PLACEHOLDER = re.compile(r'(?<=^sha256 = ").*(?="$)|(?<=")the (?:new|old) hash(?=")', re.MULTILINE)
WITH_TESTS_OF_THEIR_OWN = ("README.md", "docs/policies.md")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with everything that the blocks name: the modules of the documents and examples, and certificates."""
    folder = tmp_path_factory.mktemp("documents")
    for example in (ROOT / "examples").glob("*.py"):
        shutil.copy(example, folder)
    for document in DOCUMENTS:
        for name, code in modules(document).items():
            (folder / name).write_text(code)
    authority = trustme.CA()
    client = authority.issue_cert("client.example")
    authority.cert_pem.write_to_path(folder / "ca.pem")
    client.cert_chain_pems[0].write_to_path(folder / "client.pem")
    client.private_key_pem.write_to_path(folder / "client.key")
    return folder


@pytest.mark.parametrize("block", TOML_BLOCKS)
def test_toml_is_valid(block: str, folder: Path) -> None:
    """A configuration passes `sidecar check`; a part of a pyproject.toml names our entry point group."""
    if "project" in (table := tomllib.loads(block)):
        assert list(table["project"]["entry-points"]) == [STORE_GROUP]
        return
    path = folder / "sidecar.toml"
    numbers = count()
    path.write_text(HASH_PLACEHOLDER.sub(lambda _: f"{next(numbers):064}", block))
    environ = dict.fromkeys(VARIABLE.findall(block), "secret-1")
    assert load(path, environ=environ, flags=Flags(), need_upstream=False).base.policies


def test_documents_have_no_usable_key() -> None:
    """The hashes of keys in the documents are placeholders, which `sidecar check` refuses with the remedy."""
    hashes = [value for document in DOCUMENTS for value in HASH_PLACEHOLDER.findall(document.read_text())]
    assert hashes
    for value in hashes:
        with pytest.raises(ValueError, match="create key and hash with `sidecar key new`"):
            KeySettings(tenant="acme", sha256=value)


@pytest.mark.anyio
@pytest.mark.parametrize(
    "document", [each for each in DOCUMENTS if name_of(each) not in WITH_TESTS_OF_THEIR_OWN], ids=name_of
)
async def test_python_runs(document: Path) -> None:
    """The Python blocks of a document run one after the other, as in one file."""
    names: dict[str, Any] = {"__name__": "document"}
    for block in blocks(document, "python"):
        code = compile(block, name_of(document), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        result = eval(code, names)  # noqa: S307  # our own documents
        if inspect.isawaitable(result):
            await result


def test_unit_is_valid(tmp_path: Path) -> None:
    """The unit is one that systemd accepts."""
    (unit,) = blocks(ROOT / "docs" / "operations.md", "ini")
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd is not installed")
    path = tmp_path / "sidecar.service"
    path.write_text(unit.replace("/opt/sidecar/bin/sidecar", "/bin/true"))
    done = subprocess.run(
        ["systemd-analyze", "verify", str(path)], capture_output=True, text=True, check=False, timeout=60
    )
    complaints = [line for line in done.stderr.splitlines() if path.name in line]
    assert (done.returncode, complaints) == (0, [])


def test_nginx_configuration_is_valid(tmp_path: Path) -> None:
    """The location is one that nginx accepts."""
    (location,) = blocks(ROOT / "docs" / "operations.md", "nginx")
    if shutil.which("nginx") is None:
        pytest.skip("nginx is not installed")
    path = tmp_path / "nginx.conf"
    path.write_text(
        f"pid {tmp_path}/nginx.pid; error_log stderr; events {{}} http {{ access_log off; server {{ listen unix:{tmp_path}/s; {location} }} }}"
    )
    done = subprocess.run(["nginx", "-t", "-c", str(path)], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
