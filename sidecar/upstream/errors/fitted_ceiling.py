"""Lower the ceiling that policies set where an upstream refuses it, and remember what the upstream accepts.

A ceiling that the client sent and no policy lowered stays as it is: the client gets the refusal.
"""

from __future__ import annotations

from typing import Any

import msgspec
from httpx import codes

from policies.api.call import LIMIT_FIELDS, Call
from policies.api.decoding.token_counts import MEDIA_TOKENS
from policies.api.prompt_size import size_of
from policies.api.tokens import BYTES_PER_TOKEN, MESSAGE_TOKENS, PART_TOKENS, Size

from .sdk import FIRST_SERVER_ERROR
from .token_limits import TokenLimits

REFUSED_CEILING_STATUSES = frozenset({400, 402, 413, 416, 422, 429, 500})
"""Statuses of servers that refuse a ceiling; 402: more than the account can pay, 429: with numbers alone."""
PROMPT_MARGIN, TEMPLATE_TOKENS = 1.1, 32
"""Factor for the estimated prompt if the answer gets the rest of the context, and tokens that a chat template may add."""
MEASURED_STATE = "upstream.prompt_size"
"""The key in a call's `state` for its prompt's size, where no policy has measured it."""
CEILING_WORDS = (b"tok", b"predict", b"completion")
"""Parts of all names for a ceiling. If a client's text has one, a refusal without a number may quote that text."""
MIN_CONTEXT_SHARE = 8
"""The estimate lowers a ceiling at most to the context divided by this; the upstream's own count may lower it further."""


class FittedCeiling(msgspec.Struct, frozen=True):
    """How the ceiling of policies is fitted to one model of an upstream.

    `most` is the longest answer of the model, `context` its context, both in tokens, 0 if unknown.  These two are kept for
    other calls.  `room` is the longest answer to one prompt.  `dropped`: the request has no ceiling, if policies allow
    that; kept only with `is_model_rule`.  `is_guess`: the server named no number, so `most` and `room` are halves of what
    it refused.  `is_credit`: `most` is what the account can pay.  `whole_only`: `most` does not hold for streams.
    `until` is the time of a monotonic clock, in seconds, at which the kept fields are forgotten.
    """

    most: int = 0
    context: int = 0
    room: int = 0
    dropped: bool = False
    is_model_rule: bool = False
    is_guess: bool = False
    is_credit: bool = False
    whole_only: bool = False
    until: float = 0.0

    @property
    def may_hold_for_others(self) -> bool:
        """Whether a part of it is not about one prompt alone."""
        return bool(self.most or self.context or (self.dropped and self.is_model_rule))

    def tokens(self, call: Call) -> int | None:
        """Return the ceiling in tokens that is sent for *call*; None for none."""
        wanted = call.max_tokens
        if wanted is None or (self.dropped and may_drop(call)):
            return None
        most = 0 if self.whole_only and call.stream else self.most
        limits = [wanted, *filter(None, (most, self.room))]
        if self.context and not self.room:
            rest = self.context - estimated_prompt(call)
            if rest > self.context // MIN_CONTEXT_SHARE:
                limits.append(rest)
        return min(limits)

    def applied(self, call: Call, body: dict[str, Any]) -> dict[str, Any]:
        """Return *body* with the fitted ceiling in each field for ceilings that *call* has."""
        tokens = self.tokens(call)
        if tokens == call.max_tokens:
            return body
        fields = [field for field in LIMIT_FIELDS if body.get(field) is not None]
        if tokens is None:
            return {field: value for field, value in body.items() if field not in fields}
        return {**body, **dict.fromkeys(fields, tokens)}

    def describe(self, call: Call) -> str:
        """Return the note for the record of *call*."""
        tokens = self.tokens(call)
        sent = "no ceiling" if tokens is None else f"a ceiling of {tokens} tokens"
        return f"sent {sent}, because the upstream refused {call.max_tokens}"


UNCHANGED_CEILING = FittedCeiling()


def is_of_policies(call: Call) -> bool:
    """Whether the ceiling of *call* is not the client's own."""
    return call.ceiling_is_ours or call.ceiling_was_lowered


def may_drop(call: Call) -> bool:
    """Whether the request may be sent without a ceiling."""
    return call.ceiling_is_ours and call.ceiling_may_be_dropped


def estimated_prompt(call: Call) -> int:
    """Estimate the prompt's tokens, with a margin that makes it too high rather than too low."""
    size = call.size or call.state.get(MEASURED_STATE)
    if not isinstance(size, Size):
        size = call.state[MEASURED_STATE] = size_of(call)
    frames = MESSAGE_TOKENS * size.messages + PART_TOKENS * size.parts + MEDIA_TOKENS * size.media + size.token_ids
    shown = int(((size.bytes + size.files) / BYTES_PER_TOKEN + frames) * PROMPT_MARGIN)
    return shown + TEMPLATE_TOKENS + call.hidden_prompt_tokens


def after_refused_ceiling(
    call: Call, known: FittedCeiling, status: int, limits: TokenLimits, *, is_last: bool
) -> FittedCeiling | None:
    """Return how to fit the ceiling after *known* was refused; None where no other ceiling helps, or none was refused.

    First comes the number that the refusal names, then half, then none where the policies allow it.  *is_last*: no
    further repeat follows the next one.
    """
    sent = known.tokens(call)
    if sent is None or status not in REFUSED_CEILING_STATUSES:
        return None
    allowed, replace = limits.allowance(sent), msgspec.structs.replace
    if status == codes.TOO_MANY_REQUESTS and (allowed is None or allowed.of_context or not limits.exceeds_rate):
        return None  # waiting helps, a smaller request does not
    if allowed is not None:
        if not allowed.ceiling:
            return None
        tokens = allowed.ceiling
        if allowed.of_context:
            tokens = max(tokens - estimated_prompt(call), tokens // 2)
        elif allowed.at_most:
            left = allowed.context - estimated_prompt(call)
            if left <= -allowed.context:
                return None  # the prompt is twice as long as the context, whatever the estimate's error
            tokens = min(tokens, max(left, sent // 2))
        whole_only = limits.is_about_streaming
        if allowed.lasting and not (whole_only and call.stream):
            is_credit = status == codes.PAYMENT_REQUIRED
            return replace(known, most=tokens, is_guess=False, is_credit=is_credit, whole_only=whole_only)
        return replace(known, room=tokens, context=allowed.context or known.context)
    if limits.rejects_field:
        return replace(known, dropped=True, is_model_rule=True) if may_drop(call) else None
    if status == codes.PAYMENT_REQUIRED or not limits.blames_ceiling:
        return None
    lasts = limits.is_about_model and status < FIRST_SERVER_ERROR  # a server may have failed for another reason
    if may_drop(call) and (is_last or known.is_guess):
        return replace(known, dropped=True, is_model_rule=lasts)
    half = sent // 2
    if not half:
        return None
    return replace(known, most=half, is_guess=True) if lasts else replace(known, room=half, is_guess=True)


def lesson(accepted: FittedCeiling, sent: bytes) -> FittedCeiling:
    """Return the part of *accepted*, which fitted a call, that holds for other calls; `UNCHANGED_CEILING` for none.

    A number or a word that is in *sent*, the call's `sent_words`, is left out: the server may have quoted it.
    """
    if not accepted.may_hold_for_others:
        return UNCHANGED_CEILING
    if accepted.is_guess or accepted.dropped:
        lowered = sent.lower()
        if any(word in lowered for word in CEILING_WORDS):
            return UNCHANGED_CEILING
    return FittedCeiling(
        most=0 if _has_number(sent, accepted.most) else accepted.most,
        context=0 if _has_number(sent, accepted.context) else accepted.context,
        dropped=accepted.dropped and accepted.is_model_rule,
        is_model_rule=accepted.dropped and accepted.is_model_rule,
        is_credit=accepted.is_credit,
        whole_only=accepted.whole_only,
    )


def sent_words(call: Call) -> bytes:
    """Return everything of *call* that a server may quote, except for its ceilings and its model: lessons are per model.

    A field for ceilings that is null stays: its name is the client's. An id that the sidecar made is left out: it may have
    any number by chance.
    """
    body = {
        key: value for key, value in call.body.items() if key != "model" and (key not in LIMIT_FIELDS or value is None)
    }
    headers = {name: value for name, value in call.forwarded_headers.items() if value != call.id}
    return msgspec.json.encode([body, headers])


def _has_number(sent: bytes, number: int) -> bool:
    """Whether *sent* has *number*, or the one above it: a limit may be quoted as "18 (exclusive)"."""
    forms = (form for each in (number, number + 1) for form in (f"{each}", f"{each:,}"))
    return bool(number) and any(form.encode() in sent for form in forms)
