"""All APIs that are governed by the whole chain. Adding one is described in CONTRIBUTING.md."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

from sidecar.wire.request.documented_fields import DOCUMENTED_FIELDS

from .chat_completions import CHAT_COMPLETIONS
from .completions import TEXT_COMPLETIONS
from .embeddings import TEXT_EMBEDDINGS
from .messages import COUNT_TOKENS, MESSAGES_API
from .responses import RESPONSES_API

if TYPE_CHECKING:
    from policies.api.call import Call
    from sidecar.wire.request.documented_fields import FieldShape

    from .operation import Operation

GOVERNED_OPERATIONS: tuple[Operation, ...] = (
    CHAT_COMPLETIONS,
    RESPONSES_API,
    MESSAGES_API,
    TEXT_COMPLETIONS,
    TEXT_EMBEDDINGS,
)
"""One for each API, without Chat Nest's, whose calls are chat completions with another route."""
_BY_NAME: Mapping[str, Operation] = MappingProxyType(
    {each.request.name: each for each in (*GOVERNED_OPERATIONS, COUNT_TOKENS)}
)


def operation_of(call: Call) -> Operation:
    """Return the API of *call*, which a model answers. Called a few times per call."""
    return _BY_NAME[call.operation.name]


def fields_of(call: Call) -> Mapping[str, FieldShape]:
    """Return the documented fields of the API of *call*; those of chat completions for a route that is relayed."""
    return DOCUMENTED_FIELDS if call.operation.is_relayed else operation_of(call).fields
