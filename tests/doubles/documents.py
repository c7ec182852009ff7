"""The documents of the project: their code blocks, tables, links and inline code."""

from __future__ import annotations

import re
from pathlib import Path

from places import ROOT

DOCUMENTS = (
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")),
    *sorted((ROOT / "docs").glob("*.md")),
    ROOT / "bench" / "README.md",
)
_BLOCK = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


def name_of(document: Path) -> str:
    """Return the path of *document* in the checkout."""
    return document.relative_to(ROOT).as_posix()


def blocks(document: Path, language: str) -> list[str]:
    """Return the code blocks of *language* in *document*, in order."""
    return [code for found, code in _BLOCK.findall(document.read_text()) if found == language]


def prose(document: Path) -> str:
    """Return *document* without its code blocks."""
    return _BLOCK.sub("", document.read_text())


def inline_code(document: Path) -> list[str]:
    """Return the inline code of *document*."""
    return re.findall(r"`([^`\n]+)`", prose(document))


def anchors(document: Path) -> set[str]:
    """Return the anchors of the headings of *document*, as GitHub makes them."""
    slugs = (
        re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in _HEADING.findall(prose(document))
    )
    return set(slugs)


def rows(text: str, header: str) -> list[list[str]]:
    """Return the cells of the first table in *text* whose header line starts with *header*."""
    table = text.split(header, 1)[1].split("\n\n", maxsplit=1)[0]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in table.splitlines()[2:]]


def modules(document: Path) -> dict[str, str]:
    """Return the Python blocks of *document* that start with a file name, as `# name.py`, by that name."""
    found = {}
    for code in blocks(document, "python"):
        if name := re.match(r"# (\w+\.py)\n", code):
            found[name[1]] = code
    return found
