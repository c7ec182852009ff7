"""Permissions of a caller: the chains of its tenant, and the models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from policies.api.call import Call
from policies.api.match import Match, matches_any
from policies.api.policy import Policy
from sidecar.wire.operations.registry import fields_of
from sidecar.wire.request.documented_fields import ForwardedFields
from sidecar.wire.request.json_body import BadRequest
from sidecar.wire.request.known_fields import CLIENT_FIELDS_STATE
from sidecar.wire.request.routing_fields import RoutingField, check_model_name, check_routing, check_tier

from .key_values.expiry import NO_EXPIRY

LEGACY_PROFILES = {"budget": "constrained", "moderate": "balanced", "free": "expanded"}
DEFAULT_CHAT_PROFILE = "balanced"
MAX_PROFILE_NAME = 256
"""Characters of a profile's name; a longer one is unknown, whatever the time to convert its case."""


class Forbidden(Exception):
    """Refusal of a profile or model that the caller's key may not use; sent as 403."""

    def __init__(self, message: str, param: str) -> None:
        super().__init__(message)
        self.message, self.param = message, param


class ModelRule(msgspec.Struct, frozen=True):
    """A *policy* that depends on the model of the calls it covers, by its *option*.

    *names* are the names and patterns of models in the option. *where* matches the calls whatever their model.
    """

    policy: str
    option: str
    names: tuple[str, ...]
    where: Match


class Profile(msgspec.Struct, frozen=True):
    """One chain of policies: the base chain (named ''), or a profile that tightens it.

    *owner* is the key path of the `[[key]]` whose limits the chain has; empty for the chains of the file.  *model_rules*
    are derived from the policies.
    """

    name: str
    policies: tuple[Policy, ...]
    temperature: float | None = None
    owner: str = ""
    model_rules: tuple[ModelRule, ...] = ()

    def __post_init__(self) -> None:
        rules = tuple(
            ModelRule(policy.name, option, tuple(names), msgspec.structs.replace(policy.match, model="*"))
            for policy in self.policies
            for option, names in policy.model_options.items()
        )
        msgspec.structs.force_setattr(self, "model_rules", rules)


class KeyHash(msgspec.Struct, frozen=True):
    """The SHA-256 of one key of a client, and the last time at which it is valid, in seconds since 1970."""

    digest: bytes
    last_moment: float = NO_EXPIRY


class Access(msgspec.Struct, frozen=True, kw_only=True):
    """Permissions of one key: its tenant, its chains, and the profiles and models that it may use (None: all).

    *key_id* names the key in records, and *hashes* are those of the key; empty where the file has no keys.  *fields* are those
    that are forwarded.  *table* is the `[[key]]` as in the file, for the commands about keys.
    *limits_models* is derived: whether the key or a policy has a rule for models, so that `check` is needed.
    """

    tenant: str
    key_id: str = ""
    hashes: tuple[KeyHash, ...] = ()
    base: Profile
    profiles: Mapping[str, Profile]
    allowed: tuple[str, ...] | None = None
    models: tuple[str, ...] | None = None
    fields: ForwardedFields = "any"
    table: Mapping[str, Any] = {}
    limits_models: bool = False

    def __post_init__(self) -> None:
        chains = (self.base, *self.profiles.values())
        has_rules = self.models is not None or any(each.model_rules for each in chains)
        msgspec.structs.force_setattr(self, "limits_models", has_rules)

    def profile(self, name: str) -> Profile:
        """Return the profile named by the header `x-profile`; case and surrounding spaces are ignored.

        A name without a table is the base chain.  An empty name is the first profile that the key may use, or the base
        chain where the key may use all.  Raises `Forbidden` for a profile that the key may not use.
        """
        wanted = name.strip().lower()
        if not wanted and self.allowed is not None:
            wanted = self.allowed[0]
        return self._permitted(wanted, self.profiles.get(wanted, self.base))

    def chat_profile(self, name: str | None) -> Profile:
        """Return the profile of a Chat Nest call; an unknown or missing name means `balanced`.

        For a key that is restricted to some profiles, a missing name means the first of them.  Raises `Forbidden`.
        """
        wanted = (name or "").strip()
        wanted = wanted.lower() if len(wanted) <= MAX_PROFILE_NAME else DEFAULT_CHAT_PROFILE
        if not wanted and self.allowed is not None:
            wanted = self.allowed[0]
        wanted = wanted if wanted in self.profiles else LEGACY_PROFILES.get(wanted, wanted)
        wanted = wanted if wanted in self.profiles else DEFAULT_CHAT_PROFILE
        return self._permitted(wanted, self.profiles.get(wanted, self.base))

    def permits(self, profile: Profile) -> bool:
        """Return whether the key may use *profile*."""
        return self.allowed is None or profile.name in self.allowed

    def _permitted(self, wanted: str, profile: Profile) -> Profile:
        if self.permits(profile):
            return profile
        raise Forbidden(f"This key may not use the profile {wanted[:100]!r}.", "profile")

    def check(self, call: Call) -> None:
        """Raise `Forbidden` unless the key may use every candidate model of *call*, fallbacks included.

        A field that could choose another model is `Forbidden` to a key with `models`. Where only policies depend on the
        model (prices), it is a `BadRequest`. A list of models names none: it is reduced to those that the key may use.
        Another upstream's default model that the key may not use is not requested: the call then names its own.
        """
        form = call.operation
        if form.is_free:
            if self.models is not None:
                self._check_fields(call, [])  # it costs nothing, so that no price depends on the model
        elif call.has_completion or form.is_relayed:
            profile = self.profiles.get(call.profile, self.base)
            rules = [rule for rule in profile.model_rules if rule.where.covers(call)]
            if self.models is not None or rules:
                self._check_fields(call, rules)
        if self.models is None or (not call.has_completion and not form.is_free and not call.model):
            return
        for model in call.candidate_models:
            if not matches_any(model, self.models):
                what = f"the model {model[:100]!r}" if model else "a model that the call does not name"
                raise Forbidden(f"This key may not use {what}.", "model")
        if not call.names_model and not self._may_use_defaults(call, self.models):
            call.substituted_model = ""

    def depends_on_model(self, call: Call) -> bool:
        """Whether the key or a limit of *call* depends on its model, so that the model must be known."""
        profile = self.profiles.get(call.profile, self.base)
        return self.models is not None or any(rule.where.covers(call) for rule in profile.model_rules)

    @staticmethod
    def _may_use_defaults(call: Call, models: tuple[str, ...]) -> bool:
        """Whether *models* permit the default model of each upstream, to which a fallback could send *call*."""
        named = call.services.names_of(call.model, (), substituted=False)
        others = [name for name in call.served_models if name not in named]
        return all(matches_any(name, models) for name in others)

    def _check_fields(self, call: Call, rules: list[ModelRule]) -> None:
        listed = {*(self.models or ()), *(name for rule in rules for name in rule.names)}
        way_out = "Use another name, or ask the operator to configure this one in full"
        try:
            if call.names_model:  # the operator has chosen the default model
                check_model_name(call.model, "model", listed)
            for at, name in enumerate(call.fallback_models):
                check_model_name(name, f"models[{at}]", listed)
            way_out = 'Remove it, or ask the operator to have such fields dropped (`fields = "known"`)'
            check_routing(call.body, fields_of(call))
            if CLIENT_FIELDS_STATE in call.state:
                call.state[CLIENT_FIELDS_STATE] = dict(call.body)  # with the values that the check has decoded
            way_out = "Remove it"
            if any(rule.option == "prices" for rule in rules):
                check_tier(call.body)
        except RoutingField as fault:
            if self.models is not None:
                raise Forbidden(f"{fault}. {way_out}: this key may use only some `models`.", fault.field) from None
            setting = f"`{rules[0].option}` of the policy {rules[0].policy!r}"
            raise BadRequest(f"{fault}. {way_out}: limits depend on the model ({setting}).", fault.field) from None
