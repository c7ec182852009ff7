"""Read the samples of the Messages API with Anthropic's SDK, and print what is wrong as one JSON list.

Usage: read_samples.py FOLDER_OF_DOUBLES.
"""

from __future__ import annotations

import json
import sys
from importlib.metadata import version
from typing import Any, get_args

from anthropic.types import ErrorResponse, Message, MessageTokensCount, RawContentBlockDelta, RawMessageStreamEvent
from pydantic import TypeAdapter, ValidationError

sys.path.append(sys.argv[1])
from samples import messages  # the argument names its folder

wrong: list[str] = []


def read(model: Any, name: str, fields: Any) -> Any:
    try:
        return TypeAdapter(model).validate_python(fields)
    except ValidationError as error:
        wrong.append(f"{name}: {error}")
        return None


def names(union: Any) -> set[str]:
    return {each.__name__ for each in get_args(get_args(union)[0])}


classes, deltas = set(), set()
for sample in messages.EVENTS:
    event = read(RawMessageStreamEvent, sample.kind, sample.fields)
    classes.add(type(event).__name__)
    deltas.add(type(getattr(event, "delta", None)).__name__)
    if not sample.kind.startswith(type(event).__name__):
        wrong.append(f"{sample.kind} is read as {type(event).__name__}")
wrong += [f"{name} has no sample" for name in names(RawMessageStreamEvent) - classes]
wrong += [f"{name} has no sample" for name in names(RawContentBlockDelta) - deltas]
for name, stream in messages.STREAMS.items():
    for fields in stream:
        if fields["type"] not in ("ping", "error"):
            read(RawMessageStreamEvent, name, fields)
for sample in messages.ANSWERS:
    read(Message, sample.kind, sample.fields)
read(MessageTokensCount, "count", messages.COUNTED.fields)
for status, sample in messages.ERRORS.items():
    if sample.source == messages.SOURCE:
        read(ErrorResponse, str(status), sample.fields)
if f"types of anthropic {version('anthropic')}" != messages.SOURCE:
    wrong.append(f"the samples name {messages.SOURCE}")
print(json.dumps(wrong))
