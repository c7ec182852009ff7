"""Limit the tokens of one answer, and of one request."""

from __future__ import annotations

from typing import Annotated, ClassVar

import msgspec

from policies.api.call import Call
from policies.api.policy import Policy
from policies.api.rejection import Rejection

Limit = Annotated[int, msgspec.Meta(ge=1)]


class MaxTokens(Policy, frozen=True):
    """Clamp each answer to `output` tokens, and refuse a call whose prompt and answers exceed `request` tokens.

    The prompt counts a quarter of its characters, rounded up, as in Chat Nest. The client's `maxTokensPerRequest`
    lowers `request`.
    """

    output: Limit
    request: Limit | None = None

    tightened_by_profiles: ClassVar[tuple[str, ...]] = ("output", "request")

    async def admit(self, call: Call) -> None:
        """Lower the ceiling of *call*. Raises `Rejection` with the code `request_too_large`."""
        if not call.has_completion:
            return
        if call.tokens_each:
            self._check_fixed(call.tokens_each)
            return
        requested = call.max_tokens
        if requested is None or requested > self.output:
            call.max_tokens = self.output
            call.note(
                f"set the answer's ceiling to {self.output} tokens"
                if requested is None
                else f"lowered the answer's ceiling from {requested} to {self.output} tokens"
            )
        limit = min((cap for cap in (self.request, call.caps.request_tokens) if cap is not None), default=None)
        if limit is None:
            return
        wanted = -(-call.characters // 4) + call.choices_generated * (call.max_tokens or 0)
        if wanted > limit:
            raise self._too_large(wanted, limit, "shorten the prompt or lower max_tokens")

    def _check_fixed(self, tokens: int) -> None:
        """Raise `Rejection` if a call that is charged *tokens*, whatever it holds, exceeds `request`."""
        if self.request is not None and tokens > self.request:
            raise self._too_large(tokens, self.request, "ask the operator to lower `tokens_each` of this route")

    def _too_large(self, wanted: int, limit: int, cure: str) -> Rejection:
        bounds = f"prompt and answer may have {limit:,} tokens in all, this one needs {wanted:,}"
        details = {"policy": self.name, "limit": limit, "needed": wanted, "case": "never_fits"}
        return Rejection(400, "request_too_large", f"The request is too large: {bounds}; {cure}.", details=details)
