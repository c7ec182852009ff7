"""Usage as servers report it, one sample a row, with its source and what it counts as.

`recorded` samples are copied from the source. In the others the field names are from the source and the numbers are made
up, or both are from memory ("memory").
"""

from __future__ import annotations

from typing import Any, NamedTuple


class Sample(NamedTuple):
    """One report, and the (input, output, cached) tokens that it counts as, beside an answer of one short word.

    `fields` are the fields of the last object of an answer. A sample with `choices` is an object as it is; one without them
    stands in a chunk with `choices: []`, and in a whole answer.
    """

    server: str
    source: str
    recorded: bool
    fields: dict[str, Any]
    counted: tuple[int, int, int]


def usage(**fields: Any) -> dict[str, Any]:
    return {"usage": fields}


def finish(usage: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """Return the last chunk of a stream, whose choice holds *usage*."""
    return {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop", "usage": usage}], **fields}


SAMPLES = [
    Sample(
        "OpenAI",
        "OpenAI's guide to prompt caching, quoted in 64bit/async-openai#272",
        True,
        usage(
            prompt_tokens=2006,
            completion_tokens=300,
            total_tokens=2306,
            prompt_tokens_details={"cached_tokens": 1920},
            completion_tokens_details={"reasoning_tokens": 0},
        ),
        (2006, 300, 1920),
    ),
    Sample(
        "Azure OpenAI",
        "memory",
        False,
        usage(
            prompt_tokens=31,
            completion_tokens=14,
            total_tokens=45,
            prompt_tokens_details={"audio_tokens": 0, "cached_tokens": 0},
            completion_tokens_details={
                "accepted_prediction_tokens": 0,
                "audio_tokens": 0,
                "reasoning_tokens": 0,
                "rejected_prediction_tokens": 0,
            },
        ),
        (31, 14, 0),
    ),
    Sample(
        "OpenRouter",
        "openrouter.ai/docs/use-cases/usage-accounting",
        True,
        usage(
            completion_tokens=2,
            completion_tokens_details={"reasoning_tokens": 0},
            cost=0.95,
            cost_details={"upstream_inference_cost": 19},
            prompt_tokens=194,
            prompt_tokens_details={"cached_tokens": 0, "audio_tokens": 0},
            total_tokens=196,
        ),
        (194, 2, 0),
    ),
    Sample(
        "OpenRouter with cache writes",
        "openrouter.ai/docs: prompt_tokens_details",
        False,
        usage(
            prompt_tokens=4_000,
            completion_tokens=20,
            total_tokens=4_020,
            prompt_tokens_details={"cached_tokens": 3_000, "cache_write_tokens": 900},
            cost=None,
        ),
        (4_000, 20, 3_000),
    ),
    Sample(
        "Groq",
        "a recorded call in a public repository",
        True,
        usage(
            queue_time=0.265612444,
            prompt_tokens=41,
            prompt_time=0.012792436,
            completion_tokens=27,
            completion_time=0.055172062,
            total_tokens=68,
            total_time=0.067964498,
        )
        | {"usage_breakdown": None, "x_groq": {"id": "req_01kwwpd7caeazb6x8yatdpfhys", "seed": 120908243}},
        (41, 27, 0),
    ),
    Sample(
        "Groq, in x_groq",
        "packages/groq/src/groq-chat-language-model.test.ts in vercel/ai",
        True,
        {
            "choices": [{"index": 0, "delta": {}, "logprobs": None, "finish_reason": "tool_calls"}],
            "x_groq": {
                "id": "req_01jadadp0femyae9kav1gpkhe8",
                "usage": {
                    "queue_time": 0.061348671,
                    "prompt_tokens": 18,
                    "prompt_time": 0.000211569,
                    "completion_tokens": 439,
                    "completion_time": 0.798181818,
                    "total_tokens": 457,
                    "total_time": 0.798393387,
                },
            },
        },
        (18, 439, 0),
    ),
    Sample(
        "a gateway to Groq, whose own usage lacks the prompt",
        "a recorded call in a public repository",
        True,
        usage(prompt_tokens=0, completion_tokens=31, total_tokens=31)
        | {
            "x_groq": {
                "id": "xx",
                "usage": {
                    "queue_time": 0.022309279,
                    "prompt_tokens": 21,
                    "prompt_time": 0.002741011,
                    "completion_tokens": 31,
                    "completion_time": 0.063135737,
                    "total_tokens": 52,
                    "total_time": 0.065876748,
                },
            }
        },
        (21, 31, 0),
    ),
    Sample(
        "Together",
        "memory",
        False,
        usage(prompt_tokens=50, completion_tokens=9, total_tokens=59, cached_tokens=16),
        (50, 9, 16),
    ),
    Sample(
        "Fireworks",
        "memory",
        False,
        {
            "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}],
            "usage": {
                "prompt_tokens": 1_900,
                "total_tokens": 1_912,
                "completion_tokens": 12,
                "prompt_tokens_details": {"cached_tokens": 1_800},
            },
        },
        (1_900, 12, 1_800),
    ),
    Sample(
        "DeepSeek",
        "a recorded usage object in a public repository",
        True,
        usage(
            prompt_tokens=496,
            completion_tokens=1783,
            total_tokens=2279,
            prompt_tokens_details={"cached_tokens": 0},
            prompt_cache_hit_tokens=0,
            prompt_cache_miss_tokens=496,
        ),
        (496, 1783, 0),
    ),
    Sample(
        "DeepSeek with hits",
        "api-docs.deepseek.com: usage",
        False,
        usage(prompt_tokens=1_200, completion_tokens=40, prompt_cache_hit_tokens=1_000, prompt_cache_miss_tokens=200),
        (1_200, 40, 1_000),
    ),
    Sample(
        "DeepSeek without the sum",
        "api-docs.deepseek.com: usage",
        False,
        usage(prompt_cache_hit_tokens=6_500, prompt_cache_miss_tokens=100, completion_tokens=50),
        (6_600, 50, 6_500),
    ),
    Sample(
        "Mistral",
        "symfony/ai#2343",
        True,
        usage(prompt_tokens=801, completion_tokens=2, prompt_tokens_details={"cached_tokens": 768}),
        (801, 2, 768),
    ),
    Sample(
        "Mistral, by its API's other names",
        "vercel/ai#14382",
        False,
        usage(
            prompt_tokens=1_013,
            total_tokens=1_043,
            completion_tokens=30,
            num_cached_tokens=1_008,
            prompt_token_details={"cached_tokens": 1_008},
            prompt_audio_seconds={},
        ),
        (1_013, 30, 1_008),
    ),
    Sample(
        "xAI",
        "Wei-Shaw/sub2api#5771",
        True,
        usage(
            prompt_tokens=10120,
            completion_tokens=1499,
            total_tokens=14428,
            prompt_tokens_details={"cached_tokens": 128},
            completion_tokens_details={"reasoning_tokens": 2809},
        ),
        (10120, 1499 + 2809, 128),
    ),
    Sample(
        "xAI with little reasoning",
        "docs.x.ai, quoted in sonami-tech/omni-llm-provider#49",
        True,
        usage(
            prompt_tokens=32,
            completion_tokens=94,
            total_tokens=135,
            completion_tokens_details={"reasoning_tokens": 9},
        ),
        (32, 94 + 9, 0),
    ),
    Sample(
        "xAI without a total",
        "vercel/ai#12425",
        False,
        usage(prompt_tokens=12, completion_tokens=1, completion_tokens_details={"reasoning_tokens": 386}),
        (12, 387, 0),
    ),
    Sample(
        "Responses",
        "a recorded usage object of xAI in a public repository",
        True,
        usage(
            input_tokens=36361,
            input_tokens_details={"cached_tokens": 192},
            output_tokens=1252,
            output_tokens_details={"reasoning_tokens": 763},
            total_tokens=37613,
            num_sources_used=0,
            num_server_side_tools_used=0,
            cost_in_usd_ticks=483796500,
            context_details={"input_tokens": 36361, "output_tokens": 1253},
        ),
        (36361, 1252, 192),
    ),
    Sample(
        "Gemini",
        "Clarifai/clarifai-python#978",
        True,
        usage(prompt_tokens=20, completion_tokens=424, total_tokens=1016),
        (20, 996, 0),
    ),
    Sample(
        "Gemini, thoughts alone",
        "router-for-me/CLIProxyAPI#5733",
        True,
        usage(
            completion_tokens=0,
            total_tokens=81,
            prompt_tokens=21,
            completion_tokens_details={"reasoning_tokens": 60},
        ),
        (21, 60, 0),
    ),
    Sample(
        "Perplexity, reasoning in no total",
        "bgeneto/open-webui-cost-tracker#6",
        True,
        usage(
            prompt_tokens=108,
            completion_tokens=3256,
            total_tokens=3364,
            citation_tokens=7299,
            num_search_queries=74,
            reasoning_tokens=73248,
        ),
        (108, 3256 + 73248, 0),
    ),
    Sample(
        "Kimi, in the choice",
        "a recorded stream of moonshot-v1-8k in a public repository",
        True,
        finish(
            {"prompt_tokens": 39, "completion_tokens": 211, "total_tokens": 250}, system_fingerprint="fpv0_ca1d2527"
        ),
        (39, 211, 0),
    ),
    Sample(
        "Kimi, in the choice, with cached tokens",
        "earendil-works/pi#2016",
        False,
        finish({"prompt_tokens": 10, "completion_tokens": 2, "total_tokens": 12, "cached_tokens": 7}),
        (10, 2, 7),
    ),
    Sample(
        "Kimi",
        "Bike4Mind/bike4mind#1089",
        False,
        usage(
            prompt_tokens=2989,
            completion_tokens=8,
            total_tokens=2997,
            cached_tokens=2989,
            prompt_tokens_details={"cached_tokens": 2989},
        ),
        (2989, 8, 2989),
    ),
    Sample(
        "Anthropic",
        "platform.claude.com/docs: prompt caching",
        False,
        usage(input_tokens=4, cache_creation_input_tokens=1_024, cache_read_input_tokens=2_048, output_tokens=12),
        (3_076, 12, 2_048),
    ),
    Sample(
        "Anthropic-compatible (GLM)",
        "a recorded message_delta in a public repository",
        True,
        usage(
            output_tokens=39,
            cache_creation_input_tokens=0,
            input_tokens=175,
            cache_read_input_tokens=0,
            prompt_tokens_details={"cached_tokens": 0},
        ),
        (175, 39, 0),
    ),
    Sample(
        "Anthropic-compatible, with both names (Kimi)",
        "tests of Wei-Shaw/sub2api",
        True,
        usage(
            input_tokens=250,
            cache_read_input_tokens=173056,
            output_tokens=166,
            prompt_tokens=173306,
            cached_tokens=173056,
        ),
        (173306, 166, 173056),
    ),
    Sample(
        "a gateway to Anthropic, OpenAI's names including the cache (LiteLLM)",
        "memory",
        False,
        usage(
            prompt_tokens=3_076,
            completion_tokens=12,
            total_tokens=3_088,
            cache_creation_input_tokens=1_024,
            cache_read_input_tokens=2_048,
        ),
        (3_076, 12, 2_048),
    ),
    Sample(
        "a gateway to Anthropic, OpenAI's names excluding the cache",
        "memory",
        False,
        usage(
            prompt_tokens=4,
            completion_tokens=12,
            total_tokens=16,
            cache_creation_input_tokens=1_024,
            cache_read_input_tokens=2_048,
        ),
        (3_076, 12, 2_048),
    ),
    Sample(
        "a gateway to Anthropic (new-api)",
        "a gateway's public manual",
        True,
        usage(
            prompt_tokens=120,
            completion_tokens=85,
            total_tokens=205,
            prompt_tokens_details={"cached_tokens": 30, "cached_creation_tokens": 10},
            completion_tokens_details={"reasoning_tokens": 42},
            claude_cache_creation_5_m_tokens=8,
            claude_cache_creation_1_h_tokens=2,
        ),
        (120, 85, 30),
    ),
    Sample(
        "vLLM",
        "can1357/oh-my-pi#5022",
        False,
        usage(
            prompt_tokens=35_227,
            total_tokens=35_327,
            completion_tokens=100,
            prompt_tokens_details={"cached_tokens": 32_512},
        ),
        (35_227, 100, 32_512),
    ),
    Sample(
        "SGLang (Dynamo)",
        "ai-dynamo/dynamo#10925",
        True,
        usage(
            completion_tokens=4,
            prompt_tokens=516,
            prompt_tokens_details={"audio_tokens": None, "cached_tokens": 512},
            total_tokens=520,
        ),
        (516, 4, 512),
    ),
    Sample(
        "SGLang without a cache report",
        "noonghunna/club-3090#1297",
        False,
        usage(
            prompt_tokens=4_212,
            total_tokens=4_292,
            completion_tokens=80,
            prompt_tokens_details=None,
            reasoning_tokens=33,
        ),
        (4_212, 80, 0),
    ),
    Sample(
        "TGI",
        "memory",
        False,
        usage(prompt_tokens=30, completion_tokens=100, total_tokens=130),
        (30, 100, 0),
    ),
    Sample(
        "TensorRT-LLM",
        "memory",
        False,
        usage(
            prompt_tokens=44,
            total_tokens=60,
            completion_tokens=16,
            prompt_tokens_details={"cached_tokens": 32},
        ),
        (44, 16, 32),
    ),
    Sample(
        "llama.cpp",
        "a recorded answer of build 6510 in a public repository",
        True,
        usage(completion_tokens=326, prompt_tokens=14, total_tokens=340)
        | {
            "timings": {
                "cache_n": 13,
                "prompt_n": 1,
                "prompt_ms": 20.325,
                "prompt_per_token_ms": 20.0,
                "prompt_per_second": 49.0,
                "predicted_n": 326,
                "predicted_ms": 3084.0,
                "predicted_per_token_ms": 9.0,
                "predicted_per_second": 105.0,
            }
        },
        (14, 326, 13),
    ),
    Sample(
        "llama.cpp, timings alone",
        "ggml-org/llama.cpp#15827",
        True,
        {
            "timings": {
                "cache_n": 236,
                "prompt_n": 1,
                "prompt_ms": 30.958,
                "prompt_per_token_ms": 30.958,
                "prompt_per_second": 32.301828283480845,
                "predicted_n": 35,
                "predicted_ms": 661.064,
                "predicted_per_token_ms": 18.887542857142858,
                "predicted_per_second": 52.94494935437416,
            }
        },
        (237, 35, 236),
    ),
    Sample(
        "llama.cpp before September 2025, whose timings leave out the cached part of the prompt",
        "memory",
        False,
        {"timings": {"prompt_n": 27, "prompt_ms": 789.03, "predicted_n": 192, "predicted_ms": 16112.5}},
        (0, 192, 0),
    ),
    Sample(
        "llama-cpp-python",
        "memory",
        False,
        usage(prompt_tokens=14, completion_tokens=28, total_tokens=42),
        (14, 28, 0),
    ),
    Sample(
        "LM Studio",
        "lmstudio.ai/docs: REST API",
        True,
        usage(prompt_tokens=24, completion_tokens=53, total_tokens=77)
        | {"stats": {"tokens_per_second": 51.43709529007664, "time_to_first_token": 0.111, "generation_time": 0.954}},
        (24, 53, 0),
    ),
    Sample(
        "Ollama before 0.1.49, whose prompt is 0 where it was cached",
        "ollama/ollama#5370",
        False,
        usage(prompt_tokens=0, completion_tokens=20, total_tokens=20),
        (0, 20, 0),
    ),
    Sample(
        "Ollama's own names",
        "docs/api.md in ollama/ollama",
        True,
        {"done": True, "total_duration": 4883583458, "prompt_eval_count": 26, "eval_count": 282},
        (26, 282, 0),
    ),
    Sample(
        "Ollama's own names, with the cache",
        "stdapi-ai/stdapi.ai#252",
        False,
        {"prompt_eval_count": 26, "prompt_eval_cached_count": 20, "eval_count": 282},
        (26, 282, 20),
    ),
    Sample(
        "mlx-vlm",
        "earendil-works/pi#2326",
        True,
        usage(input_tokens=11, output_tokens=5, total_tokens=16, prompt_tps=21.55, generation_tps=81.56),
        (11, 5, 0),
    ),
    Sample(
        "mlx-lm",
        "ml-explore/mlx-lm#849 and #1279",
        False,
        usage(
            prompt_tokens=192,
            completion_tokens=64,
            total_tokens=256,
            prompt_tokens_details={"cached_tokens": 64},
        )
        | {"timings": {"prompt_per_second": 412.3, "predicted_per_second": 78.9, "prompt_n": 128, "predicted_n": 64}},
        (192, 64, 64),
    ),
    Sample(
        "MiniMax, the total alone",
        "memory",
        False,
        usage(total_tokens=249, total_characters=0),
        (248, 1, 0),
    ),
    Sample(
        "SambaNova",
        "a recorded answer in a public repository",
        True,
        usage(
            completion_tokens=51,
            completion_tokens_after_first_per_sec=203.1970451845694,
            completion_tokens_per_sec=135.12995588730448,
            end_time=1746852567.7429223,
            is_last_response=True,
            prompt_tokens=10,
            start_time=1746852567.3655078,
            stop_reason="stop",
            time_to_first_token=0.13134789466857,
            total_tokens=61,
        ),
        (10, 51, 0),
    ),
    Sample(
        "numbers as strings and floats",
        "memory",
        False,
        usage(prompt_tokens="9", completion_tokens=3.0, total_tokens="12.0"),
        (9, 3, 0),
    ),
    Sample(
        "a whole answer without choices",
        "packages/groq/src/__fixtures__/groq-empty-choices.json in vercel/ai",
        True,
        usage(prompt_tokens=1, completion_tokens=0, total_tokens=1),
        (1, 1, 0),
    ),
]

RUNNING_TOTALS = [
    Sample(
        "vLLM, continuous_usage_stats",
        "vllm-project/vllm#6652",
        False,
        {
            "reports": [{"prompt_tokens": 9, "total_tokens": 9 + n, "completion_tokens": n} for n in range(1, 6)],
        },
        (9, 5, 0),
    ),
    Sample(
        "vLLM, cached tokens in the last chunk alone",
        "ai-dynamo/dynamo#14850",
        False,
        {
            "reports": [
                {"prompt_tokens": 64, "total_tokens": 65, "completion_tokens": 1},
                {"prompt_tokens": 64, "total_tokens": 66, "completion_tokens": 2},
                {
                    "prompt_tokens": 64,
                    "total_tokens": 66,
                    "completion_tokens": 2,
                    "prompt_tokens_details": {"cached_tokens": 48},
                },
            ],
        },
        (64, 2, 48),
    ),
    Sample(
        "ik_llama.cpp",
        "cline/cline#10148",
        True,
        {
            "reports": [
                {"completion_tokens": 133, "prompt_tokens": 13856, "total_tokens": 13989},
                {"completion_tokens": 134, "prompt_tokens": 13856, "total_tokens": 13990},
            ],
        },
        (13856, 134, 0),
    ),
    Sample(
        "Gemini, thoughts in the total of each chunk",
        "BerriAI/litellm#10667; the second report is made up",
        False,
        {
            "reports": [
                {"completion_tokens": 7, "prompt_tokens": 19693, "total_tokens": 20309},
                {"completion_tokens": 213, "prompt_tokens": 19693, "total_tokens": 20515},
            ],
        },
        (19693, 822, 0),
    ),
    Sample(
        "Anthropic-compatible, the prompt first and the output last",
        "a recorded message_start and message_delta in a public repository",
        False,
        {
            "reports": [
                {"input_tokens": 173_306, "cache_read_input_tokens": 0, "output_tokens": 1},
                {"input_tokens": 250, "cache_read_input_tokens": 173_056, "output_tokens": 166},
                {"input_tokens": 0, "output_tokens": 0},
            ],
        },
        (173_306, 166, 173_056),
    ),
]
"""Streams that report in each chunk: `fields["reports"]` are their `usage` objects.

Each chunk but the last is one token; the last one has no choices.
"""
