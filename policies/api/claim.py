"""Claims: the amount that one call takes from one limit, in which window, and for which identity."""

from __future__ import annotations

import functools
from hashlib import sha256
from ipaddress import IPv6Address, ip_address
from typing import Annotated, Literal, NamedTuple, Protocol, TypeAlias

import msgspec

Unit: TypeAlias = Literal["tokens", "requests", "usd"]
Identity: TypeAlias = Literal["tenant", "ip", "model", "user", "global"]
By: TypeAlias = Identity | Annotated[list[Identity], msgspec.Meta(min_length=1)]
"""The identity that a limit counts: one kind, or a combination of several."""
Identities: TypeAlias = Annotated[int, msgspec.Meta(ge=1, le=1_000_000)]
"""Limit of client-chosen identities with their own counter."""

Period: TypeAlias = Literal["minute", "hour", "day", "week", "month"]


class Sliding(msgspec.Struct, frozen=True, tag=True):
    """Every span of `seconds`: an amount counts for `seconds` after it was taken, and for 1/64 of them more at most."""

    seconds: float

    @property
    def key(self) -> str:
        """The part of a counter's name that identifies this window."""
        return f"sliding@{self.seconds:.12g}"


class Calendar(msgspec.Struct, frozen=True, tag=True):
    """The current minute, hour, day, week (from Monday) or month in a time zone."""

    period: Period
    timezone: str = "UTC"

    @property
    def key(self) -> str:
        """The part of a counter's name that identifies this window."""
        return f"{self.period}@{self.timezone}"


Window: TypeAlias = Sliding | Calendar
"""The span of time that a limit counts in."""

KEY_SEPARATOR = "\x1f"
OVERFLOW_SUFFIX = "\x1dothers"
"""The end of an overflow counter's identity. Client-chosen identities cannot contain the character."""
IDENTITY_SEPARATOR = "\x1e"
MAX_IDENTITY_LENGTH = 128
DEFAULT_MAX_IDENTITIES = 10_000
IPV6_HOST_BITS = 64
MICRO_DOLLARS_PER_DOLLAR = 1_000_000
_KINDS_BY_PART: dict[Identity, tuple[Identity, ...]] = {"user": ("tenant", "user")}
TOKEN_SCALES: dict[str, int] = {"usd": MICRO_DOLLARS_PER_DOLLAR}
"""Divisor of a claim's `per_token` by unit, if it is not 1: prices are per million tokens."""


@functools.lru_cache(1024)
def counter_key(policy: str, identity: str, unit: Unit, window: Window) -> str:
    """Return the name of a counter. Cached: each call needs the names of its claims."""
    return KEY_SEPARATOR.join((policy, identity, unit, window.key))


def amount_text(unit: Unit, amount: int) -> str:
    """Return *amount* for a message, with its unit: `1,200 tokens`, `1 request`, `$0.0012`."""
    if unit == "usd":
        return number_text(unit, amount)
    return f"{number_text(unit, amount)} {unit.removesuffix('s') if amount == 1 else unit}"


def in_units(unit: str, amount: int) -> float:
    """Return *amount* as it is reported: dollars for micro-dollars ("usd"), any other unit unchanged."""
    return amount / MICRO_DOLLARS_PER_DOLLAR if unit == "usd" else amount


def number_text(unit: Unit, amount: int) -> str:
    """Return *amount* for a message, without the noun of its unit: `1,200`, `$0.0012`."""
    if unit != "usd":
        return f"{amount:,}"
    sign = "-" if amount < 0 else ""
    return f"{sign}$" + f"{abs(amount) / MICRO_DOLLARS_PER_DOLLAR:,.6f}".rstrip("0").rstrip(".")


class Claim(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The amount that one call takes from one limit. `Policy.claim` creates one.

    It is `base`, plus `per_token / scale` for each token of the longest possible answer, in tokens, requests or
    micro-dollars. The store may lower the call's ceiling, down to `floor`, to make the claim fit.

    For a call without a ceiling, `answer` tokens of each answer are reserved; 0 reserves `base` alone. The reservation of
    a stream grows by as many tokens at a time.

    At most `max_identities` client-chosen identities per `identity_group` (the part of the identity that clients cannot
    choose) get their own counter; all others share one overflow counter. An open counter never moves there. 0 is no
    limit.

    `by` is what it counts by, for reports; None where that is not known.
    """

    policy: str
    identity: str
    unit: Unit
    limit: int
    window: Window
    base: int
    per_token: int = 0
    floor: int = 0
    max_identities: int = 0
    identity_group: str = ""
    answer: int = 0
    by: By | None = None

    @property
    def scale(self) -> int:
        """The divisor of `per_token`."""
        return TOKEN_SCALES.get(self.unit, 1)

    def needs(self, ceiling: int) -> int:
        """Return the amount with a ceiling of *ceiling* tokens per answer."""
        return (
            self.base - (-self.per_token * ceiling // TOKEN_SCALES.get(self.unit, 1)) if self.per_token else self.base
        )

    @property
    def key(self) -> str:
        """The counter's name: one per policy, identity, unit and window; profiles and limits share it."""
        return counter_key(self.policy, self.identity, self.unit, self.window)

    @property
    def overflow_key(self) -> str:
        """The name of the counter that the identities beyond `max_identities` share."""
        return KEY_SEPARATOR.join((self.policy, self.identity_group + OVERFLOW_SUFFIX, self.unit, self.window.key))

    @property
    def group_key(self) -> str:
        """The name of its group of identities."""
        return KEY_SEPARATOR.join((self.policy, self.identity_group, self.unit, self.window.key))


class CountedIdentity(NamedTuple):
    """The name under which a call is counted.

    `group` is the part that clients cannot choose; None if they choose none of it.
    """

    name: str
    group: str | None


class IdentifiedCall(Protocol):
    """What `identity` reads of a call. `Call` is one."""

    tenant: str
    ip: str

    @property
    def model(self) -> str:
        """The model's name."""
        ...

    @property
    def user(self) -> str:
        """The end user that the client names."""
        ...


def counts_by_model(by: By) -> bool:
    """Return whether *by* includes the model."""
    return by == "model" if isinstance(by, str) else "model" in by


def identity(call: IdentifiedCall, by: By) -> CountedIdentity:
    """Return the identity of *call* for *by*. A user belongs to its tenant, so tenants cannot use each other's users."""
    parts = by if isinstance(by, list) else [by]
    names = [_name(call, part) for part in parts]
    if all(part in ("tenant", "global") for part in parts):
        return CountedIdentity(IDENTITY_SEPARATOR.join(names), None)
    known = [call.tenant] if "tenant" in parts or "user" in parts else []
    return CountedIdentity(IDENTITY_SEPARATOR.join(names), IDENTITY_SEPARATOR.join(known))


def kinds_of(by: By) -> list[Identity]:
    """Return the kinds of identity in *by*, in the order of `identity`; a user is counted within its tenant."""
    return [kind for part in (by if isinstance(by, list) else [by]) for kind in _KINDS_BY_PART.get(part, (part,))]


def identity_names(by: By, name: str) -> dict[str, str]:
    """Return the parts of the identity *name* by their kind; `(others)` for those that share an overflow counter."""
    kinds = kinds_of(by)
    if name.endswith(OVERFLOW_SUFFIX):
        known = {"tenant": name.removesuffix(OVERFLOW_SUFFIX)} if "tenant" in kinds else {}
        return {kind: known.get(kind, "(others)") for kind in kinds if kind != "global"}
    return {kind: part for kind, part in zip(kinds, name.split(IDENTITY_SEPARATOR), strict=False) if kind != "global"}


def is_of_one_tenant(by: By | None) -> bool:
    """Return whether only the calls of one tenant fill a counter; False where *by* is not known."""
    return by is not None and "tenant" in kinds_of(by)


def _name(call: IdentifiedCall, part: Identity) -> str:
    if part == "tenant":
        return call.tenant
    if part == "ip":
        return _host(call.ip)
    if part == "model":
        return _short(call.model.lower())  # some servers ignore the case of a name
    if part == "user":
        return call.tenant + IDENTITY_SEPARATOR + _short(call.user)
    return ""


def _host(ip: str) -> str:
    # A client with one IPv6 address can use all 2^64 of its network.
    if ":" not in ip:
        return ip
    try:
        address = ip_address(ip.partition("%")[0])
    except ValueError:
        return _short(ip)
    if not isinstance(address, IPv6Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return f"{IPv6Address(int(address) >> IPV6_HOST_BITS << IPV6_HOST_BITS)}/{IPV6_HOST_BITS}"


def _short(name: str) -> str:
    # Clients choose these names: each becomes a short key, and no two names share one.
    if len(name) <= MAX_IDENTITY_LENGTH and name.isprintable():
        return name
    return "sha256:" + sha256(name.encode()).hexdigest()
