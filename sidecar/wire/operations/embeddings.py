"""OpenAI's embeddings: `POST /v1/embeddings`. They cost their inputs; there is no output and no stream."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

from policies.api.requests.request_form import RequestForm
from sidecar.wire.embeddings.embedding_reader import EmbeddingReader
from sidecar.wire.request.documented_fields import FieldKind, FieldShape, settings_fields
from sidecar.wire.request.openai_request import check_spelling, settle_fields
from sidecar.wire.request.prompt_lists import check_prompt

from .operation import Operation

if TYPE_CHECKING:
    from policies.api.call import Call

EMBEDDING_REQUEST = RequestForm(
    name="embeddings",
    conversation_field="",
    prompt_fields=("input",),
    ceiling_field="",
    frames_messages=False,
    can_stream=False,
)
_GOVERNED_FIELDS = frozenset({"input", "model", "models", "user"})
_EMBEDDING_FIELDS: Mapping[str, FieldShape] = MappingProxyType(
    {
        "input": FieldKind.CONTENT,
        # OpenAI, vLLM, SGLang, llama.cpp, Ollama; Cohere, NVIDIA, Voyage and Jina behind the same route.
        **settings_fields(
            "model models user encoding_format dimensions priority truncate_prompt_tokens truncation truncate"
        ),
        **settings_fields(
            "add_special_tokens normalize embd_normalize embed_dtype endianness keep_alive input_type task"
        ),
        **settings_fields("output_dtype output_dimension late_chunking normalized embedding_type request_id rid"),
        **settings_fields("instruction"),
        "options": settings_fields("num_ctx num_batch num_gpu"),
    }
)


class Embeddings(Operation):
    """See `Operation`."""

    request: ClassVar = EMBEDDING_REQUEST
    path: ClassVar = "/v1/embeddings"
    upstream_path: ClassVar = "/embeddings"
    fields: ClassVar = _EMBEDDING_FIELDS
    token_id_fields: ClassVar = ("input",)

    def check(self, body: dict[str, Any]) -> int:
        """See `Operation.check`."""
        check_spelling(body, _GOVERNED_FIELDS)
        items = check_prompt(body.get("input"), "input")
        settle_fields(body)
        return items

    def reading(self, call: Call) -> EmbeddingReader:  # the answer does not depend on the call
        """See `Operation.reading`."""
        return EmbeddingReader()


TEXT_EMBEDDINGS = Embeddings()
