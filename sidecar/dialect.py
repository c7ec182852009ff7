"""What one upstream was found not to take, so that it is asked otherwise from then on."""

from __future__ import annotations

import re
from typing import Any

from policies.call import LIMIT_FIELDS, Call

MODELS = 256
PLAIN, MODERN = LIMIT_FIELDS[:2]
_CONTEXT = re.compile(r"maximum context length is (\d+)")
_PROMPT = re.compile(r"(\d+) (?:input tokens|in the messages|tokens from the input)")


class Dialect:
    """How requests are put to one upstream.

    Only what the sidecar itself added to a request is ever changed: the client's own fields go out as they came.
    """

    def __init__(self, limit_field: str | None = None) -> None:
        self._all_modern = limit_field == MODERN
        self._without_usage: set[str] = set()
        self._modern_limit: set[str] = set()

    def body(self, call: Call, model: str) -> dict[str, Any]:
        """Return the request body for upstream: the call's own, with what we need to count."""
        body = call.body if call.model == model else {**call.body, "model": model}
        if call.stream and model not in self._without_usage:
            options = call.body.get("stream_options") or {}
            body = {**body, "stream_options": {**options, "include_usage": True}}
        if call.imposed and (self._all_modern or model in self._modern_limit) and PLAIN in body:
            body = {**body, MODERN: body[PLAIN]}
            del body[PLAIN]
        return body

    def learn(self, call: Call, model: str, status: int, text: str) -> bool:
        """Look at a refusal; True where the same call, put otherwise, is worth sending at once.

        It did no work upstream, so it is no retry.  At most once per model and lesson, and at most 256 models.
        """
        if status not in (400, 422) or max(len(self._without_usage), len(self._modern_limit)) >= MODELS:
            return False
        added_usage = call.stream and "stream_options" not in call.body
        if added_usage and ("stream_options" in text or "include_usage" in text) and model not in self._without_usage:
            self._without_usage.add(model)
            return True
        if not call.imposed:
            return False
        renamed = MODERN in text and PLAIN in text.replace(MODERN, "") and not _CONTEXT.search(text)
        if renamed and model not in self._modern_limit:
            self._modern_limit.add(model)
            return True
        return _fits_after_all(call, text)


def _fits_after_all(call: Call, text: str) -> bool:
    # vLLM refuses a ceiling of ours that leaves no room for the prompt; it says both figures.
    context, prompt = _CONTEXT.search(text), _PROMPT.search(text)
    if context is None or prompt is None:
        return False
    room = int(context[1]) - int(prompt[1])
    if not 0 < room < (call.max_tokens or 0):
        return False
    call.max_tokens = room
    return True
