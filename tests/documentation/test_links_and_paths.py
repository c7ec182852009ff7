"""Links and paths in the documents lead to what exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from documents import DOCUMENTS, anchors, inline_code, name_of, prose, rows
from places import ROOT

PATH = re.compile(r"(?:sidecar|policies|tests|docs|bench|examples|\.ci)/[\w./*-]*")
IDENTIFIER = re.compile(r"[A-Za-z_]\w*")
ARCHITECTURE = ROOT / "docs" / "architecture.md"


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_links_resolve(document: Path) -> None:
    """Each relative link names a file of the checkout, and each anchor a heading of its document."""
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(document)):
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        file = (document.parent / path).resolve() if path else document
        assert file.exists(), target
        if anchor:
            assert anchor in anchors(file), target


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_paths_exist(document: Path) -> None:
    """Each path of the checkout in inline code exists."""
    named = [code for code in inline_code(document) if PATH.fullmatch(code)]
    missing = [code for code in named if not any(ROOT.glob(code.rstrip("/")))]
    assert missing == []


def test_names_are_in_their_files() -> None:
    """In the table of where to add something, each name is in one of the files of its row."""
    for row in rows(ARCHITECTURE.read_text(), "| to add |"):
        codes = re.findall(r"`([^`]+)`", " ".join(row))
        files = [ROOT / code for code in codes if PATH.fullmatch(code) and (ROOT / code).is_file()]
        assert files, row
        text = "\n".join(file.read_text() for file in files)
        missing = [code for code in codes if IDENTIFIER.fullmatch(code) and code not in text]
        assert missing == [], row[0]


def test_every_package_is_described() -> None:
    """The tables of packages have each package, and no other."""
    text = ARCHITECTURE.read_text().split("## Packages")[1].split("## A request")[0]
    named = {code.rstrip("/") for code in re.findall(r"`((?:policies|sidecar)/\w+/)`", text)}
    packages = {
        path.parent.relative_to(ROOT).as_posix()
        for root in ("policies", "sidecar")
        for path in ROOT.glob(f"{root}/*/__init__.py")
    }
    assert named == packages


def test_every_document_is_listed() -> None:
    """The README lists each document."""
    listed = set(re.findall(r"^\| \[(\S+)\]", (ROOT / "README.md").read_text(), re.MULTILINE))
    assert {name_of(document) for document in DOCUMENTS} - {"README.md", "bench/README.md"} == listed
