"""Advice for requests to paths that are not served: the nearest route, or what to use instead.

Clients add a path to a configured base URL. Most of these requests have one of two causes: the base URL has `/v1` twice or
lacks it, or the client uses another API than chat completions.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import get_close_matches

from sidecar.wire.operations.messages import COUNT_TOKENS
from sidecar.wire.operations.models import MODEL_ROUTE, MODELS_PATH
from sidecar.wire.operations.registry import GOVERNED_OPERATIONS
from sidecar.wire.stored.paths import CONVERSATIONS_PATH, RESPONSES_PATH

from .client_connection import Scope
from .route import CHAT_PATH, COMPLETIONS_PATH, HEALTH_PATH, READY_PATH, USAGE_PATH

MAX_READ_CHARACTERS = 200
"""Characters of a path that are read."""
POSTED_PATHS = (*(each.path for each in GOVERNED_OPERATIONS), COUNT_TOKENS.path, CHAT_PATH)
SERVED_PATHS = (*POSTED_PATHS, MODELS_PATH, USAGE_PATH, HEALTH_PATH, READY_PATH)
ALL_ROUTES = (
    f"The routes are {', '.join(f'POST {path}' for path in POSTED_PATHS)}, GET {MODELS_PATH}, GET {MODEL_ROUTE}, GET {USAGE_PATH}, "
    f"GET {HEALTH_PATH} and GET {READY_PATH}; stored objects are below {RESPONSES_PATH} and {CONVERSATIONS_PATH}."
)
CLOSE_ENOUGH = 0.8
"""Least similarity, from 0 to 1, of a path to the route that is suggested for it."""

_PREFIX_SEGMENTS = frozenset({"anthropic", "api", "openai", "v0", "v1", "v1beta", "v2", "v3"})
"""Segments in front of a route, by which base URLs differ."""
_HEALTH_NAMES = frozenset({"health", "healthz", "live", "livez", "ping"})
_READY_NAMES = frozenset({"ready", "readyz", "readiness"})
_GEMINI_METHODS = frozenset(
    {"generatecontent", "streamgeneratecontent", "counttokens", "embedcontent", "batchembedcontents", "predict"}
)
"""What Gemini's own API has behind a model and a colon, in lower case."""
_HOST_VALUE = re.compile(rb"[A-Za-z0-9._\-]{1,100}(:\d{1,5})?|\[[0-9A-Fa-f:.]{2,45}\](:\d{1,5})?")
_PROXY_HEADERS = frozenset({b"forwarded", b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-proto", b"via"})

_CHAT_INSTEAD = f"use '{COMPLETIONS_PATH}'"
_ANTHROPIC_ADVICE = "Of Anthropic's API, only '/v1/messages' and '/v1/messages/count_tokens' are served here."
_LEGACY_ADVICE = f"This route of OpenAI's old API is not served here; {_CHAT_INSTEAD}, or '/v1/completions'."
_GEMINI_ADVICE = f"Gemini's own API is not served here; {_CHAT_INSTEAD} with an OpenAI client."
_STORED_ADVICE = f"Stored completions are not served here; {_CHAT_INSTEAD} without `store`."
_OPENAI_ADVICE = (
    f"This route of OpenAI's API is not served here; {_CHAT_INSTEAD}, or send such requests to the model server itself. "
    "An operator can open the route ('passthrough' in [server])."
)
_NATIVE_ADVICE = (
    f"The native routes of Ollama, llama.cpp and other servers are not served here; {_CHAT_INSTEAD} and '{MODELS_PATH}' "
    "with an OpenAI client. The operator can open some of them ('passthrough' in [server])."
)


def _for_each(names: str, advice: str) -> Iterable[tuple[str, str]]:
    return ((name, advice) for name in names.split())


_ADVICE_BY_SEGMENT = dict(
    [
        *_for_each("generate tags show ps pull push create copy delete embed version blobs", _NATIVE_ADVICE),  # Ollama
        *_for_each("completion infill tokenize detokenize apply-template props slots lora-adapters", _NATIVE_ADVICE),
        *_for_each("embedding rerank reranking score pooling classify generate_stream info encode", _NATIVE_ADVICE),
        *_for_each("get_model_info server_info internal extra chat_template", _NATIVE_ADVICE),
        *_for_each("messages complete", _ANTHROPIC_ADVICE),
        *_for_each("edits engines", _LEGACY_ADVICE),
        *_for_each("moderations audio images files uploads batches assistants threads realtime", _OPENAI_ADVICE),
        *_for_each(
            "conversations vector_stores fine_tuning fine-tunes evals containers videos organization skills chatkit",
            _OPENAI_ADVICE,
        ),
    ]
)
"""What to use instead of a route, by the first segment of its path behind the prefixes."""


def advice(path: str, origin: str) -> str:
    """Return the rest of the sentence "Nothing is served at PATH": what to use instead of *path*.

    *origin* is the scheme and host that the client used; empty if they are unknown. Nothing of *path* is repeated.
    """
    parts = [part for part in path[:MAX_READ_CHARACTERS].lower().split("/") if part]
    if (nearest := _nearest(parts)) is not None:
        return f"; did you mean '{nearest}'?{_base_url_advice(nearest, parts, origin)}"
    names = _without_prefixes(parts)
    if names and (found := _unserved(names)):
        return f". {found}"
    if len(path) <= MAX_READ_CHARACTERS:
        close = get_close_matches("/" + "/".join(parts), SERVED_PATHS, n=1, cutoff=CLOSE_ENOUGH)
        if close:
            return f"; did you mean '{close[0]}'?"
    if names and (found := _ADVICE_BY_SEGMENT.get(names[-1])):
        return f". {found}"
    return f". {ALL_ROUTES}{'' if names else _base_url_sentence(origin)}"


def origin_of(scope: Scope) -> str:
    """Return the scheme and host by which the client of *scope* reached the sidecar, as `http://localhost:8787`.

    Empty behind a proxy, whose own address is unknown, and for an invalid `Host`.
    """
    headers: dict[bytes, bytes] = dict(scope["headers"])
    host = headers.get(b"host", b"")
    if not _PROXY_HEADERS.isdisjoint(headers) or _HOST_VALUE.fullmatch(host) is None:
        return ""
    return f"{scope.get('scheme', 'http')}://{host.decode()}"


def _nearest(parts: list[str]) -> str | None:
    """Return the route that *parts*, the segments of a path in lower case, end with; None without one."""
    if (same := "/" + "/".join(parts)) in SERVED_PATHS:
        return same
    if parts[-2:] == ["chat", "completions"] or parts[-1:] == ["chat"]:
        return COMPLETIONS_PATH
    if parts[-1:] == ["models"]:
        return MODELS_PATH
    for path in POSTED_PATHS:
        name = path.removeprefix("/v1/").split("/")
        is_whole = _without_prefixes(parts) == name or "deployments" in parts
        if is_whole and parts[-len(name) :] == name:
            return path
    if parts[-1:] == ["usage"]:
        return USAGE_PATH
    names = _without_prefixes(parts)
    if names[:1] == ["models"] and names[-1].rpartition(":")[2] not in _GEMINI_METHODS:
        return MODEL_ROUTE
    if parts and parts[-1] in _HEALTH_NAMES:
        return HEALTH_PATH
    return READY_PATH if parts and parts[-1] in _READY_NAMES else None


def _without_prefixes(parts: list[str]) -> list[str]:
    at = next((at for at, part in enumerate(parts) if part not in _PREFIX_SEGMENTS), len(parts))
    return parts[at:]


def _unserved(names: list[str]) -> str | None:
    """Return what to use instead of a path that begins with *names* behind its prefixes; None if it is unknown."""
    if names[:2] == ["chat", "completions"]:
        return _STORED_ADVICE
    if names[:1] == ["models"]:
        return _GEMINI_ADVICE
    return _ADVICE_BY_SEGMENT.get(names[0])


def _base_url_advice(route: str, parts: list[str], origin: str) -> str:
    """Return how to correct the base URL of a client that requested *parts* instead of *route*."""
    if not route.startswith("/v1/"):
        return ""
    if "deployments" in parts:
        return f" Azure's client adds '/deployments': use the plain OpenAI client.{_base_url_sentence(origin)}"
    if parts.count("v1") > 1:
        known = f"'{origin}/v1', or '{origin}'" if origin else "one that ends in '/v1', or one without it"
        return f" The base URL has '/v1' twice: set it to {known} if the client adds '/v1' itself."
    return _base_url_sentence(origin)


def _base_url_sentence(origin: str) -> str:
    return (
        f" Set the client's base URL to '{origin}/v1'."
        if origin
        else " Set the client's base URL to one that ends in '/v1'."
    )
