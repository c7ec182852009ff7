"""The documented fields of a chat completion: those of OpenAI, and the parameters of known servers that choose nothing.

A listed field chooses no model, server, key or price. Ceilings and counts are listed only if limits read them
(`LIMIT_FIELDS`, `MANY_FIELDS`). Sources: OpenAI's API reference
(openai-python 3.54, `completion_create_params.py`); `ChatCompletionRequest` of vLLM and SGLang; the server README of
llama.cpp and the requests of its web interface; the documents of Ollama, LM Studio, TGI, OpenRouter, LiteLLM, DeepSeek, DashScope, Mistral, Groq, xAI and
Perplexity.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from types import MappingProxyType
from typing import Any, Literal, TypeAlias, Union

from policies.api.call import LIMIT_FIELDS, MANY_FIELDS

ForwardedFields: TypeAlias = Literal["any", "known"]
"""Which fields of clients are forwarded: all, or only the documented ones."""


class FieldKind(Enum):
    """The content of a documented field that is not an object with documented names."""

    SETTING = "a number, a word or a switch, or a list of them"
    CONTENT = "what the model or a grammar reads: any JSON"
    VARIABLES = "an object whose names the client chooses: variables of a template, labels"
    TOOLS = "a list of tools"
    ITEMS = "items of a prompt, of which some add tools"


FieldShape: TypeAlias = Union[FieldKind, "Mapping[str, FieldShape]"]
"""A mapping stands for an object, or a list of objects, with these documented names."""


def settings_fields(names: str) -> dict[str, FieldShape]:
    """Return a table of settings with these *names*, which spaces separate."""
    return dict.fromkeys(names.split(), FieldKind.SETTING)


def content_fields(names: str) -> dict[str, FieldShape]:
    """Return a table of content with these *names*, which spaces separate."""
    return dict.fromkeys(names.split(), FieldKind.CONTENT)


OPENAI_FIELDS: Mapping[str, FieldShape] = MappingProxyType(
    {
        **settings_fields(" ".join((*LIMIT_FIELDS, *MANY_FIELDS))),
        **settings_fields(
            "model models stream temperature top_p presence_penalty frequency_penalty seed stop user store"
        ),
        **settings_fields(
            "logprobs top_logprobs parallel_tool_calls reasoning_effort verbosity modalities service_tier"
        ),
        **settings_fields("prompt_cache_key prompt_cache_retention safety_identifier"),
        **content_fields("messages functions response_format prediction logit_bias"),
        "stream_options": settings_fields("include_usage include_obfuscation continuous_usage_stats"),
        "tools": FieldKind.TOOLS,
        "tool_choice": {**settings_fields("type name mode"), **content_fields("function custom allowed_tools")},
        "function_call": settings_fields("name"),
        "audio": {**settings_fields("format"), "voice": settings_fields("id")},
        "web_search_options": {**settings_fields("search_context_size"), **content_fields("user_location")},
        "prompt_cache_options": settings_fields("mode ttl"),
        "metadata": FieldKind.VARIABLES,
    }
)
"""Fields of OpenAI's chat completions, and the governed ones of other servers. `moderation` names a model: not listed."""

SERVER_FIELDS: Mapping[str, FieldShape] = MappingProxyType(
    {
        # Sampling: vLLM, SGLang, llama.cpp, Ollama, TGI, OpenRouter.
        **settings_fields("top_k top_a min_p typical typical_p tfs_z epsilon_cutoff eta_cutoff repetition_penalty"),
        **settings_fields(
            "repeat_penalty repeat_last_n length_penalty mirostat mirostat_mode mirostat_tau mirostat_eta"
        ),
        **settings_fields(
            "dynatemp_range dynatemp_exponent smoothing_factor smoothing_curve xtc_probability xtc_threshold"
        ),
        **settings_fields(
            "dry_multiplier dry_base dry_allowed_length dry_penalty_last_n dry_sequence_breakers dry_range"
        ),
        **settings_fields(
            "top_n_sigma penalize_nl samplers sampler_seed min_keep n_keep n_probs do_sample random_seed"
        ),
        **settings_fields("typ_p backend_sampling context_length_exceeded_behavior"),
        "repetition_detection": settings_fields("max_pattern_size min_pattern_size min_count"),
        **settings_fields("use_beam_search early_stopping ignore_eos bad_words include_stop_str_in_output"),
        **settings_fields(
            "skip_special_tokens spaces_between_special_tokens add_special_tokens no_stop_trim stop_regex"
        ),
        **settings_fields("truncate_prompt_tokens temperature_last add_bos_token ban_eos_token watermark"),
        **content_fields("stop_token_ids allowed_token_ids banned_tokens"),
        # Output in a given form.
        **content_fields("guided_json guided_regex guided_choice guided_grammar structured_outputs structural_tag"),
        **content_fields("json_schema grammar grammar_triggers regex ebnf format"),
        **settings_fields("guided_decoding_backend guided_whitespace_pattern grammar_lazy structured_output"),
        # Prompt and template.
        **content_fields("chat_template documents"),
        **settings_fields(
            "echo add_generation_prompt continue_final_message safe_prompt prefix tool_prompt prompt_mode"
        ),
        "chat_template_kwargs": FieldKind.VARIABLES,
        "mm_processor_kwargs": FieldKind.VARIABLES,
        "media_io_kwargs": FieldKind.VARIABLES,
        # Reasoning. Budgets of tokens are further ceilings, so they are not listed.
        **settings_fields("think enable_thinking include_reasoning reasoning_format reasoning_split reasoning_history"),
        **settings_fields("separate_reasoning stream_reasoning thinking_forced_open clear_thinking preserve_thinking"),
        "reasoning": settings_fields("effort exclude enabled summary"),
        "thinking": settings_fields("type clear_thinking keep"),
        # What the answer reports.
        **settings_fields("prompt_logprobs return_tokens_as_token_ids return_token_ids return_tokens return_progress"),
        **settings_fields(
            "return_hidden_states return_routed_experts timings_per_token post_sampling_probs response_fields"
        ),
        **settings_fields("return_citations return_images return_related_questions include_citations details"),
        **settings_fields("sse_ping_interval"),
        "usage": settings_fields("include"),
        # Scheduling and caches.
        **settings_fields(
            "priority request_id rid session_id conversation_id cache_salt extra_key id_slot cache_prompt"
        ),
        **settings_fields("keep_alive ttl parse_tool_calls t_max_predict_ms user_id"),
        "cache_control": settings_fields("type ttl"),
        "cache": settings_fields("no-cache no-store ttl s-maxage namespace use-cache"),
        "options": settings_fields(
            "temperature top_k top_p min_p typical_p tfs_z seed stop num_ctx num_keep num_batch num_gpu main_gpu num_thread"
            " use_mmap use_mlock numa low_vram f16_kv repeat_last_n repeat_penalty presence_penalty frequency_penalty"
            " mirostat mirostat_tau mirostat_eta penalize_newline"
        ),
        # Search of the server (Perplexity, DashScope, Mistral, xAI).
        **settings_fields(
            "enable_search search_mode search_recency_filter search_domain_filter search_after_date_filter"
        ),
        **settings_fields("search_before_date_filter disable_search language_preference search_language_filter"),
        **settings_fields(
            "last_updated_after_filter last_updated_before_filter image_domain_filter image_format_filter"
        ),
        "image_config": settings_fields("aspect_ratio image_size quality"),
    }
)
"""Parameters of other servers that are forwarded like OpenAI's."""

DOCUMENTED_FIELDS: Mapping[str, FieldShape] = MappingProxyType({**SERVER_FIELDS, **OPENAI_FIELDS})
"""The fields that are forwarded with `fields = "known"`."""

TOOL_FIELDS: Mapping[str, FieldShape] = MappingProxyType(
    {
        **settings_fields("type name strict defer_loading eager_input_streaming allowed_callers max_characters"),
        **settings_fields("display_width_px display_height_px display_number enable_zoom"),
        **content_fields("function custom description parameters input_schema input_examples"),
        "cache_control": settings_fields("type ttl"),
    }
)
ANTHROPIC_CLIENT_TOOLS = tuple(
    f"{name}_{version}"
    for name, versions in {
        "bash": ("20241022", "20250124"),
        "text_editor": ("20241022", "20250124", "20250429", "20250728"),
        "computer": ("20241022", "20250124", "20251124"),
        "memory": ("20250818",),
    }.items()
    for version in versions
)
"""Tools that the client runs, although Anthropic defines them (`types/tool_*_param.py` of anthropic 2.14)."""
TOOL_TYPES = ("function", "custom", "builtin_function", *ANTHROPIC_CLIENT_TOOLS)
"""Types of tools that only describe a function. A server runs the other types, with models and fees of its choice."""
TOOL_BODIES = frozenset({"function", "custom", "name"})
"""Names of which a tool that describes a function has one."""
LISTED_TOOLS_ITEM = "mcp_list_tools"
"""The type of an item whose `tools` only report those of a server; in other items they can be called."""
MESSAGE_NAMES = frozenset(
    "role content name tool_calls tool_call_id refusal audio function_call annotations id type text"  # noqa: SIM905
    " reasoning reasoning_content reasoning_details thinking thinking_blocks images prefix partial cache_control".split()
)
"""Names in a message: OpenAI's, and those with which other servers and clients carry reasoning, images and caches."""


def adds_tools(item: Any) -> bool:
    """Whether *item*, of a prompt, adds tools to those of the request, as `additional_tools` of the Responses API does."""
    return isinstance(item, dict) and "tools" in item and item.get("type") != LISTED_TOOLS_ITEM
