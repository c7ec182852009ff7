"""The refusal of a model that no upstream has, with the nearest names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from itertools import chain, islice

from policies.api.match import matches_any
from policies.api.rejection import Rejection

MAX_QUOTED_CHARACTERS = 100
"""Characters of the requested name that are compared and quoted, and of each known name."""
MAX_READ_NAMES = 5_000
"""Names among which those to compare are looked for."""
MAX_SEARCHED_WORDS = 8
"""Words of the requested name by which they are looked for: the longest ones.  Measured: 2 ms in as many names."""
MAX_COMPARED_NAMES = 200
"""Names that are compared.  Measured: 12 ms for as many that differ from the requested one only in the order of characters."""
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
    asked = model[:MAX_QUOTED_CHARACTERS].lower()
    words = sorted(dict.fromkeys(_NAME_PARTS.findall(asked)), key=len, reverse=True)[:MAX_SEARCHED_WORDS]
    shares_word = re.compile("|".join(words) or "(?!)").search
    nearer: list[tuple[str, str]] = []
    others: list[tuple[str, str]] = []
    for name in islice(known, MAX_READ_NAMES):
        folded = name[:MAX_QUOTED_CHARACTERS].lower()
        (nearer if shares_word(folded) else others).append((folded, name))
    permitted_ones = (
        (folded, name) for folded, name in chain(nearer, others) if permitted is None or matches_any(name, permitted)
    )
    by_folded = dict(islice(permitted_ones, MAX_COMPARED_NAMES))
    return [
        by_folded[name] for name in get_close_matches(asked, list(by_folded), n=MAX_NEAREST_NAMES, cutoff=CLOSE_ENOUGH)
    ]
