"""Per-upstream request adjustments: fields and ceilings that an upstream refused are then omitted, renamed or lowered."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import msgspec

from policies.api.call import LIMIT_FIELDS, Call
from sidecar.upstream.errors.fitted_ceiling import (
    REFUSED_CEILING_STATUSES,
    UNCHANGED_CEILING,
    FittedCeiling,
    after_refused_ceiling,
    is_of_policies,
    lesson,
    sent_words,
)
from sidecar.upstream.errors.token_limits import TokenLimits
from sidecar.wire.operations.registry import operation_of
from sidecar.wire.request.client_headers import KEY_HEADERS

MAX_LEARNT_MODELS = 256
CEILING_LESSON_SECONDS = 3_600.0
"""Time for which a model's ceiling is remembered: an upstream may be restarted with other limits."""
CREDIT_LESSON_SECONDS = 60.0
"""Time for which the ceiling that an account can pay is remembered."""
MAX_TOKENS_FIELD, MAX_COMPLETION_FIELD = LIMIT_FIELDS[:2]
REFUSED_FIELD_STATUSES = frozenset({400, 422})
ADAPTED_STATUSES = REFUSED_FIELD_STATUSES | REFUSED_CEILING_STATUSES
"""Statuses under which the text of a refusal is read, to adapt the request."""


class RequestStyle(msgspec.Struct, frozen=True):
    """How a request is written: fields that the sidecar adds, and their names.  The client's own ceiling fields keep their names.

    `plain_usage`: usage is not requested.  `modern_limit`: the ceiling is sent as `max_completion_tokens`.  `ceiling` fits
    a ceiling of policies to the model; None leaves it.  A client's field for ceilings that the server may ignore
    (ollama/ollama#7125) is accompanied by one that it obeys, except with `alone`.
    """

    plain_usage: bool = False
    modern_limit: bool = False
    alone: bool = False
    ceiling: FittedCeiling | None = None

    @property
    def limit_field(self) -> str:
        """The field for ceilings that the server obeys."""
        return MAX_COMPLETION_FIELD if self.modern_limit else MAX_TOKENS_FIELD


DEFAULT_STYLE = RequestStyle()


class Dialect:
    """Request styles learnt for one upstream, for at most 256 of its models; the oldest entry is dropped.

    A style is kept only after a request in that style was accepted, and only where the refusal did not quote the client.
    *monotonic* is a clock in seconds.  *passes_keys*: the upstream gets the keys of clients, so that what the account of one
    can pay is not kept for the others.
    """

    def __init__(
        self,
        limit_field: str | None = None,
        monotonic: Callable[[], float] = time.monotonic,
        *,
        passes_keys: bool = False,
    ) -> None:
        self._monotonic, self._passes_keys = monotonic, passes_keys
        self._initial = RequestStyle(modern_limit=limit_field == MAX_COMPLETION_FIELD)
        self._may_rename = limit_field is None
        self._styles: dict[str, RequestStyle] = {}

    def style(self, model: str) -> RequestStyle:
        """Return the style learnt for *model*, or the initial one."""
        style = self._styles.get(model, self._initial)
        if style.ceiling is not None and self._monotonic() >= style.ceiling.until:
            style = self._styles[model] = msgspec.structs.replace(style, ceiling=None)
        return style

    def body(self, call: Call, model: str, style: RequestStyle = DEFAULT_STYLE, *, streams: bool) -> dict[str, Any]:
        """Return the request body for upstream: the call's own, with *model* and the fields that usage and ceilings need."""
        body = call.body
        if body.get("model") != model and (model or call.model):
            body = {**body, "model": model}
        operation = operation_of(call)
        if streams and operation.asks_for_usage and not style.plain_usage:
            options = body.get("stream_options") or {}
            body = {**body, "stream_options": {**options, "include_usage": True}}
        ceiling = style.ceiling if style.ceiling is not None and is_of_policies(call) else None
        if ceiling is not None:
            body = ceiling.applied(call, body)
        if not operation.renames_ceiling:
            return operation.fitted(body) if is_of_policies(call) else body
        if not call.ceiling_is_ours:
            if not _adds(call, style):
                return body
            return {**body, style.limit_field: call.max_tokens if ceiling is None else ceiling.tokens(call)}
        if style.modern_limit and MAX_TOKENS_FIELD in body:
            body = {**body, MAX_COMPLETION_FIELD: body[MAX_TOKENS_FIELD]}
            del body[MAX_TOKENS_FIELD]
        return body

    def after_refusal(
        self, call: Call, style: RequestStyle, status: int, text: str, *, is_last: bool = False
    ) -> RequestStyle | None:
        """Return the style for the next request after *style* was refused; None if no addition of the sidecar caused it.

        *status* and *text* are the refusal's.  A refusal did no work upstream, so the next request is not a retry.
        *is_last*: no further repeat follows the next one.
        """
        if status not in ADAPTED_STATUSES:
            return None
        is_field_status, replace = status in REFUSED_FIELD_STATUSES, msgspec.structs.replace
        added_usage = (
            operation_of(call).asks_for_usage
            and call.stream
            and call.body.get("stream_options") is None
            and not style.plain_usage
        )
        if is_field_status and added_usage and ("stream_options" in text or "include_usage" in text):
            return replace(style, plain_usage=True)
        if call.max_tokens is None:
            return None
        limits = TokenLimits(text)
        if not is_of_policies(call):
            return self._without_own_field(call, style, text, limits) if is_field_status else None
        is_renamed = self._is_renamed(call, style, text) and is_field_status
        if is_renamed and limits.allowance(call.max_tokens) is None:
            return replace(style, modern_limit=True)
        ceiling = after_refused_ceiling(call, style.ceiling or UNCHANGED_CEILING, status, limits, is_last=is_last)
        if ceiling is not None:
            return replace(style, ceiling=ceiling)
        return self._without_own_field(call, style, text, limits) if is_field_status else None

    def _is_renamed(self, call: Call, style: RequestStyle, text: str) -> bool:
        """Whether *text* asks for the other field for ceilings."""
        return (
            call.ceiling_is_ours
            and operation_of(call).renames_ceiling
            and self._may_rename
            and not style.modern_limit
            and MAX_COMPLETION_FIELD in text
            and MAX_TOKENS_FIELD in text.replace(MAX_COMPLETION_FIELD, "")
        )

    @staticmethod
    def _without_own_field(call: Call, style: RequestStyle, text: str, limits: TokenLimits) -> RequestStyle | None:
        """Return *style* without the field that accompanies the client's, if *text* blames it and not its number."""
        if call.ceiling_is_ours or not _adds(call, style) or style.limit_field not in text:
            return None
        return None if limits.names_excess(call.max_tokens or 0) else msgspec.structs.replace(style, alone=True)

    def learn(self, model: str, first: RequestStyle, accepted: RequestStyle, call: Call) -> None:
        """Keep for *model* what differs in the *accepted* style of *call* from the *first* one of the same attempt.

        Adaptations to one prompt are not kept, nor those for which the refusal may have quoted the client.
        """
        if accepted is first:
            return
        evidence = {"plain_usage": b"stream_options", "modern_limit": b"max_completion_tokens", "alone": b"max_"}
        changed = [field for field in evidence if getattr(accepted, field) and not getattr(first, field)]
        fitted = accepted.ceiling if accepted.ceiling is not first.ceiling else None
        sent = sent_words(call) if changed or (fitted is not None and fitted.may_hold_for_others) else b""
        learnt: dict[str, Any] = {field: True for field in changed if evidence[field] not in sent}
        if fitted is not None:
            call.note(fitted.describe(call))
            ceiling = lesson(fitted, sent)
            if ceiling is not UNCHANGED_CEILING and not (ceiling.is_credit and self._pays_itself(call)):
                seconds = CREDIT_LESSON_SECONDS if ceiling.is_credit else CEILING_LESSON_SECONDS
                learnt["ceiling"] = msgspec.structs.replace(ceiling, until=self._monotonic() + seconds)
        if not learnt:
            return
        style = msgspec.structs.replace(self.style(model), **learnt)
        self._styles.pop(model, None)
        if len(self._styles) >= MAX_LEARNT_MODELS:
            del self._styles[next(iter(self._styles))]
        self._styles[model] = style

    def _pays_itself(self, call: Call) -> bool:
        """Whether the client of *call* has an account of its own at the upstream."""
        return self._passes_keys and any(header in call.forwarded_headers for header in KEY_HEADERS)


def _adds(call: Call, style: RequestStyle) -> bool:
    """Whether to add a ceiling field: not if the client sent `max_tokens` or the field that the server obeys."""
    if style.alone or call.max_tokens is None or not operation_of(call).renames_ceiling:
        return False
    return call.body.get(MAX_TOKENS_FIELD) is None and call.body.get(style.limit_field) is None
