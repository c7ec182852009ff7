"""The refusal of a model that no upstream has, with the nearest names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from itertools import islice

from policies.api.match import matches_any
from policies.api.rejection import Rejection

from .listed_names import MAX_MODEL_NAME_LENGTH

MAX_QUOTED_CHARACTERS = 100
"""Characters of the requested name in the message, and of each nearest name."""
MAX_READ_NAMES = 5_000
"""Names among which those to compare are looked for."""
MAX_COMPARED_NAMES = 200
"""Names that are compared.  Measured: 4 ms for as many that share a word with the requested one."""
MAX_NEAREST_NAMES = 3
CLOSE_ENOUGH = 0.5
"""Least similarity, from 0 to 1, of a name that is suggested."""
_NAME_PARTS = re.compile(r"[a-z]{3,}")


def unknown_model(model: str, known: Iterable[str], permitted: Sequence[str] | None) -> Rejection:
    """Return the 404 for *model*: OpenAI's `model_not_found`.

    It suggests those of the *known* names that are nearest to *model*, among them only *permitted* ones (patterns; None: all).
    """
    names = nearest_names(model, known, permitted)
    shown = ", ".join(repr(name[:MAX_QUOTED_CHARACTERS]) for name in names)
    advice = f" Did you mean {shown}?" if names else ""
    message = f"The model {model[:MAX_QUOTED_CHARACTERS]!r} is not served by any upstream.{advice}"
    return Rejection(404, "model_not_found", message, details={"param": "model"})


def nearest_names(model: str, known: Iterable[str], permitted: Sequence[str] | None) -> list[str]:
    """Return up to three of the *known* names, the nearest first; a bounded number of names is compared."""
    asked = model[:MAX_MODEL_NAME_LENGTH].lower()
    words = _NAME_PARTS.findall(asked)
    by_folded = {
        name.lower(): name
        for name in sorted(
            islice(known, MAX_READ_NAMES), key=lambda name: not any(word in name.lower() for word in words)
        )
        if permitted is None or matches_any(name, permitted)
    }
    compared = list(by_folded)[:MAX_COMPARED_NAMES]
    return [by_folded[name] for name in get_close_matches(asked, compared, n=MAX_NEAREST_NAMES, cutoff=CLOSE_ENOUGH)]
