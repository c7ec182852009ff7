"""Anthropic's Messages API: `POST /v1/messages`, and the count of a prompt's tokens."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from policies.api.requests.request_form import RequestForm
from sidecar.wire.decoding.one_step import result_of
from sidecar.wire.messages.documented_fields import MESSAGES_API_FIELDS
from sidecar.wire.messages.message_errors import message_error
from sidecar.wire.messages.message_reader import MessageReader
from sidecar.wire.messages.request_check import message_steps, with_fitting_thinking

from .operation import Operation

if TYPE_CHECKING:
    from policies.api.call import Call

MESSAGES_PATH = "/v1/messages"
MESSAGES_REQUEST = RequestForm(
    name="messages", prompt_fields=("system", "messages"), parts_field="system", user_path=("metadata", "user_id")
)
COUNT_REQUEST = RequestForm(
    name="count_tokens",
    has_completion=False,
    prompt_fields=("system", "messages"),
    parts_field="system",
    ceiling_field="",
    user_path=("metadata", "user_id"),
    can_stream=False,
    is_free=True,
)


class Messages(Operation):
    """See `Operation`. Requests are never translated: an upstream without this API answers 404.

    Upstream's pings are replaced by those of the sidecar, which Anthropic's SDKs skip, also before `message_start`.
    """

    request: ClassVar = MESSAGES_REQUEST
    path: ClassVar = MESSAGES_PATH
    upstream_path: ClassVar = "/messages"
    fields: ClassVar = MESSAGES_API_FIELDS
    stream_end: ClassVar = b""
    ping: ClassVar = b'event: ping\ndata: {"type": "ping"}\n\n'
    passed_query: ClassVar = "beta=true"
    names_request_id: ClassVar = True

    def check(self, body: dict[str, Any]) -> int:
        """See `Operation.check`."""
        return result_of(message_steps(body))

    def check_steps(self, body: dict[str, Any]) -> Generator[None, None, int]:
        """See `Operation.check_steps`."""
        return message_steps(body)

    def reading(self, call: Call) -> MessageReader:  # an answer is read in one way
        """See `Operation.reading`."""
        return MessageReader()

    def fitted(self, body: dict[str, Any]) -> dict[str, Any]:
        """See `Operation.fitted`."""
        return with_fitting_thinking(body)

    def error_body(self, status: int, error: Mapping[str, Any]) -> bytes:
        """See `Operation.error_body`."""
        return message_error(status, error)

    def error_events(self, error: Mapping[str, Any], status: int, written: bytes) -> bytes:  # no event is numbered
        """See `Operation.error_events`."""
        return b"event: error\ndata: " + message_error(status, error) + b"\n\n"


class CountTokens(Messages):
    """The number of tokens of a prompt. No model works for it, and no limit counts it."""

    request: ClassVar = COUNT_REQUEST
    path: ClassVar = f"{MESSAGES_PATH}/count_tokens"
    upstream_path: ClassVar = "/messages/count_tokens"


MESSAGES_API, COUNT_TOKENS = Messages(), CountTokens()
