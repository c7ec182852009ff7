"""Which models an upstream serves: by its settings, else by its list."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Protocol

from policies.api.match import longest_match

from .listed_names import LATEST_TAG, MAX_MODEL_NAME_LENGTH, Fit, plain_name

if TYPE_CHECKING:
    from sidecar.config.upstream import ResolvedUpstream

    from .model_listing import ModelListing

CATCH_ALL_PATTERN = "*"


class ServingUpstream(Protocol):
    """An upstream's settings, and its list of models."""

    settings: ResolvedUpstream
    listing: ModelListing


def fit_of(upstream: ServingUpstream, model: str) -> Fit:
    """Return how well *model*, the client's name, fits the models of *upstream*.

    - With `serves`: the client's name, or the upstream's own name by `models`, matches one of its patterns, in any case.
    - Without: `models` has the client's name or a pattern for it, or the list has the upstream's name. The alias `*` fits
      least: it stands for the names that no other upstream serves.
    """
    settings = upstream.settings
    own = settings.named(model)
    if settings.serves is not None:
        return Fit.SERVED if _matches(settings.serves, model) or _matches(settings.serves, own) else Fit.NOT
    alias = settings.alias_of(model)
    if alias is not None and alias != CATCH_ALL_PATTERN:
        return Fit.SERVED
    listed = Fit.NOT if (names := upstream.listing.names) is None else names.fit(own)
    if alias is None or own == model:
        return listed if alias is None else max(listed, Fit.CATCH_ALL)
    return Fit.CATCH_ALL


def _matches(patterns: tuple[str, ...], name: str) -> bool:
    if len(name) > MAX_MODEL_NAME_LENGTH:
        return False
    spellings = (name, plain_name(name), name + LATEST_TAG)
    return any(longest_match(each, patterns, ignore_case=True) is not None for each in spellings)


def knows_its_models(upstream: ServingUpstream) -> bool:
    """Whether all models of *upstream* are known: by `serves`, or by a list that could be read the last time."""
    return upstream.settings.serves is not None or upstream.listing.is_current


def has_named_models(upstream: ServingUpstream) -> bool:
    """Whether models of *upstream* were ever known: by `serves`, or by a list that was read, however long ago."""
    return upstream.settings.serves is not None or upstream.listing.names is not None


def stated_names(upstream: ServingUpstream) -> Iterator[str]:
    """Yield the names by which clients can call models of *upstream*; patterns have none."""
    settings = upstream.settings
    yield from settings.exact_aliases
    if settings.serves is not None:
        yield from (name for name in settings.serves if not any(character in name for character in "*?["))
    elif (names := upstream.listing.names) is not None:
        yield from names.names
