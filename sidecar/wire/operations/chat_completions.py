"""OpenAI's chat completions: `POST /v1/chat/completions`."""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Any, ClassVar

from policies.api.requests.request_form import CHAT_REQUEST
from sidecar.wire.answer_reader import AnswerReader
from sidecar.wire.request.documented_fields import DOCUMENTED_FIELDS
from sidecar.wire.request.openai_request import asked_for_usage, check_openai, openai_steps

from .operation import Operation

if TYPE_CHECKING:
    from policies.api.call import Call


class ChatCompletions(Operation):
    """See `Operation`. Answers are chunks with `choices`; the reader is `AnswerReader`."""

    request: ClassVar = CHAT_REQUEST
    path: ClassVar = "/v1/chat/completions"
    upstream_path: ClassVar = "/chat/completions"
    fields: ClassVar = DOCUMENTED_FIELDS
    asks_for_usage: ClassVar = True
    renames_ceiling: ClassVar = True
    has_chat_nest_events: ClassVar = True

    def check(self, body: dict[str, Any]) -> int:
        """See `Operation.check`."""
        return check_openai(body)

    def check_steps(self, body: dict[str, Any]) -> Generator[None, None, int]:
        """See `Operation.check_steps`."""
        return openai_steps(body)

    def reading(self, call: Call) -> AnswerReader:
        """See `Operation.reading`."""
        options = call.body.get("stream_options")
        shows_usage = options is not None and asked_for_usage(options)
        return AnswerReader(shows_usage=shows_usage, answers=call.choices_returned)


CHAT_COMPLETIONS = ChatCompletions()
