"""OpenAI's Responses API: `POST /v1/responses`."""

from __future__ import annotations

import re
from collections.abc import Generator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from policies.api.requests.request_form import RequestForm
from sidecar.wire.request.responses_request import (
    INPUT_FIELDS,
    OUTPUT_CEILING_FIELD,
    RESPONSES_FIELDS,
    check_responses,
    responses_steps,
)
from sidecar.wire.responses.events.closing_events import encoded_event
from sidecar.wire.responses.reader import ResponsesReader
from sidecar.wire.stored.created import created_by

from .operation import Operation

if TYPE_CHECKING:
    from policies.api.call import Call

RESPONSES_REQUEST = RequestForm(
    name="responses",
    prompt_fields=INPUT_FIELDS,
    conversation_field="",
    ceiling_field=OUTPUT_CEILING_FIELD,
    turns_field="max_tool_calls",
)
"""The input is never trimmed: its items refer to each other."""
_SEQUENCE_NUMBER = re.compile(rb'"sequence_number":\s{0,9}(\d{1,15})')
_NUMBER_NAME = b'"sequence_number"'
MAX_SEARCHED_ENDINGS = 4
"""Places of the last number that are read: a text may contain its name."""


class Responses(Operation):
    """See `Operation`. Answers are typed events that end with the response object; there is no `[DONE]`."""

    request: ClassVar = RESPONSES_REQUEST
    path: ClassVar = "/v1/responses"
    upstream_path: ClassVar = "/responses"
    fields: ClassVar = RESPONSES_FIELDS
    stream_end: ClassVar = b""
    stores_answers: ClassVar = True

    def check(self, body: dict[str, Any]) -> int:
        """See `Operation.check`."""
        return check_responses(body)

    def check_steps(self, body: dict[str, Any]) -> Generator[None, None, int]:
        """See `Operation.check_steps`."""
        return responses_steps(body)

    def reading(self, call: Call) -> ResponsesReader:
        """See `Operation.reading`."""
        return ResponsesReader(created=created_by(call))

    def error_events(self, error: Mapping[str, Any], status: int, written: bytes) -> bytes:
        """Return one `error` event, numbered after the last one that was *written*.

        It has the fields of the API's own event and an object `error` with the same: OpenAI's Python SDK raises for the object
        alone, its JavaScript SDK for the name of the event, and the Vercel AI SDK reads the object.
        """
        code = error.get("code")
        fields = {
            "type": "error",
            "code": None if code is None else str(code),
            "message": error.get("message"),
            "param": error.get("param"),
            "error": dict(error),
            "sequence_number": _last_number(written) + 1,
        }
        return encoded_event(fields)[0]


def _last_number(written: bytes) -> int:
    """Return the last `sequence_number` in *written*, -1 without one. Quotes in a text are escaped, so a text has none."""
    at = len(written)
    for _ in range(MAX_SEARCHED_ENDINGS):
        at = written.rfind(_NUMBER_NAME, 0, at)
        if at < 0:
            break
        if (found := _SEQUENCE_NUMBER.match(written, at)) is not None:
            return int(found[1])
    return -1


RESPONSES_API = Responses()
