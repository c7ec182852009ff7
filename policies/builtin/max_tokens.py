"""Limit the tokens of one answer, and of one request."""

from __future__ import annotations

from typing import Annotated, ClassVar

import msgspec

from policies.api.call import Call
from policies.api.policy import Policy
from policies.api.rejection import Rejection
from policies.api.requests.parts import texts

Limit = Annotated[int, msgspec.Meta(ge=1)]


class MaxTokens(Policy, frozen=True):
    """Clamp each answer to `output` tokens, and refuse a call whose prompt and answers exceed `request` tokens.

    The prompt counts a quarter of its characters, rounded up, as in Chat Nest. Each token id counts one, and so does each
    token that upstream keeps of earlier calls. The client's `maxTokensPerRequest` lowers `request`. Embeddings have no
    answer, so `request` limits all of their inputs together. `input` limits each input or prompt of a list.
    """

    output: Limit
    request: Limit | None = None
    input: Limit | None = None

    tightened_by_profiles: ClassVar[tuple[str, ...]] = ("output", "request", "input")

    async def admit(self, call: Call) -> None:
        """Lower the ceiling of *call*. Raises `Rejection` with the code `request_too_large`."""
        if not call.has_completion:
            return
        if call.tokens_each:
            self._check_fixed(call.tokens_each)
            return
        requested = call.max_tokens
        if call.has_ceiling and (requested is None or requested > self.output):
            call.max_tokens = self.output
            call.note(
                f"set the answer's ceiling to {self.output} tokens"
                if requested is None
                else f"lowered the answer's ceiling from {requested} to {self.output} tokens"
            )
        if self.input is not None and (longest := _longest_prompt(call)) > self.input:
            raise self._too_large(
                f"each prompt may have {self.input:,} tokens, one has {longest:,}", self.input, longest
            )
        limit = min((cap for cap in (self.request, call.caps.request_tokens) if cap is not None), default=None)
        if limit is None:
            return
        found = call.prompt
        prompt = -(-(call.characters + found.repeated) // 4) + found.token_ids + call.hidden_prompt_tokens
        wanted = prompt + call.choices_generated * (call.max_tokens or 0)
        if wanted > limit:
            bounds = f"prompt and answer may have {limit:,} tokens in all, this one needs {wanted:,}"
            raise self._too_large(bounds, limit, wanted)

    def _check_fixed(self, tokens: int) -> None:
        """Raise `Rejection` if a call that is always charged *tokens* exceeds `request`."""
        if self.request is not None and tokens > self.request:
            bounds = f"prompt and answer may have {self.request:,} tokens in all, this one needs {tokens:,}"
            cure = "ask the operator to lower `tokens_each` of this route"
            raise self._too_large(bounds, self.request, tokens, cure)

    def _too_large(
        self, bounds: str, limit: int, needed: int, cure: str = "shorten the prompt or lower max_tokens"
    ) -> Rejection:
        msg = f"The request is too large: {bounds}; {cure}."
        details = {"policy": self.name, "limit": limit, "needed": needed, "case": "never_fits"}
        return Rejection(400, "request_too_large", msg, details=details)


def _longest_prompt(call: Call) -> int:
    """Return the tokens of the longest prompt of a list (embeddings, completions); those of the whole prompt of a chat."""
    if call.operation.frames_messages:
        return -(-call.characters // 4) + call.prompt.token_ids
    prompt = call.prompt
    longest = max((sum(map(len, texts(message))) for message in prompt.messages), default=0)
    return max(prompt.longest_ids, -(-longest // 4))
