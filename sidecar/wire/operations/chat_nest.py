"""Chat Nest's API: `POST /api/chat`. Its calls become chat completions upstream, and the answer becomes Chat Nest events.

The body is read by `sidecar.wire.request.chat_nest_request`, before there is a call; the events are written by
`sidecar.downstream.response`, because other routes can have them too (`x-event-schema: chat-nest`).
"""

from __future__ import annotations

from typing import ClassVar

from .chat_completions import ChatCompletions


class ChatNest(ChatCompletions):
    """See `Operation`: upstream sees chat completions, so that reader, ceiling and end are theirs."""

    path: ClassVar = "/api/chat"


CHAT_NEST = ChatNest()
