"""Paths of the project's files, for tests that read or run them."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[2]
"""The folder of the checkout."""
BENCH = ROOT / "bench"
README = ROOT / "README.md"
NODE = ROOT / "tests" / "conformance" / "node"
VENDORS = ROOT / "tests" / "conformance" / "vendors"
DOUBLES = ROOT / "tests" / "doubles"
