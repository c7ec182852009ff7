"""The list of models and the entry of one: `GET /v1/models`, `GET /v1/models/{id}`. No model works for these calls.

Their `RequestForm` is `MODELS_REQUEST`; the answers are made by `sidecar.upstream.model_list`.
"""

from __future__ import annotations

import re

from sidecar.wire.request.openai_request import MAX_MODEL_ID_LENGTH

MODELS_PATH = "/v1/models"
MODEL_ROUTE, MODEL_PREFIX = "/v1/models/{id}", "/v1/models/"
"""The route of one model, as calls and records name it, and the start of its paths. It is not a path itself."""
ENCODED_SLASH_STATE = "sidecar.encoded_slash"
"""The key in a call's `state` that is set where the client has percent-encoded the slashes of a model's id."""
_ID_SEGMENT = re.compile(r"(?!\.+$)[\w.:@+~,=()\- ]+")
"""A part of an id between slashes.  Parts of dots alone, `%`, `;`, `?`, `#` and `\\` could lead a server to another path."""


def model_id(path: str) -> str | None:
    """Return the id in *path*, the decoded path of a request for one model; None if no model can have it.

    Ids may have slashes, as `meta-llama/Llama-3.1-8B`, and colons, as `qwen3:8b`.
    """
    name = path.removeprefix(MODEL_PREFIX).removesuffix("/")
    is_id = len(name) <= MAX_MODEL_ID_LENGTH and all(map(_ID_SEGMENT.fullmatch, name.split("/")))
    return name if is_id else None
