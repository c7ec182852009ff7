"""Select what `GET /v1/usage` shows to a caller: the models that its limits count by, and the policies of its calls."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import parse_qsl

import msgspec

from policies.api.match import Match, Pattern, matches_any
from sidecar.wire.request.json_body import BadRequest

if TYPE_CHECKING:
    from policies.api.services import NamesOfModels
    from sidecar.config.access import Access
    from sidecar.config.settings import Settings

MAX_USAGE_PARAMETERS = 16
MAX_USAGE_MODELS = 16
"""Most models for which limits that count by model are listed, where the query names none."""
_WILDCARD_CHARACTERS = frozenset("*?[")


class Asked(NamedTuple):
    """What the query asks for: the limits of calls with this model and this user; empty where it names none."""

    model: str = ""
    user: str = ""


def asked_by(query: bytes) -> Asked:
    """Return what *query* asks for. Other parameters are ignored. Raises `BadRequest`."""
    try:
        pairs = parse_qsl(query.decode("latin-1"), keep_blank_values=True, max_num_fields=MAX_USAGE_PARAMETERS)
    except ValueError:
        raise BadRequest(f"The query has more than {MAX_USAGE_PARAMETERS} parameters.", None) from None
    fields = dict(pairs)
    return Asked(fields.get("model", ""), fields.get("user", ""))


def models_to_list(settings: Settings, access: Access, default: str) -> tuple[list[str], int]:
    """Return the models for which limits by model are listed, and how many are left out.

    They are the names without wildcards in the configuration: the *default* model, those of the key, of upstreams, and of
    policies. Names that the key may not use are left out. Other names have counters too: a query can name one.
    """
    names = {name.lower(): name for name in _configured(settings, access, default)}
    usable = [name for name in names.values() if access.models is None or matches_any(name, access.models)]
    return usable[:MAX_USAGE_MODELS], max(0, len(usable) - MAX_USAGE_MODELS)


def _configured(settings: Settings, access: Access, default: str) -> Iterator[str]:
    found = [default, *(access.models or ())]
    for upstream in settings.upstreams:
        found += [upstream.model or "", *upstream.models]
    for policy in access.base.policies:
        for names in policy.model_options.values():
            found += names
    return (name for name in found if name and not is_pattern(name))


def is_pattern(name: str) -> bool:
    """Return whether *name* has shell wildcards."""
    return not _WILDCARD_CHARACTERS.isdisjoint(name)


class Selection(msgspec.Struct, frozen=True):
    """Decides which policies can refuse the calls of *access*; *model* is the one that the query names, if any."""

    access: Access
    model: str
    names_of: NamesOfModels

    def covers(self, match: Match) -> bool:
        """Return whether a policy with this *match* can apply to a call of the caller, on any path."""
        if not Match(tenant=match.tenant).covers(_Example(self.access.tenant)):
            return False
        models = [self.model] if self.model else self.access.models
        if models is None or match.model == "*" or any(map(is_pattern, models)):
            return True
        by_model = Match(model=match.model)
        return any(by_model.covers(_Example(model=name, served_models=self._served(name))) for name in models)

    def shown(self, match: Match) -> dict[str, Pattern]:
        """Return the part of *match* that is shown: its paths, and the models that the key may use; no tenants."""
        shown = {"path": match.path} if match.path != "*" else {}
        if match.model != "*":
            shown["model"] = self._usable(match.model)
        return shown

    def _usable(self, pattern: Pattern) -> Pattern:
        models = self.access.models
        if models is None or isinstance(pattern, str):
            return pattern
        return [each for each in pattern if is_pattern(each) or matches_any(each, models)]

    def _served(self, name: str) -> Sequence[str]:
        return self.names_of(name, (), substituted=False)


class _Example(msgspec.Struct):
    """A call by which a match is checked; only the compared field has a value. See `MatchedCall`."""

    tenant: str = ""
    path: str = ""
    model: str = ""
    served_models: Sequence[str] = ()
    has_completion: bool = True

    @property
    def candidate_models(self) -> Sequence[str]:
        """The model alone: the caller's fallback models are not known."""
        return [self.model]
