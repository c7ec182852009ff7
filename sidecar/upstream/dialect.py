"""Per-upstream request adjustments: fields an upstream rejected are omitted or renamed from then on."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from policies.api.call import LIMIT_FIELDS, Call

MAX_LEARNT_MODELS = 256
MAX_TOKENS_FIELD, MAX_COMPLETION_FIELD = LIMIT_FIELDS[:2]
REFUSAL_STATUSES = frozenset({400, 422})
_CONTEXT_SIZE = re.compile(r"maximum context length is (\d{1,9})\b")
_PROMPT_SIZE = re.compile(r"\b(\d{1,9}) (?:input tokens|in the messages|tokens from the input)")


class RequestStyle(msgspec.Struct, frozen=True):
    """How a request is written: fields that the sidecar adds, and their names.  The client's own fields never change.

    `plain_usage`: usage is not requested.  `modern_limit`: the ceiling is sent as `max_completion_tokens`.  `room`: the
    ceiling is lowered to this many tokens; 0 leaves it.  A client's field for ceilings that the server may ignore
    (ollama/ollama#7125) is accompanied by one that it obeys, except with `alone`.
    """

    plain_usage: bool = False
    modern_limit: bool = False
    alone: bool = False
    room: int = 0

    @property
    def limit_field(self) -> str:
        """The field for ceilings that the server obeys."""
        return MAX_COMPLETION_FIELD if self.modern_limit else MAX_TOKENS_FIELD


DEFAULT_STYLE = RequestStyle()


class Dialect:
    """Request styles learnt for one upstream, for at most 256 of its models; the oldest entry is dropped.

    A style is kept only after a request in that style was accepted.  A refusal's text alone, which may quote what a client
    sent, changes no other call.
    """

    def __init__(self, limit_field: str | None = None) -> None:
        self._initial = RequestStyle(modern_limit=limit_field == MAX_COMPLETION_FIELD)
        self._may_rename = limit_field is None
        self._styles: dict[str, RequestStyle] = {}

    def style(self, model: str) -> RequestStyle:
        """Return the style learnt for *model*, or the initial one."""
        return self._styles.get(model, self._initial)

    def body(self, call: Call, model: str, style: RequestStyle = DEFAULT_STYLE, *, streams: bool) -> dict[str, Any]:
        """Return the request body for upstream: the call's own, with *model* and the fields that usage and ceilings need."""
        body = call.body
        if body.get("model") != model and (model or call.model):
            body = {**body, "model": model}
        if streams and not style.plain_usage:
            options = body.get("stream_options") or {}
            body = {**body, "stream_options": {**options, "include_usage": True}}
        if not call.ceiling_is_ours:
            return {**body, style.limit_field: call.max_tokens} if _adds(call, style) else body
        if style.room:
            body = {**body, **{field: style.room for field in LIMIT_FIELDS if field in body}}
        if style.modern_limit and MAX_TOKENS_FIELD in body:
            body = {**body, MAX_COMPLETION_FIELD: body[MAX_TOKENS_FIELD]}
            del body[MAX_TOKENS_FIELD]
        return body

    def after_refusal(self, call: Call, style: RequestStyle, status: int, text: str) -> RequestStyle | None:
        """Return the style for the next request after *style* was refused; None if no field of ours is to blame.

        *status* and *text* are the refusal's.  A refusal did no work upstream, so the next request is not a retry.
        """
        if status not in REFUSAL_STATUSES:
            return None
        added_usage = call.stream and call.body.get("stream_options") is None and not style.plain_usage
        if added_usage and ("stream_options" in text or "include_usage" in text):
            return msgspec.structs.replace(style, plain_usage=True)
        if not call.ceiling_is_ours:
            blamed = _adds(call, style) and style.limit_field in text
            return msgspec.structs.replace(style, alone=True) if blamed else None
        context, prompt = _CONTEXT_SIZE.search(text), _PROMPT_SIZE.search(text)
        if context is not None:
            # vLLM refuses a ceiling that leaves no room for the prompt, and names both numbers.
            room = int(context[1]) - int(prompt[1]) if prompt is not None else 0
            fits = 0 < room < (style.room or call.max_tokens or 0)
            return msgspec.structs.replace(style, room=room) if fits else None
        renamed = (
            self._may_rename
            and not style.modern_limit
            and MAX_COMPLETION_FIELD in text
            and MAX_TOKENS_FIELD in text.replace(MAX_COMPLETION_FIELD, "")
        )
        return msgspec.structs.replace(style, modern_limit=True) if renamed else None

    def learn(self, model: str, first: RequestStyle, accepted: RequestStyle) -> None:
        """Keep for *model* what differs in the *accepted* style from the *first* one of the same attempt.

        `room` is not kept: it belongs to one prompt.
        """
        if accepted is first:
            return
        fields = ("plain_usage", "modern_limit", "alone")
        learnt = {field: True for field in fields if getattr(accepted, field) and not getattr(first, field)}
        if not learnt:
            return
        style = msgspec.structs.replace(self.style(model), **learnt)
        self._styles.pop(model, None)
        if len(self._styles) >= MAX_LEARNT_MODELS:
            del self._styles[next(iter(self._styles))]
        self._styles[model] = style


def _adds(call: Call, style: RequestStyle) -> bool:
    """Whether to add a ceiling field: not if the client sent `max_tokens` or the field that the server obeys."""
    own = (MAX_TOKENS_FIELD, style.limit_field)
    return call.max_tokens is not None and not style.alone and all(call.body.get(field) is None for field in own)
