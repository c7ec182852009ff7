"""Fields with which clients could evade rules for models, or ceilings, at some router or server; and legitimate ones.

Sources: LiteLLM's proxy documents (client-side fallbacks, client-side credentials, tag routing, `user_config`), OpenRouter's
(model routing, presets, variants, plugins, server tools), Helicone's and Vercel's gateways (fallbacks), Portkey's configs,
vLLM's and SGLang's `ChatCompletionRequest`, llama.cpp's server README, TGI, Ollama, LM Studio, Azure's data sources.
"""

from __future__ import annotations

from typing import Any, NamedTuple

Fields = dict[str, Any]
MANY = 400_000

NAMES_OF_MODELS = (
    "fallback fallback_model backup engine deployment_id deployment target_model model_name model_id modelId llm use"  # noqa: SIM905
    " override_model draft_model lora lora_path adapter adapter_id route router preset prompt_id agent variant tags tag"
    " azure_deployment custom_llm_provider served_model_name x-model specific_deployment model_group alias target choice"
    " speculative_model assistant guardrail_model judge primary Provider Fallbacks MODEL_NAME"
).split()
"""Fields that name one model, at some router or at none that is known."""
NAMES_OF_LISTS = (
    "fallbacks fallback_models context_window_fallbacks content_policy_fallbacks default_fallbacks model_list backups"  # noqa: SIM905
    " alternatives candidates order targets transforms route_order"
).split()
NAMES_OF_SERVERS = (
    "api_base base_url baseURL api_host endpoint url host proxy azure_endpoint server upstream api_url bootstrap_host"  # noqa: SIM905
    " aws_bedrock_runtime_endpoint vertex_location"
).split()
NAMES_OF_KEYS = "api_key apiKey key authorization token azure_ad_token litellm_credential_name aws_secret_access_key".split()  # noqa: SIM905
SWITCHES = (
    "use_fallbacks allow_fallbacks mock_testing_fallbacks route_to_best provider_id preset_number fast online"  # noqa: SIM905
).split()

ROUTES: dict[str, Fields] = {
    **{f"{name}=model": {name: "dear"} for name in NAMES_OF_MODELS},
    **{f"{name}=[model]": {name: ["dear"]} for name in NAMES_OF_LISTS},
    **{f"{name}=[object]": {name: [{"model": "dear"}]} for name in NAMES_OF_LISTS[:6]},
    **{f"{name}=url": {name: "http://10.0.0.1/v1"} for name in NAMES_OF_SERVERS},
    **{f"{name}=key": {name: "sk-other"} for name in NAMES_OF_KEYS},
    **{f"{name}=true": {name: True} for name in SWITCHES},
    **{f"{name}=2": {name: 2} for name in SWITCHES},
    "fallbacks by model": {"fallbacks": [{"cheap": ["dear"]}]},
    "context_window_fallback_dict": {"context_window_fallback_dict": {"cheap": "dear"}},
    "weights": {"weights": {"dear": 1.0}},
    "scores": {"scores": [["dear", 1]]},
    "pairs": {"pairs": [[1, ["dear"]]]},
    "extra_body.model": {"extra_body": {"model": "dear"}},
    "extra_body.models": {"extra_body": {"models": ["dear"]}},
    "extra_body twice": {"extra_body": {"extra_body": {"fallbacks": ["dear"]}}},
    "extra_body text": {"extra_body": '{"model": "dear"}'},
    "extra_headers": {"extra_headers": {"x-portkey-config": '{"model": "dear"}', "x-model": "dear"}},
    "extra_query": {"extra_query": {"model": "dear"}},
    "user_config": {"user_config": {"model_list": [{"model_name": "cheap", "litellm_params": {"model": "dear"}}]}},
    "router_settings_override": {"router_settings_override": {"fallbacks": [{"cheap": ["dear"]}]}},
    "litellm_params": {"litellm_params": {"model": "dear", "api_base": "http://10.0.0.1"}},
    "litellm_metadata": {"litellm_metadata": {"model": "dear"}},
    "mock_response": {"mock_response": "dear"},
    "metadata.model": {"metadata": {"model": "dear"}},
    "metadata.tags": {"metadata": {"tags": ["dear"]}},
    "metadata.x.fallbacks": {"metadata": {"x": {"fallbacks": ["dear"]}}},
    "config": {"config": {"strategy": {"mode": "fallback"}, "targets": [{"override_params": {"model": "dear"}}]}},
    "config id": {"config": "dear"},
    "providerOptions": {"providerOptions": {"gateway": {"models": ["dear"]}}},
    "provider": {"provider": {"order": ["dear"], "allow_fallbacks": True}},
    "plugins": {"plugins": [{"id": "fusion", "model": "dear"}]},
    "parameters.model": {"parameters": {"model": "dear"}},
    "options.model": {"options": {"model": "dear"}},
    "options.nested": {"options": {"stop": [{"model": "dear"}]}},
    "chat_template_kwargs.model": {"chat_template_kwargs": {"model": "dear"}},
    "chat_template_kwargs.x.route": {"chat_template_kwargs": {"x": [{"route": "dear"}]}},
    "stream_options.model": {"stream_options": {"include_usage": True, "model": "dear"}},
    "reasoning.model": {"reasoning": {"effort": "low", "model": "dear"}},
    "thinking.model": {"thinking": {"type": "enabled", "model": "dear"}},
    "cache.model": {"cache": {"no-cache": True, "model": "dear"}},
    "usage.model": {"usage": {"include": True, "model": "dear"}},
    "audio.model": {"audio": {"voice": "alloy", "format": "wav", "model": "dear"}},
    "web_search_options.model": {"web_search_options": {"search_context_size": "low", "model": "dear"}},
    "moderation": {"moderation": {"model": "dear"}},
    "tool_choice.model": {"tool_choice": {"type": "auto", "model": "dear"}},
    "temperature is an object": {"temperature": {"model": "dear"}},
    "seed is a list of objects": {"seed": [{"model": "dear"}]},
    "tool of the server": {"tools": [{"type": "openrouter:image_generation", "parameters": {"model": "dear"}}]},
    "mcp tool": {"tools": [{"type": "mcp", "server_url": "http://10.0.0.1"}]},
    "tool with a model": {"tools": [{"type": "function", "function": {"name": "f"}, "model": "dear"}]},
    "kv_transfer_params": {"kv_transfer_params": {"remote_host": "10.0.0.1", "remote_port": 1}},
    "data_sources": {"data_sources": [{"type": "azure_search", "parameters": {"endpoint": "https://x.example"}}]},
    "mcp_servers": {"mcp_servers": [{"url": "https://x.example"}]},
    "lora list": {"lora": [{"id": "dear", "scale": 1}]},
    "field behind NUL": {"fallbacks\0": ["dear"]},
    "field in full width": {"\uff46allbacks": ["dear"]},
    "field in long s": {"fallback\u017f": ["dear"]},
    "service_tier=priority": {"service_tier": "priority"},
    "service_tier=Fast": {"service_tier": "Fast"},
    "Service_Tier": {"Service_Tier": "priority"},
}
MODELS: dict[str, Fields] = {
    "other model": {"model": "dear"},
    "other case": {"model": "DEAR"},
    "alias": {"model": "smart"},
    "dynamic": {"model": "openrouter/auto"},
    "comma": {"model": "cheap,dear"},
    "comma in a pattern": {"model": "cheap-1,dear"},
    "semicolon": {"model": "cheap-1;dear"},
    "bar": {"model": "cheap-1|dear"},
    "space in front": {"model": " dear"},
    "line end": {"model": "cheap-1\ndear"},
    "tab": {"model": "cheap-1\tdear"},
    "zero width": {"model": "cheap-1,\u200bdear"},
    "NUL": {"model": "cheap-1\0dear"},
    "nitro": {"model": "cheap-1:nitro"},
    "ONLINE": {"model": "cheap-1:ONLINE"},
    "preset": {"model": "cheap-1@preset/dear"},
    "preset alone": {"model": "@preset/dear"},
    "long name": {"model": "cheap-1" + " " * 300 + "dear"},
    "list": {"model": ["cheap", "dear"]},
    "object": {"model": {"id": "dear"}},
    "models": {"models": ["dear"]},
    "models with both": {"models": ["cheap", "dear"]},
    "models in another case": {"models": ["Dear"]},
    "models with a comma": {"models": ["cheap-1,dear"]},
    "models with a preset": {"models": ["cheap-1@preset/dear"]},
    "models as text": {"models": "dear"},
    "models as an object": {"models": {"0": "dear"}},
    "models of lists": {"models": [["dear"]]},
    "models of objects": {"models": [{"model": "dear"}]},
    "no model but models": {"model": None, "models": ["dear"]},
}
"""Names of models. The rule for `cheap-*` permits those that begin so."""

TOP_LEVEL_CEILINGS = (
    "max_length num_predict max_gen_len max_tokens_to_sample max_generated_tokens max_decode_tokens min_tokens"  # noqa: SIM905
    " min_new_tokens min_length token_limit thinking_budget reasoning_budget maxOutputTokens maxTokens max_len"
).split()
TOP_LEVEL_COUNTS = "candidate_count num_outputs num_generations num_completions samples candidateCount".split()  # noqa: SIM905
CEILINGS: dict[str, Fields] = {
    **{name: {name: MANY} for name in TOP_LEVEL_CEILINGS},
    **{name: {name: 1_000} for name in TOP_LEVEL_COUNTS},
    "options.num_predict": {"options": {"num_predict": MANY, "top_k": 1}},
    "parameters.max_new_tokens": {"parameters": {"max_new_tokens": MANY}},
    "generation_config.maxOutputTokens": {"generation_config": {"maxOutputTokens": MANY}},
    "generationConfig.candidateCount": {"generationConfig": {"candidateCount": 1_000}},
    "sampling_params.max_tokens": {"sampling_params": {"max_tokens": MANY}},
    "sampling_params.n": {"sampling_params": {"n": 1_000}},
    "extra_body.max_tokens": {"extra_body": {"max_tokens": MANY}},
    "extra_body.n": {"extra_body": {"n": 1_000}},
    "nvext.max_thinking_tokens": {"nvext": {"min_tokens": MANY}},
    "reasoning.max_tokens": {"reasoning": {"max_tokens": MANY}},
    "thinking.budget_tokens": {"thinking": {"type": "enabled", "budget_tokens": MANY}},
    "chat_template_kwargs.thinking_budget": {"chat_template_kwargs": {"thinking_budget": MANY}},
    "metadata.max_tokens": {"metadata": {"max_tokens": str(MANY)}},
    "vllm_xargs.n": {"vllm_xargs": {"n": 1_000}},
    "stream_options.max_tokens": {"stream_options": {"max_tokens": MANY}},
}
"""Ceilings and numbers of answers that limits do not read: with `fields = "any"` a server that obeys them exceeds."""

EVASIONS = {**ROUTES, **MODELS, **CEILINGS}


class Fate(NamedTuple):
    """What happens to legitimate fields: `sent`, `dropped`, `part` (some nested names are dropped) or a status.

    *known* with `fields = "known"`; *keyed* for a key with `models`.
    """

    fields: Fields
    known: str = "sent"
    keyed: str | int = "sent"


TOOL = {"type": "function", "function": {"name": "f", "parameters": {"properties": {"model": {"type": "string"}}}}}
SCHEMA = {"type": "object", "properties": {"model": {"type": "string"}, "base_url": {"type": "string"}}}
LEGITIMATE: dict[str, Fate] = {
    "OpenAI sampling": Fate({"temperature": 0.2, "top_p": 0.9, "seed": 7, "stop": ["\n"], "logit_bias": {"50256": -100}}),
    "OpenAI tools": Fate({"tools": [TOOL], "tool_choice": "auto", "parallel_tool_calls": False}),
    "OpenAI tool choice": Fate({"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "f"}}}),
    "OpenAI schema": Fate({"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}}),
    "OpenAI prediction": Fate({"prediction": {"type": "content", "content": "dear"}}),
    "OpenAI audio": Fate({"modalities": ["text", "audio"], "audio": {"voice": "alloy", "format": "wav"}}),
    "OpenAI metadata": Fate({"metadata": {"order": "17", "team": "search"}, "store": True}),
    "OpenAI search": Fate({"web_search_options": {"search_context_size": "low"}}),
    "OpenAI tier": Fate({"service_tier": "flex", "reasoning_effort": "low", "verbosity": "low"}),
    "OpenAI cache": Fate({"prompt_cache_key": "a", "prompt_cache_retention": "24h", "safety_identifier": "u1"}),
    "OpenAI moderation": Fate({"moderation": {"model": "omni-moderation-latest"}}, "dropped", 403),
    "OpenAI stream": Fate({"stream_options": {"include_usage": True, "include_obfuscation": False}, "stream": True}),
    "vLLM sampling": Fate({"top_k": 20, "min_p": 0.1, "repetition_penalty": 1.1, "stop_token_ids": [1, 2]}),
    "vLLM guided": Fate({"guided_json": SCHEMA, "guided_decoding_backend": "xgrammar"}),
    "vLLM structured": Fate({"structured_outputs": {"json": SCHEMA}}),
    "vLLM template": Fate({"chat_template_kwargs": {"enable_thinking": False, "model_identity": "You are Ann."}}),
    "vLLM cache": Fate({"cache_salt": "abc", "priority": 3, "add_generation_prompt": True}),
    "vLLM xargs": Fate({"vllm_xargs": {"speed": 1}}, "dropped", 403),
    "vLLM transfer": Fate({"kv_transfer_params": {"do_remote_decode": True}}, "dropped", 403),
    "SGLang": Fate({"regex": "a+", "separate_reasoning": True, "ignore_eos": False, "rid": "r1"}),
    "SGLang adapter": Fate({"lora_path": "a"}, "dropped", 403),
    "SGLang rank": Fate({"data_parallel_rank": 1}, "dropped"),
    "llama.cpp": Fate({"cache_prompt": True, "id_slot": 2, "n_probs": 3, "samplers": ["top_k", "min_p"]}),
    "llama.cpp sampling": Fate({"mirostat": 2, "dry_multiplier": 0.8, "xtc_probability": 0.1, "dry_base": 1.75}),
    "llama.cpp grammar": Fate({"grammar": "root ::= [a-z]+", "timings_per_token": True, "reasoning_format": "auto"}),
    "llama.cpp adapter": Fate({"lora": [{"id": 0, "scale": 1.0}]}, "dropped", 403),
    "Ollama options": Fate({"options": {"num_ctx": 8192, "top_k": 3}, "keep_alive": "5m", "think": False}),
    "Ollama ceiling": Fate({"options": {"num_predict": 9, "top_k": 3}}, "part"),
    "Ollama think": Fate({"think": "high", "keep_alive": -1}),
    "LM Studio": Fate({"ttl": 300, "repeat_penalty": 1.1}),
    "LM Studio draft": Fate({"draft_model": "tiny"}, "dropped", 403),
    "TGI": Fate({"do_sample": True, "typical_p": 0.95, "watermark": False}),
    "OpenRouter provider": Fate({"provider": {"sort": "price"}}, "dropped", 403),
    "OpenRouter models": Fate({"models": ["cheap-2", "cheap"]}),
    "OpenRouter reasoning": Fate({"reasoning": {"effort": "high", "exclude": True}, "include_reasoning": True}),
    "OpenRouter usage": Fate({"usage": {"include": True}, "session_id": "s1"}),
    "OpenRouter plugins": Fate({"plugins": [{"id": "web"}], "transforms": ["middle-out"]}, "dropped", 403),
    "OpenRouter cache": Fate({"cache_control": {"type": "ephemeral"}, "image_config": {"aspect_ratio": "16:9"}}),
    "LiteLLM metadata": Fate({"metadata": {"generation_name": "x", "spend_logs_metadata": {"team": "a"}}}),
    "LiteLLM tags": Fate({"metadata": {"tags": ["job"], "trace_id": "t"}}, "part", 403),
    "LiteLLM cache": Fate({"cache": {"no-cache": True, "ttl": 60}, "num_retries": 2}, "part"),
    "LiteLLM drop": Fate({"drop_params": True, "num_retries": 2}, "dropped"),
    "LiteLLM guardrails": Fate({"guardrails": ["pii"]}, "dropped", 403),
    "Azure search": Fate({"data_sources": [{"type": "azure_search", "parameters": {}}]}, "dropped", 403),
    "DeepSeek": Fate({"thinking": {"type": "disabled"}}),
    "Anthropic thinking": Fate({"thinking": {"type": "enabled", "budget_tokens": 2_000}}, "part"),
    "Qwen": Fate({"enable_thinking": True, "enable_search": False, "top_k": 5}),
    "Qwen budget": Fate({"thinking_budget": 500}, "dropped"),
    "Gemini": Fate({"extra_body": {"google": {"thinking_config": {"include_thoughts": True}}}}, "dropped", 403),
    "Mistral": Fate({"safe_prompt": True, "random_seed": 3}),
    "Perplexity": Fate({"search_domain_filter": ["example.org"], "search_recency_filter": "week"}),
    "Groq search": Fate({"tools": [TOOL, {"type": "browser_search"}]}, "part", 403),
    "Kimi search": Fate({"tools": [{"type": "builtin_function", "function": {"name": "$web_search"}}]}),
    "new number": Fate({"new_penalty": 0.5, "new_switch": True, "new_list": [1, [2.5, None]]}, "dropped"),
    "new level": Fate({"new_level": "low", "new_switch": "off"}, "dropped"),
    "new text": Fate({"new_style": "formal"}, "dropped", 403),
    "new object": Fate({"new_settings": {"a": 1}}, "dropped", 403),
}
"""Fields as clients of these servers send them. Without keys, prices and `fields`, all of them are sent as they are."""
