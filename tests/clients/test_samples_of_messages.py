"""The samples of the Messages API are complete and valid, as Anthropic's SDK reads them."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from libraries import AGENTS_PYTHON, HERE
from places import DOUBLES


def test_anthropic_reads_every_sample() -> None:
    """Each class of events and of deltas has a sample, and the SDK accepts the samples with strict types."""
    if not AGENTS_PYTHON:
        pytest.skip("no interpreter is named: `make test-clients` sets AGENTS_PYTHON")
    program = str(Path(AGENTS_PYTHON).absolute())
    command = [program, str(HERE / "python" / "read_samples.py"), str(DOUBLES)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)

    assert json.loads(done.stdout) == []
