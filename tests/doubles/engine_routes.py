"""The route tables of model servers, from their sources: which routes generate, and which are never relayed.

Independent of `sidecar.config.relay.known_routes`: tests compare the two. State of November 2026.
"""

from __future__ import annotations

from typing import NamedTuple


class EngineRoutes(NamedTuple):
    """The routes of one server, as it registers them."""

    server: str
    source: str
    generating: str
    refused: str
    harmless: str = ""


ENGINES = (
    EngineRoutes(
        "vLLM",
        "vllm-project/vllm docs/usage/security.md",
        "/v1/chat/completions/batch /v1/audio/transcriptions /v1/audio/translations /inference/v1/generate /invocations "
        "/generative_scoring /generate /v2/embed",
        "/v1/load_lora_adapter /v1/unload_lora_adapter /pause /resume /is_paused /scale_elastic_ep /is_scaling_elastic_ep "
        "/init_weight_transfer_engine /update_weights /get_world_size /abort_requests /reset_prefix_cache /reset_mm_cache "
        "/reset_encoder_cache /sleep /wake_up /is_sleeping /collective_rpc /start_profile /stop_profile /v1/realtime",
        "/v1/score /v1/rerank /v2/rerank /pooling /classify /score /rerank /tokenize /detokenize "
        "/v1/chat/completions/render /v1/completions/render",
    ),
    EngineRoutes(
        "llama.cpp",
        "ggml-org/llama.cpp tools/server/server.cpp",
        "/completion /completions /chat/completions /responses /audio/transcriptions /v1/audio/transcriptions /infill "
        "/embedding /embeddings /predict",
        "/models /models/load /models/unload /models/sse /v1/chat/completions/control /lora-adapters /slots /slots/{id} "
        "/v1/stream/{id} /v1/streams /cors-proxy /tools",
        "/rerank /reranking /v1/rerank /v1/reranking /tokenize /detokenize /apply-template "
        "/v1/chat/completions/input_tokens",
    ),
    EngineRoutes(
        "Ollama",
        "ollama/ollama server/routes.go",
        "/api/generate /api/embed /api/embeddings /api/experimental/web_search /api/experimental/web_fetch "
        "/v1/images/generations /v1/images/edits /v1/audio/transcriptions",
        "/api/pull /api/push /api/delete /api/me /api/signout /api/user/keys/{key} /api/create /api/blobs/{digest} /api/copy",
        "/api/show",
    ),
    EngineRoutes(
        "SGLang",
        "sgl-project/sglang python/sglang/srt/entrypoints/http_server.py",
        "/generate /generate_from_file /encode /vertex_generate /health_generate",
        "/flush_cache /update_weights_from_disk /update_weights_from_tensor /update_weights_from_distributed "
        "/init_weights_update_group /get_weights_by_name /release_memory_occupation /resume_memory_occupation /slow_down "
        "/load_lora_adapter /unload_lora_adapter /open_session /close_session /configure_logging /abort_request "
        "/pause_generation /continue_generation /set_internal_state /start_expert_distribution_record",
        "/v1/score /v1/rerank /classify /tokenize /detokenize /separate_reasoning /parse_function_call",
    ),
    EngineRoutes(
        "LM Studio",
        "lmstudio.ai/docs/developer/rest",
        "/api/v1/chat /api/v0/chat/completions /api/v0/completions /api/v0/embeddings",
        "/api/v1/models /api/v1/models/load /api/v1/models/unload /api/v1/models/download",
    ),
    EngineRoutes(
        "TGI",
        "huggingface/text-generation-inference router/src/server.rs",
        "/generate /generate_stream /vertex /invocations",
        "/v2/models/{model}/versions/{version}/infer",
        "/tokenize /chat_tokenize",
    ),
    EngineRoutes(
        "OpenAI and Anthropic",
        "openai/openai-openapi openapi.yaml, docs.anthropic.com",
        "/v1/audio/speech /v1/audio/transcriptions /v1/audio/translations /v1/images/generations /v1/images/edits "
        "/v1/images/variations /v1/videos /v1/videos/{id}/remix /v1/complete /v1/engines/{e}/completions",
        "/v1/batches /v1/batches/{id} /v1/assistants /v1/threads /v1/threads/runs /v1/threads/{id}/runs /v1/fine_tuning/jobs "
        "/v1/evals /v1/evals/{id}/runs /v1/realtime /v1/realtime/sessions /v1/realtime/client_secrets /v1/realtime/calls "
        "/v1/chatkit/sessions /v1/containers /v1/organization/admin_api_keys "
        "/v1/messages/batches /v1/messages/batches/{id}/results",
        "/v1/moderations /v1/uploads /v1/uploads/{id}/parts /v1/uploads/{id}/complete",
    ),
)
"""Without the routes that the sidecar serves itself."""
