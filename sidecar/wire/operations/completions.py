"""OpenAI's legacy completions: `POST /v1/completions`, which LlamaIndex and evaluation harnesses call."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

from policies.api.call import MANY_FIELDS
from policies.api.requests.request_form import RequestForm
from policies.api.tokens import Estimator
from sidecar.wire.completions.completion_reader import CompletionReader
from sidecar.wire.request.documented_fields import DOCUMENTED_FIELDS, FieldKind, FieldShape
from sidecar.wire.request.openai_request import CHECKED_FIELDS, asked_for_usage, check_spelling, settle_fields
from sidecar.wire.request.prompt_lists import check_answers, check_prompt
from sidecar.wire.request.request_counts import add_ceiling

from .operation import Operation

if TYPE_CHECKING:
    from policies.api.call import Call

PROMPT_FIELDS = ("prompt", "suffix")
COMPLETION_REQUEST = RequestForm(
    name="completions",
    conversation_field="",
    prompt_fields=PROMPT_FIELDS,
    answers_each_prompt=True,
    frames_messages=False,
)
_GOVERNED_FIELDS = (CHECKED_FIELDS - {"messages"}) | {*PROMPT_FIELDS, "echo"}
_COMPLETION_FIELDS: Mapping[str, FieldShape] = MappingProxyType(
    {
        **{name: shape for name, shape in DOCUMENTED_FIELDS.items() if name != "messages"},
        "prompt": FieldKind.CONTENT,
        "suffix": FieldKind.CONTENT,
        "echo": FieldKind.SETTING,
    }
)


class Completions(Operation):
    """See `Operation`. Answers are objects with `choices`, whose output is in `text`."""

    request: ClassVar = COMPLETION_REQUEST
    path: ClassVar = "/v1/completions"
    upstream_path: ClassVar = "/completions"
    fields: ClassVar = _COMPLETION_FIELDS
    asks_for_usage: ClassVar = True
    token_id_fields: ClassVar = ("prompt",)

    def check(self, body: dict[str, Any]) -> int:
        """See `Operation.check`. Without `prompt`, servers begin a new text."""
        check_spelling(body, _GOVERNED_FIELDS)
        items = 0
        for field in PROMPT_FIELDS:
            if body.get(field) is not None:
                items += check_prompt(body[field], field)
        settle_fields(body)
        add_ceiling(body, COMPLETION_REQUEST.ceiling_field)
        each = max((number for field in MANY_FIELDS if type(number := body.get(field)) is int), default=1)
        check_answers(max(1, each) * COMPLETION_REQUEST.prompt(body).prompts, "prompt")
        return items

    def reading(self, call: Call) -> CompletionReader:
        """See `Operation.reading`."""
        options = call.body.get("stream_options")
        reader = CompletionReader(
            shows_usage=options is not None and asked_for_usage(options), answers=call.choices_returned
        )
        if (prompt := call.prompt).prompts > 1:
            reader.least_prompt = prompt.token_ids + int(call.characters / Estimator.MAX_BYTES_PER_TOKEN)
        if call.body.get("echo"):
            reader.expect_echo(call.characters + call.prompt.token_ids)
        return reader


TEXT_COMPLETIONS = Completions()
