"""Refuse fields of a request that could choose another model, server, key or price than the `model` that limits read.

Routers (LiteLLM, OpenRouter, Portkey, Helicone, Vercel, Bifrost, …) each have their own such fields, so the rule does not
list them. A field is understood if it is documented (`DOCUMENTED_FIELDS`). Any other one is refused if it holds text or an
object, because text can name a model and so can a key of an object; or if its name is that of a routing option, such as
`allow_fallbacks: true`. Numbers, switches, null and lists of them name nothing and pass. Null and `[]` choose
nothing and pass under any name: some clients send every option that they know.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

import msgspec

from policies.api.decoding.values import decode_values
from sidecar.wire.decoding.value_count import count_marks

from .documented_fields import (
    DOCUMENTED_FIELDS,
    TOOL_BODIES,
    TOOL_FIELDS,
    TOOL_TYPES,
    FieldKind,
    FieldShape,
    adds_tools,
)

MAX_JUDGED_VALUES = 16_384
"""Names and values that are read in one body; a name that is not documented counts as `name_cost` of them."""
MAX_JUDGED_BYTES = 262_144
"""Bytes of a field that is not decoded yet. Measured: 4 ms to decode as many."""
MAX_MODEL_NAME_LENGTH = MAX_FIELD_NAME_LENGTH = 256
MAX_SHOWN_NAME = 60
"""Characters of a field's name that a refusal shows."""
SETTING_WORDS = frozenset(
    {"", "true", "false", "yes", "no", "on", "off", "none", "null", "enabled", "disabled", "minimal", "low", "medium", "high"}
)  # fmt: skip
"""Words that name no model: switches and levels that servers accept as strings."""
STANDARD_TIERS = (None, "", "auto", "default", "standard", "standard_only", "flex", "on_demand")
"""Values of the fields in `TIER_FIELDS` that cost at most the list price of a model."""
TIER_FIELDS = ("service_tier", "speed")
"""Fields by which a call can cost more: of OpenAI, and Anthropic's fast mode."""

_NAME_SEPARATORS = re.compile("[,;|]")
"""LiteLLM and Helicone split `model` by commas."""
_PART_OF_URL = re.compile(r"[?#%]|(?:^|[/\\])\.\.(?:$|[/\\])")
"""Parts of a name by which a URL leads elsewhere.

Some routers write the name into a URL (LiteLLM for Gemini and Azure), and httpx resolves `..`, so that
`models/cheap/../dear:generateContent` is a request for `dear`.
"""
_ROUTING_VARIANT = re.compile(r"@preset(?:/|$)|:(?:online|nitro|floor|exacto)(?:$|[@:])", re.IGNORECASE)
"""Parts of a name with which OpenRouter routes a model otherwise, whatever the model: presets may name other models."""
_START_OF_JSON = re.compile(r"[{\[]")
"""What a text must contain to be an object or a list in JSON."""
_EMPTY_VALUES: tuple[object, ...] = (None, [])
"""Values that choose nothing, whatever the field. An empty object can switch something on: `{"googleSearch": {}}`."""
_NOT_LETTERS = re.compile(r"[\W_]+")
_ROUTING_STEM = re.compile(
    "model|fallback|rout(?:e|ing)|provider|deploy|engine|endpoint|preset|plugin|proxy|gateway|backend|upstream|adapter"
    "|lora|apikey|apibase|baseurl|extrabody|extraheader|extraquery|override|servicetier"
)
_ROUTING_WORDS = frozenset({"tag", "tags", "tier", "online", "fast", "turbo"})
_HARMLESS_VARIABLES = frozenset({"model_identity"})
"""Variables of known chat templates (gpt-oss) with the name of a routing option."""


class RoutingField(Exception):
    """A field that could choose a model, a server, a key or a price. *field* is its path, *problem* why it could."""

    def __init__(self, field: str, problem: str) -> None:
        shown = field if len(field) <= MAX_SHOWN_NAME else field[:MAX_SHOWN_NAME] + "…"
        super().__init__(f"'{shown}' {problem}")
        self.field, self.problem = shown, problem


def name_cost(name: str) -> int:
    """Return what a name that is not documented counts of `MAX_JUDGED_VALUES`.  Measured: 0.2 us per character to search."""
    return 8 + len(name) // 4


def is_routing_name(name: str) -> bool:
    """Whether *name* is that of an option that chooses a model, a server or a key. Time is linear."""
    folded = name.casefold()
    if _ROUTING_STEM.search(_NOT_LETTERS.sub("", folded)) is not None:
        return folded not in _HARMLESS_VARIABLES
    return not _ROUTING_WORDS.isdisjoint(_NOT_LETTERS.split(folded))


def check_routing(body: dict[str, Any], fields: Mapping[str, FieldShape] = DOCUMENTED_FIELDS) -> None:
    """Raise `RoutingField` for the first field of *body* that could choose a model, a server or a key.

    *fields* are those that the API documents. Values that are not decoded yet (`msgspec.Raw`) are, up to a limit, where they must be read. Time is linear.
    """
    _Reader().fields(body, fields, "")


def check_tier(body: Mapping[str, Any]) -> None:
    """Raise `RoutingField` if a field asks for processing that may cost more than the price of the model."""
    for field in TIER_FIELDS:
        tier = body.get(field)
        if (tier.lower() if isinstance(tier, str) else tier) not in STANDARD_TIERS:
            raise RoutingField(field, "may cost more than the price of the model")


def check_model_name(name: str, field: str, listed: Collection[str]) -> None:
    """Raise `RoutingField` for a model's *name* that routers read otherwise than as the name of one model.

    *listed* are the names and patterns of the configuration: a name among them is the operator's, and passes.
    """
    if name in listed:
        return
    if len(name) > MAX_MODEL_NAME_LENGTH:
        raise RoutingField(field, f"is longer than {MAX_MODEL_NAME_LENGTH} characters")
    if not name.isprintable() or name != name.strip():
        raise RoutingField(field, "has characters that are not printable, or spaces at an end")
    if _NAME_SEPARATORS.search(name) is not None:
        raise RoutingField(
            field, "has a comma, a semicolon or a bar, at which some routers split it into several models"
        )
    if _PART_OF_URL.search(name) is not None:
        raise RoutingField(field, "has '..', '?', '#' or '%', with which a URL can lead to another model")
    if _ROUTING_VARIANT.search(name) is not None:
        raise RoutingField(field, "has a suffix by which a router chooses another model, server or price")


class _Reader:
    """Reads one body, at most `MAX_JUDGED_VALUES` of its names and values."""

    __slots__ = ("_left",)

    def __init__(self) -> None:
        self._left = MAX_JUDGED_VALUES

    def fields(self, found: dict[str, Any], table: Mapping[str, FieldShape], where: str) -> None:
        """Check the fields of one object against the documented ones of *table*."""
        if where:
            self._count(where[:-1], len(found))
        # Only values of fields that are there are replaced, which is allowed in a loop over them.
        for name, value in found.items():
            shape = table.get(name)
            if shape is FieldKind.CONTENT:
                continue
            kind = type(value)
            if kind is str and shape is FieldKind.SETTING:
                continue
            if shape is None or kind is str or kind is list or kind is dict or kind is msgspec.Raw:
                path = where + name
                self._count(path, 1 if shape is not None else name_cost(name))
                if kind is msgspec.Raw:
                    try:
                        found[name] = decoded_field(value)  # what is judged is what is sent
                    except ValueError as error:
                        raise RoutingField(path, str(error)) from None
                self._field(path, name, found[name], shape)

    def _field(self, path: str, name: str, value: Any, shape: FieldShape | None) -> None:
        if shape is None:
            self._undocumented(path, name, value)
        elif may_hide_object(value, shape):
            raise RoutingField(path, "is text that some servers read as an object, which may name a model or a server")
        elif shape is FieldKind.VARIABLES:
            self._variables(path, value)
        elif shape is FieldKind.TOOLS:
            self._tools(path, value)
        elif shape is FieldKind.ITEMS:
            for at, item in enumerate(value if isinstance(value, list) else [value]):
                if adds_tools(item):
                    self._tools(f"{path}[{at}].tools", item["tools"])
        elif isinstance(shape, FieldKind):
            self._setting(path, value)
        elif isinstance(value, dict):
            self.fields(value, shape, f"{path}.")
        elif isinstance(value, list):
            self._count(path, len(value))
            for at, each in enumerate(value):
                self._field(f"{path}[{at}]", name, each, shape if isinstance(each, dict) else FieldKind.SETTING)

    def _undocumented(self, path: str, name: str, value: object) -> None:
        _check_name(path, name, value)
        waiting = [value] if value not in _EMPTY_VALUES else []
        while waiting:
            each = waiting.pop()
            if isinstance(each, list):
                self._count(path, len(each))
                waiting += each
            elif isinstance(each, dict) or (isinstance(each, str) and each.lower() not in SETTING_WORDS):
                what = "an object" if isinstance(each, dict) else "text"
                raise RoutingField(
                    path, f"is not documented, and its value has {what}, which may name a model or a server"
                )

    def _setting(self, path: str, value: object) -> None:
        if isinstance(value, dict):
            raise RoutingField(path, "is an object, which may name a model or a server")
        if isinstance(value, list):
            self._count(path, len(value))
            for each in value:
                if isinstance(each, list | dict):
                    raise RoutingField(path, "is a list of objects or lists, which may name a model or a server")

    def _variables(self, path: str, value: object) -> None:
        if isinstance(value, list):
            self._count(path, len(value))
            for each in value:
                self._variables(path, each)
        elif isinstance(value, dict):
            for name, each in value.items():
                self._count(path, name_cost(name))
                _check_name(f"{path}.{name}", name, each)
                self._variables(path, each)

    def _tools(self, path: str, value: object) -> None:
        if not isinstance(value, list):
            self._setting(path, value)
            return
        self._count(path, len(value))
        for at, tool in enumerate(value):
            if not isinstance(tool, dict):
                self._setting(f"{path}[{at}]", tool)
                continue
            kind = tool.get("type")
            if (kind is not None and kind not in TOOL_TYPES) or TOOL_BODIES.isdisjoint(tool):
                raise RoutingField(
                    f"{path}[{at}].type", "may be a tool that the server runs with another model or a fee"
                )
            self.fields(tool, TOOL_FIELDS, f"{path}[{at}].")

    def _count(self, path: str, values: int) -> None:
        self._left -= values
        if self._left < 0:
            raise RoutingField(path, f"has too many values to be checked, more than {MAX_JUDGED_VALUES} in all")


def may_hide_object(value: object, shape: FieldShape) -> bool:
    """Whether *value*, in place of a documented object, is text that may be one in JSON: LiteLLM decodes `metadata` so."""
    return (
        isinstance(value, str)
        and shape not in (FieldKind.SETTING, FieldKind.ITEMS)
        and _START_OF_JSON.search(value) is not None
    )


def _check_name(path: str, name: str, value: object) -> None:
    if len(name) > MAX_FIELD_NAME_LENGTH:
        raise RoutingField(path, f"is longer than {MAX_FIELD_NAME_LENGTH} characters")
    if value not in _EMPTY_VALUES and is_routing_name(name):
        raise RoutingField(path, "may choose a model, a server or a key")


def decoded_field(value: msgspec.Raw) -> Any:
    """Return *value*, decoded. Raises `ValueError` with the reason for one that is too large or cannot be read."""
    data = bytes(value)
    if len(data) > MAX_JUDGED_BYTES or count_marks(data) > MAX_JUDGED_VALUES:
        msg = f"is too large to be checked, more than {MAX_JUDGED_BYTES} bytes or {MAX_JUDGED_VALUES} values"
        raise ValueError(msg)
    try:
        return decode_values(data)
    except (msgspec.MsgspecError, RecursionError):
        msg = "cannot be read"
        raise ValueError(msg) from None
