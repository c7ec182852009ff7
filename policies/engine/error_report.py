"""Describe an exception of a policy for the log, without its message: policies see prompts, and may quote them."""

from __future__ import annotations

import traceback
from collections.abc import Sequence

MAX_FRAMES = 8


class HookMisuse(TypeError):
    """A hook returned what it must not. The message names classes alone, so the log may show it."""


def returned(owner: object, hook: str, value: object, expected: str, *, is_item: bool = False) -> str:
    """Return the message for a *hook* of *owner* that returned *value*, or a sequence with it, instead of *expected*.

    It contains class names only.
    """
    kind = "None" if value is None else f"a {type(value).__name__}"
    return f"{type(owner).__name__}.{hook} returned {'a sequence with ' if is_item else ''}{kind}; return {expected}"


def not_configured(upstreams: Sequence[str]) -> str:
    """Return the end of the message about an upstream that is not one of *upstreams*. It does not contain its name."""
    return f"an upstream that is not configured; use one of {', '.join(map(repr, upstreams))}"


def error_report(error: BaseException) -> str:
    """Return the class of *error* and where it was raised: the last 8 frames, with the code but no values.

    The message is left out, except for `HookMisuse`, whose message names classes alone.
    """
    frames = traceback.extract_tb(error.__traceback__)[-MAX_FRAMES:]
    lines = [f"  {frame.filename}:{frame.lineno} in {frame.name}: {frame.line}" for frame in frames]
    title = str(error) if isinstance(error, HookMisuse) else type(error).__name__
    return "\n".join([title, *lines])
