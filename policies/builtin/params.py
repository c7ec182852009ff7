"""Change fields of the request's body: defaults, fixed values, dropped and renamed fields."""

from __future__ import annotations

from typing import Any, ClassVar

import msgspec

from policies.api.call import MAX_NOTE_LENGTH, Call
from policies.api.policy import Policy
from policies.api.rejection import Rejection

from .option_checks import raise_faults
from .params_checks import CEILING_FIELDS, LOWERED_FIELDS, PLAIN_TYPES, change_faults

CLIENT_VALUES_STATE = "sidecar.client_fields"
"""The key in a call's `state` for the fields of the client, where only some upstreams receive all of them."""


class Params(Policy, frozen=True, kw_only=True):
    """Set defaults and fixed values of the body's fields, and drop or rename fields.

    Fields are those at the top level of the body; a value replaces the client's as a whole, also an object. The steps are
    `rename`, `drop`, `default`, `set`. A field that is null counts as absent for `default`.

    Ceilings (`max_tokens` and its other names) are only lowered: `set` never raises that of the client or of another
    policy, and `default` applies where the call has none yet. Limits reserve what the changed request can cost, wherever the policy
    stands in the chain.
    """

    default: dict[str, Any] = msgspec.field(default_factory=dict)
    set: dict[str, Any] = msgspec.field(default_factory=dict)
    drop: list[str] = msgspec.field(default_factory=list)
    rename: dict[str, str] = msgspec.field(default_factory=dict)

    fixed_in_profiles: ClassVar[tuple[str, ...]] = (*Policy.fixed_in_profiles, "default", "set", "drop", "rename")
    fixed_because: ClassVar[str] = "a client could choose the looser one: select calls by `only` in [[policy]] instead"

    def __post_init__(self) -> None:
        raise_faults(*change_faults(self))

    async def admit(self, call: Call) -> None:
        """Change the body of *call*. Raises `Rejection` for a value that cannot be sent under its new name."""
        if not call.has_completion or call.operation.is_relayed:  # a relayed body is sent as it came
            return
        body, changes = call.body, list[str]()
        for old, new in self.rename.items():
            if old in body:
                changes.append(_renamed(body, old, new))
        if self.drop:
            changes += [f"dropped {name}" for name in self.drop if name in body]
            for name in self.drop:
                body.pop(name, None)
        for name, value in self.default.items():
            is_absent = (call.max_tokens if name in CEILING_FIELDS else body.get(name)) is None
            if is_absent and _write(call, name, value):
                changes.append(f"default {name}")
        for name, value in self.set.items():
            if _may_set(call, name, value) and _write(call, name, value):
                changes.append(f"set {name}")
        if changes:
            _note(call, f"{self.name or 'params'}: ", changes)


def _note(call: Call, beginning: str, changes: list[str]) -> None:
    """Add notes with all *changes*: a note holds 200 characters."""
    line = beginning + changes[0]
    for change in changes[1:]:
        if len(line) + len(change) + 2 > MAX_NOTE_LENGTH:
            call.note(line)
            line = beginning + change
        else:
            line += f", {change}"
    call.note(line)


def _renamed(body: dict[str, Any], old: str, new: str) -> str:
    """Move the value of *old* to *new* unless the client has sent *new* too. Raises `Rejection`.

    Only numbers, words, switches and lists of them can be moved. An object could have a meaning under the new name that
    was not checked before the chain.
    """
    value = body.pop(old)
    if body.get(new) is not None:
        return f"dropped {old}"
    if not isinstance(value, PLAIN_TYPES) and not (
        isinstance(value, list) and all(isinstance(each, PLAIN_TYPES) for each in value)
    ):
        msg = f"'{old}' must be a number, a string, true, false, or a list of them: it is sent as '{new}'."
        raise Rejection(400, "invalid_request", msg, details={"param": old})
    body[new] = value
    return f"renamed {old} to {new}"


def _may_set(call: Call, name: str, value: Any) -> bool:
    """Whether `set` changes the field *name*: a ceiling only if that lowers it, or the call has none."""
    if name in CEILING_FIELDS:
        return call.has_ceiling and (call.max_tokens is None or call.max_tokens > value)
    if name in LOWERED_FIELDS:
        now = call.body.get(name)
        return type(now) is not int or not 0 <= now <= value
    return True


def _write(call: Call, name: str, value: Any) -> bool:
    """Write the field *name*; return False for a ceiling of a call that takes none: servers refuse unknown fields."""
    if name in CEILING_FIELDS:
        if call.has_ceiling:
            call.max_tokens = value
        return call.has_ceiling
    if name in LOWERED_FIELDS and name != call.operation.turns_field and call.body.get(name) is None:
        return False
    call.body[name] = value if isinstance(value, PLAIN_TYPES) else _copied(value)
    if isinstance(sent := call.state.get(CLIENT_VALUES_STATE), dict):
        sent.pop(name, None)  # the value is the operator's, also if it equals the client's
    return True


def _copied(value: Any) -> Any:
    """Return a copy of a list or an object: later policies may change the body, but not the settings."""
    if isinstance(value, dict):
        return {name: _copied(each) for name, each in value.items()}
    return [_copied(each) for each in value] if isinstance(value, list) else value
