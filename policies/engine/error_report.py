"""Describe an exception of a policy for the log, without its message: policies see prompts, and may quote them."""

from __future__ import annotations

import traceback

MAX_FRAMES = 8


def error_report(error: BaseException) -> str:
    """Return the class of *error* and where it was raised: the last 8 frames, with the code but no values."""
    frames = traceback.extract_tb(error.__traceback__)[-MAX_FRAMES:]
    lines = [f"  {frame.filename}:{frame.lineno} in {frame.name}: {frame.line}" for frame in frames]
    return "\n".join([type(error).__name__, *lines])
