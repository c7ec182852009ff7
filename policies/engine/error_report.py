"""Describe an exception of a policy for the log, without its message: policies see prompts, and may quote them."""

from __future__ import annotations

import traceback

MAX_FRAMES = 8


class HookMisuse(TypeError):
    """A hook returned what it must not. The message names classes alone, so the log may show it."""


def error_report(error: BaseException) -> str:
    """Return the class of *error* and where it was raised: the last 8 frames, with the code but no values.

    The message is left out, except for `HookMisuse`, whose message names classes alone.
    """
    frames = traceback.extract_tb(error.__traceback__)[-MAX_FRAMES:]
    lines = [f"  {frame.filename}:{frame.lineno} in {frame.name}: {frame.line}" for frame in frames]
    title = str(error) if isinstance(error, HookMisuse) else type(error).__name__
    return "\n".join([title, *lines])
