"""Tokens that a call used."""

from __future__ import annotations

import msgspec


class Usage(msgspec.Struct, frozen=True):
    """Tokens used, summed over the attempts of a call.

    `unreported` counts attempts that cost their prompt although upstream did not report its size: each is charged at its
    estimate. `exact` is False while the sum is only a lower bound: it may charge more than was reserved, never less.
    `cached` and `written` are tokens of `input` that were read from a cache and written to it.
    `model` is the upstream's name of the model; a sum of several attempts keeps them in `parts`.
    """

    input: int = 0
    output: int = 0
    cached: int = 0
    unreported: int = 0
    exact: bool = True
    model: str = ""
    written: int = 0
    parts: tuple[Usage, ...] = ()

    def __add__(self, other: Usage) -> Usage:
        if not self.paid_prompt and self.exact:
            return other
        if not other.paid_prompt and other.exact:
            return self
        return Usage(
            self.input + other.input,
            self.output + other.output,
            self.cached + other.cached,
            self.unreported + other.unreported,
            self.exact and other.exact,
            self.model if self.model == other.model else "",
            self.written + other.written,
            (*self.each, *other.each),
        )

    @property
    def each(self) -> tuple[Usage, ...]:
        """The usage of each attempt that cost anything."""
        return self.parts or (self,)

    @property
    def paid_prompt(self) -> bool:
        """Whether an attempt may have read the prompt, so that another one needs a reservation of its own."""
        return bool(self.input or self.output or self.unreported)
