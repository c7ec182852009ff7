"""How one upstream is asked: what it was found not to take is left out, or put otherwise, from then on."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from policies.api.call import LIMIT_FIELDS, Call

MODELS = 256
PLAIN, MODERN = LIMIT_FIELDS[:2]
REFUSED = frozenset({400, 422})
_CONTEXT = re.compile(r"maximum context length is (\d{1,9})\b")
_PROMPT = re.compile(r"\b(\d{1,9}) (?:input tokens|in the messages|tokens from the input)")


class RequestStyle(msgspec.Struct, frozen=True):
    """How a request is put: without asking for usage, with the newer field for ceilings, with a ceiling of *room* tokens.

    Only what the sidecar itself added to a request is ever changed: the client's own fields go out as they came.  Beside
    a field for ceilings that the server may not know goes one that it obeys, unless it takes that *alone*: a ceiling that
    is not obeyed is none (ollama/ollama#7125).
    """

    plain_usage: bool = False
    modern_limit: bool = False
    alone: bool = False
    room: int = 0

    @property
    def limit_field(self) -> str:
        """The field for ceilings that the server obeys."""
        return MODERN if self.modern_limit else PLAIN


DEFAULT_STYLE = RequestStyle()


class Dialect:
    """What is known of one upstream, for at most 256 of its models; the one that was learnt first is forgotten.

    A lesson is kept when the request that was put otherwise has been taken: the words of a refusal alone, which may quote
    what a client sent, change nothing for anybody else.
    """

    def __init__(self, limit_field: str | None = None) -> None:
        self._plainly = RequestStyle(modern_limit=limit_field == MODERN)
        self._renames = limit_field is None
        self._known: dict[str, RequestStyle] = {}

    def manner(self, model: str) -> RequestStyle:
        """Return how *model* is asked, as far as is known."""
        return self._known.get(model, self._plainly)

    def body(self, call: Call, model: str, manner: RequestStyle = DEFAULT_STYLE) -> dict[str, Any]:
        """Return the request body for upstream: the call's own, with what we need to count."""
        body = call.body if call.model == model else {**call.body, "model": model}
        if call.stream and not manner.plain_usage:
            options = call.body.get("stream_options") or {}
            body = {**body, "stream_options": {**options, "include_usage": True}}
        if not call.imposed:
            return {**body, manner.limit_field: call.max_tokens} if _adds(call, manner) else body
        if manner.room:
            body = {**body, **{field: manner.room for field in LIMIT_FIELDS if field in body}}
        if manner.modern_limit and PLAIN in body:
            body = {**body, MODERN: body[PLAIN]}
            del body[PLAIN]
        return body

    def otherwise(self, call: Call, asked: RequestStyle, status: int, words: str) -> RequestStyle | None:
        """Return how to put *call* after a refusal in *words* of what was *asked*; None where nothing of ours is to blame.

        A refusal did no work upstream, so the same call, put otherwise, is no retry.
        """
        if status not in REFUSED:
            return None
        added_usage = call.stream and call.body.get("stream_options") is None and not asked.plain_usage
        if added_usage and ("stream_options" in words or "include_usage" in words):
            return msgspec.structs.replace(asked, plain_usage=True)
        if not call.imposed:
            blamed = _adds(call, asked) and asked.limit_field in words
            return msgspec.structs.replace(asked, alone=True) if blamed else None
        context, prompt = _CONTEXT.search(words), _PROMPT.search(words)
        if context is not None:
            # vLLM refuses a ceiling of ours that leaves no room for the prompt; it says both figures.
            room = int(context[1]) - int(prompt[1]) if prompt is not None else 0
            fits = 0 < room < (asked.room or call.max_tokens or 0)
            return msgspec.structs.replace(asked, room=room) if fits else None
        renamed = self._renames and not asked.modern_limit and MODERN in words and PLAIN in words.replace(MODERN, "")
        return msgspec.structs.replace(asked, modern_limit=True) if renamed else None

    def learn(self, model: str, known: RequestStyle, taken: RequestStyle) -> None:
        """Remember how *model* took a request that was first put as was *known*: what is otherwise in *taken* is the lesson.

        The room that one prompt left says nothing of the next.
        """
        if taken is known:
            return
        fields = ("plain_usage", "modern_limit", "alone")
        lesson = {field: True for field in fields if getattr(taken, field) and not getattr(known, field)}
        if not lesson:
            return
        manner = msgspec.structs.replace(self.manner(model), **lesson)
        self._known.pop(model, None)
        if len(self._known) >= MODELS:
            del self._known[next(iter(self._known))]
        self._known[model] = manner


def _adds(call: Call, manner: RequestStyle) -> bool:
    """Whether a field for ceilings goes beside the client's own; `max_tokens` alone is known to every server."""
    own = (PLAIN, manner.limit_field)
    return call.max_tokens is not None and not manner.alone and all(call.body.get(field) is None for field in own)
