"""What is known about the routes of model servers: which generate, which change the server, and which are harmless.

A relayed route passes no policy that reads prompts or answers. So a route that generates needs a budget with a fixed charge,
and some routes are never relayed.

Sources, of November 2026: vLLM (docs/usage/security.md, 0.29); llama.cpp (tools/server/server.cpp); Ollama (server/routes.go);
SGLang (entrypoints/http_server.py); LM Studio (its REST documentation); TGI (router/src/server.rs); Anthropic; OpenAI
(openapi.yaml).

Servers have most routes under several prefixes, so prefixes are removed before a path is looked up: `/v1/completions`,
`/completions` and `/openai/v1/completions` are one route. Case is ignored for the same reason.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from enum import IntEnum
from typing import NamedTuple

Segments = Sequence[str | None]

SERVED_ROUTES = (
    "/api/chat",
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/embeddings",
    "/v1/responses",
    "/v1/responses/*",
    "/v1/conversations",
    "/v1/conversations/*",
    "/v1/messages",
    "/v1/messages/count_tokens",
    "/v1/models",
    "/v1/models/*",
    "/v1/usage",
    "/healthz",
    "/readyz",
    "/metrics",
)
"""The sidecar's own paths; `*` stands for all below."""

READING_METHODS = ("GET",)
_PREFIX_SEGMENT = re.compile(r"v\d\w*|api|openai|inference|cohere|anthropic|experimental|compat|compatible-mode")
_RUNS_LATER = "its work runs later, when no limit of the sidecar counts it"
_OPENS_SOCKETS = "it opens a WebSocket or hands out a key for one, and what runs there passes no limit"
_CHANGES_SERVER = "it changes the server for all of its clients"
_SHOWS_OTHERS = "it shows or continues requests of other clients"
_ACTS_ON_HOST = "it runs code on the server's machine, or sends requests from there"
_LISTS_MODELS = "it lists or changes the server's models past the `models` of keys; '/v1/models' is served under them"
_MANAGES_ACCOUNT = "it manages the account at the upstream, which all clients share"


class RouteKind(IntEnum):
    """What a route can do; the larger, the worse."""

    HARMLESS = 0
    UNKNOWN = 1
    GENERATES = 2
    REFUSED = 3


class RouteFacts(NamedTuple):
    """What is known about a path. *reason* is why it is refused or bounded; *methods* are those that are harmless."""

    kind: RouteKind
    reason: str = ""
    methods: tuple[str, ...] = ()
    names_model: bool = True


class _KnownRoute(NamedTuple):
    segments: Segments
    has_more: bool
    facts: RouteFacts


def _routes(names: str, facts: RouteFacts) -> Iterator[_KnownRoute]:
    """Yield a route for each of *names*: `*` stands for one segment, `**` at the end for none or more."""
    for name in names.split():
        parts = name.split("/")
        has_more = parts[-1] == "**"
        yield _KnownRoute(
            tuple(None if part == "*" else part for part in parts[: -1 if has_more else None]), has_more, facts
        )


_CAN_GENERATE = RouteFacts(RouteKind.GENERATES, "it can generate, or read a prompt of any size")
_HARMLESS_POST = RouteFacts(RouteKind.HARMLESS, methods=("POST",))
_HARMLESS_GET = RouteFacts(RouteKind.HARMLESS, methods=READING_METHODS)
_FILE_LISTS = RouteFacts(RouteKind.HARMLESS, methods=("GET", "POST"), names_model=False)
_FILE_ROUTES = RouteFacts(RouteKind.HARMLESS, methods=("GET", "DELETE"), names_model=False)
_UPLOAD_ROUTES = RouteFacts(RouteKind.HARMLESS, methods=("POST",), names_model=False)


def _refused(reason: str) -> RouteFacts:
    return RouteFacts(RouteKind.REFUSED, reason)


KNOWN_ROUTES = (
    # OpenAI and servers with its API
    *_routes("chat/completions chat/completions/batch completions complete responses messages engines/**", _CAN_GENERATE),
    *_routes("deployments/** embeddings chat audio/** images/** videos/** ocr interactions/**", _CAN_GENERATE),
    # vLLM, TGI, SageMaker, Vertex AI
    *_routes("invocations generate generative_scoring generate_stream vertex predict", _CAN_GENERATE),
    # llama.cpp, SGLang, Ollama
    *_routes("completion infill embedding generate_from_file vertex_generate encode health_generate", _CAN_GENERATE),
    *_routes("embed web_search web_fetch", _CAN_GENERATE),
    *_routes("rerank reranking score classify pooling tokenize detokenize apply-template chat_tokenize", _HARMLESS_POST),
    *_routes("moderations parse_function_call separate_reasoning show", _HARMLESS_POST),
    *_routes("chat/completions/render completions/render chat/completions/input_tokens", _HARMLESS_POST),
    *_routes("tags ps version info health ping load props get_model_info model_info", _HARMLESS_GET),
    *_routes("server_info get_server_info tokenizer_info", _HARMLESS_GET),
    *_routes("files", _FILE_LISTS),
    *_routes("files/*", _FILE_ROUTES),
    *_routes("files/*/content", RouteFacts(RouteKind.HARMLESS, methods=READING_METHODS, names_model=False)),
    *_routes("uploads uploads/*/parts uploads/*/complete uploads/*/cancel", _UPLOAD_ROUTES),
    *_routes("batches/** messages/batches/** fine_tuning/** fine-tunes/** evals/**", _refused(_RUNS_LATER)),
    *_routes("assistants/** threads/**", _refused(_RUNS_LATER)),
    *_routes("realtime/** chatkit/**", _refused(_OPENS_SOCKETS)),
    *_routes("containers/** cors-proxy/** tools/** collective_rpc", _refused(_ACTS_ON_HOST)),
    *_routes("organization/** organizations/** dashboard/** billing/** me user/** signout", _refused(_MANAGES_ACCOUNT)),
    *_routes("models/**", _refused(_LISTS_MODELS)),
    *_routes("responses/*/** chat/completions/*/messages", _refused(_SHOWS_OTHERS)),
    *_routes("conversations/** slots/** stream/** streams/** chat/completions/control", _refused(_SHOWS_OTHERS)),
    *_routes("open_session close_session", _refused(_SHOWS_OTHERS)),
    *_routes("lora-adapters/** load_lora_adapter unload_lora_adapter load_lora_adapter_from_tensors", _refused(_CHANGES_SERVER)),
    *_routes("pull push create copy delete blobs/** stop/** unload", _refused(_CHANGES_SERVER)),
    *_routes("sleep wake_up is_sleeping pause resume is_paused abort_requests abort_request", _refused(_CHANGES_SERVER)),
    *_routes("pause_generation continue_generation scale_elastic_ep is_scaling_elastic_ep", _refused(_CHANGES_SERVER)),
    *_routes("init_weight_transfer_engine get_world_size update_weights start_weight_update", _refused(_CHANGES_SERVER)),
    *_routes("update_weights_from_disk update_weights_from_tensor update_weights_from_distributed", _refused(_CHANGES_SERVER)),
    *_routes("update_weights_from_ipc update_weight_version init_weights_update_group", _refused(_CHANGES_SERVER)),
    *_routes("destroy_weights_update_group init_weights_send_group_for_remote_instance", _refused(_CHANGES_SERVER)),
    *_routes("send_weights_to_remote_instance get_weights_by_name weights_checker", _refused(_CHANGES_SERVER)),
    *_routes("release_memory_occupation resume_memory_occupation slow_down freeze_gc", _refused(_CHANGES_SERVER)),
    *_routes("flush_cache clear_hicache_storage_backend hicache/** set_internal_state", _refused(_CHANGES_SERVER)),
    *_routes("reset_prefix_cache reset_mm_cache reset_encoder_cache configure_logging", _refused(_CHANGES_SERVER)),
    *_routes("start_profile stop_profile start_expert_distribution_record", _refused(_CHANGES_SERVER)),
    *_routes("stop_expert_distribution_record dump_expert_distribution_record set_trace_level", _refused(_CHANGES_SERVER)),
)  # fmt: skip
_UNKNOWN_ROUTE = RouteFacts(RouteKind.UNKNOWN, "it is not known, so it may generate")


def without_prefixes(segments: Segments) -> Segments:
    """Return *segments* without those in front that servers put before their routes, in lower case."""
    folded = [None if each is None else each.lower() for each in segments]
    at = next(
        (at for at, part in enumerate(folded) if part is None or not _PREFIX_SEGMENT.fullmatch(part)), len(folded)
    )
    return folded[at:]


def facts_of(segments: Segments) -> RouteFacts:
    """Return the worst of what is known about the routes that *segments* can stand for; None in it is any segment.

    Where that stands for the name of a known route, it stands for unknown ones too. An unknown path that ends like a route
    which generates is taken for that route, under a prefix of the server (`--api-prefix` of llama.cpp, `--root-path` of vLLM).
    """
    names = without_prefixes(segments)
    routes = [route for route in KNOWN_ROUTES if _can_be(names, route)]
    found = [route.facts for route in routes]
    if not any(_is_named(names, route) for route in routes):
        found.append(_CAN_GENERATE if _ends_in_generating(names) else _UNKNOWN_ROUTE)
    return max(found, key=lambda facts: facts.kind)


def served_by_sidecar(segments: Segments) -> str:
    """Return the sidecar's own route that *segments* can stand for, as in `SERVED_ROUTES`; empty without one.

    Case counts: `/V1/rerank` is no path of the sidecar's.
    """
    for path in SERVED_ROUTES:
        parts = path.split("/")[1:]
        has_more = parts[-1] == "*"
        if _can_be(
            segments,
            _KnownRoute(parts[: -1 if has_more else None], has_more and len(segments) >= len(parts), _HARMLESS_POST),
        ):
            return path
    return ""


def _ends_in_generating(names: Segments) -> bool:
    tails = [names[at:] for at in range(1, len(names)) if names[at] is not None]
    generating = [route for route in KNOWN_ROUTES if route.facts is _CAN_GENERATE]
    return any(_can_be(tail, route) for tail in tails for route in generating)


def _is_named(names: Segments, route: _KnownRoute) -> bool:
    """Whether *names* have the fixed segments of *route*."""
    pairs = zip(names, route.segments, strict=False)
    return all(known is None or name == known for name, known in pairs)


def _can_be(names: Segments, route: _KnownRoute) -> bool:
    least = len(route.segments)
    if len(names) < least or (len(names) > least and not route.has_more):
        return False
    pairs = zip(names, route.segments, strict=False)
    return all(name is None or known is None or name == known for name, known in pairs)
