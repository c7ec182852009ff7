"""Refusals of real servers that name a token limit, for a request with a prompt of 12 tokens or with one that is too long.

`source` names where the wording was published, or the server's source code; "memory" marks the others.  Numbers were changed to
those of the requests here, and ids of accounts were shortened.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

NO_FIELDS: Mapping[str, Any] = MappingProxyType({})


class CeilingRefusal(NamedTuple):
    """A refusal of a ceiling of `sent` tokens; `ceiling` is what the server accepts.

    `lasting`: the text names the model's own limit.  `context` is the context that it names.  `of_context`: it does not say
    how much of the context is left for the answer; with `at_most` it stopped to count the prompt.
    """

    server: str
    status: int
    text: str
    sent: int
    ceiling: int
    source: str
    lasting: bool = False
    context: int = 0
    of_context: bool = False
    at_most: bool = False
    fields: Mapping[str, Any] = NO_FIELDS


OPENAI_TOO_LARGE = (
    "max_tokens is too large: 16384. This model supports at most 4096 completion tokens, whereas you provided 16384."
)

CEILING_REFUSALS = [
    CeilingRefusal("OpenAI", 400, OPENAI_TOO_LARGE, 16384, 4096, "ChatGPTNextWeb/NextChat#3195", lasting=True, fields={"type": "invalid_request_error", "param": "max_tokens", "code": None}),
    CeilingRefusal("OpenAI, by value", 400, "Invalid 'max_tokens': integer above maximum value. Expected a value <= 4096, but got 16384 instead.", 16384, 4096, "memory", lasting=True, fields={"param": "max_tokens", "code": "integer_above_max_value"}),
    CeilingRefusal("OpenAI, context", 400, "This model's maximum context length is 8192 tokens. However, you requested 8256 tokens (64 in the messages, 8192 in the completion). Please reduce the length of the messages or completion.", 8192, 8128, "ChatGPTNextWeb/NextChat#3195", context=8192, fields={"code": "context_length_exceeded", "param": "messages"}),
    CeilingRefusal("OpenAI, functions", 400, "This model's maximum context length is 4097 tokens. However, you requested 4500 tokens (300 in the messages, 105 in the functions, and 4095 in the completion). Please reduce the length of the messages, functions, or completion.", 4095, 3692, "memory", context=4097, fields={"code": "context_length_exceeded"}),
    CeilingRefusal("OpenAI, completions", 400, "This model's maximum context length is 4097 tokens, however you requested 4430 tokens (3430 in your prompt; 1000 for the completion). Please reduce your prompt; or completion length.", 1000, 667, "carlrobertoh/ProxyAI#87", context=4097),
    CeilingRefusal("vLLM, model length", 400, "max_tokens=16384 cannot be greater than max_model_len=max_total_tokens=4096. Please request fewer output tokens. (parameter=max_tokens, value=16384)", 16384, 4096, "mateaix/mateclaw#481", context=4096, of_context=True, fields={"type": "BadRequestError", "code": 400}),
    CeilingRefusal("vLLM, room", 400, "'max_tokens' or 'max_completion_tokens' is too large: 64000. This model's maximum context length is 64001 tokens and your request has 24235 input tokens (64000 > 64001 - 24235). None", 64000, 39766, "claude-code-best/claude-code#272", context=64001, fields={"type": "BadRequestError", "code": 400}),
    CeilingRefusal("vLLM, total", 400, "This model's maximum context length is 4096 tokens. However, you requested 4090 output tokens and your prompt contains 12 input tokens, for a total of 4102 tokens. Please reduce the length of the input prompt or the number of requested output tokens.", 4090, 4084, "memory", context=4096, fields={"type": "BadRequestError", "code": 400}),
    CeilingRefusal("vLLM, stopped count", 400, "You passed 98305 input tokens and requested 32768 output tokens. However, the model's context length is only 131072 tokens, resulting in a maximum input length of 98304 tokens. Please reduce the length of the input prompt. (parameter=input_tokens, value=98305)", 32768, 32767, "vllm-project/vllm, entrypoints; all reports have one input token more than fits", context=131072, at_most=True, fields={"type": "BadRequestError", "param": "input_tokens", "code": 400}),
    CeilingRefusal("SGLang", 400, "Requested token count exceeds the model's maximum context length of 202752 tokens. You requested a total of 202941 tokens: 170941 tokens from the input messages and 32000 tokens for the completion. Please reduce the number of tokens in the input messages or the completion to fit within the limit.", 32000, 31811, "anomalyco/opencode#25231", context=202752, fields={"object": "error", "type": "BadRequestError", "code": 400}),
    CeilingRefusal("TGI, Together", 422, "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096. Given: 12 `inputs` tokens and 16384 `max_new_tokens`", 16384, 4084, "huggingface/llm-vscode#94", context=4096, fields={"error_type": "validation"}),
    CeilingRefusal("TGI, answer", 422, "Input validation error: `max_new_tokens` must be <= 192. Given: 16384", 16384, 192, "huggingface/transformers#28523", lasting=True),
    CeilingRefusal("TensorRT-LLM", 400, "The sum of prompt length (12.0), query length (0) and max_tokens (16384) should not exceed max_seq_len (4096)", 16384, 4084, "NVIDIA/TensorRT-LLM#9277, which has the form for prompts", context=4096),
    CeilingRefusal("DeepSeek", 400, "Invalid max_tokens value, the valid range of max_tokens is [1, 8192]", 16384, 8192, "deepseek-ai/DeepSeek-V3#69", lasting=True, fields={"type": "invalid_request_error", "param": None, "code": "invalid_request_error"}),
    CeilingRefusal("DeepSeek, context", 400, "This model's maximum context length is 131072 tokens. However, you requested 131134 tokens (122942 in the messages, 8192 in the completion). Please reduce the length of the messages or completion.", 8192, 8130, "evalstate/fast-agent#621", context=131072, fields={"code": "invalid_request_error"}),
    CeilingRefusal("Qwen", 400, "<400> InternalError.Algo.InvalidParameter: Range of max_tokens should be [1, 8192]", 16384, 8192, "open-webui/open-webui#10507", lasting=True, fields={"code": "invalid_parameter_error", "type": "invalid_request_error"}),
    CeilingRefusal("Groq", 400, "`max_tokens` must be less than or equal to `8192`, the maximum value for `max_tokens` is less than the `context_window` for this model", 16384, 8192, "RooCodeInc/Roo-Code#5729", lasting=True, fields={"type": "invalid_request_error", "param": "max_tokens"}),
    CeilingRefusal("Groq, with the model", 400, "max_tokens for `llama-3.1-8b-instant` must be less than or equal to 8000", 16384, 8000, "skapadia3214/groq-moa#8", lasting=True, fields={"type": "invalid_request_error"}),
    CeilingRefusal("Groq, rate", 413, "Request too large for model `llama-3.3-70b-versatile` in organization `org_01kg` service tier `on_demand` on tokens per minute (TPM): Limit 8000, Requested 16588, please reduce your message size and try again. Need more tokens? Upgrade to Dev Tier today at https://console.groq.com/settings/billing", 16384, 7796, "zeeyado/koassistant.koplugin#106", fields={"type": "tokens", "code": "rate_limit_exceeded"}),
    CeilingRefusal("Doubao", 400, "The parameter `max_completion_tokens` specified in the request are not valid: integer above maximum value, expected a value <= 12288, but got 32000 instead. Request id: 0217752964393142fa50af54af66c5cfb922304bfd59ea286af93", 32000, 12288, "Gitlawb/openclaude#331", lasting=True, fields={"code": "InvalidParameter", "param": "max_completion_tokens", "type": "BadRequest"}),
    CeilingRefusal("MiMo", 400, "Param Incorrect", 1048576, 131072, "AQBot-Desktop/AQBot#93", lasting=True, fields={"type": "upstream_error", "code": "400", "param": "max_tokens is too large: 1048576. This model supports at most 131072 completion tokens, whereas you provided 1048576."}),
    CeilingRefusal("Kimi", 400, "Invalid request: Your request exceeded model token limit: 8192 (requested: 16396)", 16384, 8180, "MoonshotAI/kimi-cli#2011", fields={"type": "invalid_request_error"}),
    CeilingRefusal("Kimi, older", 400, "model max length exceeded, max length:8192", 16384, 8192, "MoonshotAI/MoonshotAI-Cookbook#18", of_context=True, context=8192),
    CeilingRefusal("Gemini, Vertex", 400, "Unable to submit request because it has a maxOutputTokens value of 16384 but the supported range is from 1 (inclusive) to 8193 (exclusive). Update the value and try again.", 16384, 8192, "memory", lasting=True, fields={"code": 400, "status": "INVALID_ARGUMENT"}),
    CeilingRefusal("Anthropic", 400, "max_tokens: 16384 > 4096, which is the maximum allowed number of output tokens for claude-3-5-sonnet-20240620", 16384, 4096, "Aider-AI/aider#992", lasting=True, fields={"type": "invalid_request_error"}),
    CeilingRefusal("Anthropic, context", 400, "input length and `max_tokens` exceed context limit: 199759 + 8192 > 200000, decrease input length or `max_tokens` and try again", 8192, 241, "continuedev/continue#6080", context=200000, fields={"type": "invalid_request_error"}),
    CeilingRefusal("OpenRouter, context", 400, "This endpoint's maximum context length is 131072 tokens. However, you requested about 140000 tokens (123616 of text input, 16384 in the output). Please reduce the length of either one, or use the \"middle-out\" transform to compress your prompt automatically.", 16384, 7456, "memory", context=131072, fields={"code": 400}),
    CeilingRefusal("OpenRouter, credits", 402, "This request requires more credits, or fewer max_tokens. You requested up to 16384 tokens, but can only afford 3919. To increase, visit https://openrouter.ai/settings/credits and upgrade to a paid account", 16384, 3919, "Taewan-P/gpt_mobile#284", lasting=True, fields={"code": 402, "metadata": {"provider_name": None}}),
    CeilingRefusal("OpenRouter, provider", 400, "Provider returned error", 16384, 4096, "anomalyco/opencode#24462 has the form", lasting=True, fields={"code": 400, "metadata": {"raw": '{"error":{"message":"max_tokens is too large: 16384. This model supports at most 4096 completion tokens, whereas you provided 16384.","param":"max_tokens"}}', "provider_name": "Azure"}}),
    CeilingRefusal("Bedrock", 400, "The maximum tokens you requested exceeds the model limit of 4096. Try again with a maximum tokens value that is lower than 4096.", 16384, 4096, "memory", lasting=True),
    CeilingRefusal("Cohere", 400, "too many tokens: max tokens must be less than or equal to 4096, the maximum output length for this model - received 16384.", 16384, 4096, "memory", lasting=True),
    CeilingRefusal("Fireworks", 400, "Requests with max_tokens > 4096 must have stream=true", 16384, 4096, "UKGovernmentBEIS/inspect_ai#3029 has the rule", lasting=True),
    CeilingRefusal("Pydantic", 422, "body.max_tokens: ensure this value is less than or equal to 1024", 16384, 1024, "pydantic 1", lasting=True),
    CeilingRefusal("Pydantic 2", 422, "body.max_tokens: Input should be less than or equal to 1,024", 16384, 1024, "pydantic 2", lasting=True),
    CeilingRefusal("llama-cpp-python", 400, "This model's maximum context length is 2048 tokens, however you requested 2060 tokens (1036 in your prompt; 1024 for the completion). Please reduce your prompt; or completion length.", 1024, 1012, "abetlen/llama-cpp-python, server/errors.py", context=2048, fields={"code": "context_length_exceeded"}),
    CeilingRefusal("llama-cpp-python, older", 500, "Requested tokens (2060) exceed context window of 2048", 1024, 1012, "rllm-team/rllm#55", context=2048, fields={"type": "internal_server_error", "code": None}),
]  # fmt: skip


class Overflow(NamedTuple):
    """A refusal of a prompt that is too long, by a server without a code for it, or with one."""

    server: str
    status: int
    text: str
    source: str
    fields: Mapping[str, Any] = NO_FIELDS


OVERFLOWS = [
    Overflow("OpenAI, code", 400, "Your input exceeds the context window of this model. Please adjust your input and try again.", "memory", {"code": "context_length_exceeded"}),
    Overflow("OpenAI, messages", 400, "This model's maximum context length is 8192 tokens. However, your messages resulted in 8202 tokens. Please reduce the length of the messages.", "dimagi/open-chat-studio#463"),
    Overflow("OpenAI, string", 400, "Invalid 'messages[1].content': string too long. Expected a string with maximum length 1048576, but got a string with length 1540820 instead.", "memory", {"code": "string_above_max_length", "param": "messages[1].content"}),
    Overflow("vLLM, tokens", 400, "This model's maximum context length is 16384 tokens. However, you requested 122946 tokens (112946 in the messages, 10000 in the completion). Please reduce the length of the messages or completion.", "vllm-project/vllm#20409", {"type": "BadRequestError", "code": 400}),
    Overflow("vLLM, decoder prompt", 400, "The decoder prompt (length 5000) is longer than the maximum model length of 4096. Make sure that `max_model_len` is no smaller than the number of text tokens.", "memory", {"type": "BadRequestError", "code": 400}),
    Overflow("vLLM, stopped count", 400, "You passed 2049 input tokens and requested 0 output tokens. However, the model's context length is only 2048 tokens, resulting in a maximum input length of 2048 tokens. Please reduce the length of the input prompt. (parameter=input_tokens, value=2049)", "vllm-project/vllm, entrypoints", {"type": "BadRequestError", "code": 400}),
    Overflow("Cohere, size", 400, "too many tokens: size limit exceeded by 11326 tokens. Try using shorter or fewer inputs. The limit for this model is 288000 tokens.", "memory"),
    Overflow("SGLang, input", 400, "The input (61709 tokens) is longer than the model's context length (40960 tokens).", "QwenLM/Qwen3#1321", {"object": "error", "type": "BadRequestError", "code": 400}),
    Overflow("SGLang, length", 400, "Input length (160062 tokens) exceeds the maximum allowed length (59862 tokens). Use a shorter input or enable --allow-auto-truncate.", "sgl-project/sglang#4048"),
    Overflow("TGI", 422, "Input validation error: `inputs` must have less than 1024 tokens. Given: 1168", "huggingface/text-generation-inference#695", {"error_type": "validation"}),
    Overflow("TensorRT-LLM", 400, "The sum of prompt length (9351.0), query length (0) should not exceed max_num_tokens (8192)", "NVIDIA/TensorRT-LLM#9277"),
    Overflow("TensorRT-LLM, Triton", 500, "Cannot process new request: Prompt length (5056) exceeds maximum sequence length (2048)", "triton-inference-server/tensorrtllm_backend#141"),
    Overflow("llama.cpp", 400, "request (8708 tokens) exceeds the available context size (8192 tokens), try increasing it", "arbs-io/github-copilot-llm-gateway#73", {"code": 400, "type": "exceed_context_size_error", "n_prompt_tokens": 8708, "n_ctx": 8192}),
    Overflow("llama.cpp, older", 500, "the request exceeds the available context size. try increasing the context size or enable context shift", "ggml-org/llama.cpp#15780", {"code": 500, "type": "server_error"}),
    Overflow("LM Studio", 400, "Trying to keep the first 15857 tokens when context the overflows. However, the model is loaded with context length of only 4096 tokens, which is not enough. Try to load the model with a larger context length, or provide a shorter input", "lmstudio-ai/lmstudio-bug-tracker#237"),
    Overflow("LM Studio, n_keep", 400, "The number of tokens to keep from the initial prompt is greater than the context length (n_keep: 10247 >= n_ctx: 4096). Try to load the model with a larger context length, or provide a shorter prompt.", "tinyhumansai/openhuman#3550"),
    Overflow("LM Studio, short", 400, "Context size has been exceeded.", "memory"),
    Overflow("Ollama", 400, "the input length exceeds the context length", "ollama/ollama, server/routes.go", {"type": "api_error"}),
    Overflow("Ollama, cloud", 400, "prompt too long; exceeded max context length by 123 tokens", "memory"),
    Overflow("Mistral", 400, "Prompt contains 40000 tokens and 0 draft tokens, too large for model with 32768 maximum context length", "memory", {"type": "invalid_request_error", "code": "3051"}),
    Overflow("xAI", 400, "This model's maximum prompt length is 131072 but the request contains 136973 tokens.", "cline/cline#3120", {"code": "Client specified an invalid argument"}),
    Overflow("Gemini", 400, "The input token count (2845475) exceeds the maximum number of tokens allowed (1048576).", "google-gemini/gemini-cli#4692", {"code": 400, "status": "INVALID_ARGUMENT"}),
    Overflow("Anthropic", 400, "prompt is too long: 202128 tokens > 200000 maximum", "stackblitz/bolt.new#1748", {"type": "invalid_request_error"}),
    Overflow("Kimi", 400, "Invalid request: Your request exceeded model token limit: 262144 (requested: 269030)", "MoonshotAI/kimi-cli#2011", {"type": "invalid_request_error"}),
    Overflow("Fireworks", 400, "The prompt is too long: 40177, model maximum context length: 32767", "fw-ai/cookbook#134", {"type": "invalid_request_error", "code": "invalid_request_error"}),
    Overflow("Qwen", 400, "<400> InternalError.Algo.InvalidParameter: Range of input length should be [1, 30720]", "QwenLM/Qwen-Agent#615", {"code": "invalid_parameter_error"}),
    Overflow("Bedrock", 400, "Input is too long for requested model.", "memory"),
    Overflow("Cohere", 400, "too many tokens: total number of tokens in the prompt cannot exceed 4081 - received 5000. Try using a shorter prompt, or enable prompt truncating.", "memory"),
    Overflow("Cerebras", 400, "Please reduce the length of the messages or completion. Current length is 8905 while limit is 8192", "memory", {"type": "invalid_request_error", "code": "context_length_exceeded"}),
    Overflow("GitHub Models", 413, "Request body too large for gpt-4o model. Max size: 8000 tokens.", "cline/cline#2115", {"code": "tokens_limit_reached"}),
    Overflow("Copilot", 400, "prompt token count of 140000 exceeds the limit of 128000", "memory", {"code": "model_max_prompt_tokens_exceeded"}),
    Overflow("MiniMax", 400, "invalid params, context window exceeds limit (2013)", "memory", {"type": "bad_request_error"}),
    Overflow("llama-cpp-python", 500, "Requested tokens (5000) exceed context window of 4096", "rllm-team/rllm#55", {"type": "internal_server_error"}),
    Overflow("LiteLLM", 400, 'litellm.ContextWindowExceededError: litellm.BadRequestError: AnthropicException - {"type":"error","error":{"type":"invalid_request_error","message":"prompt is too long: 202609 tokens > 200000 maximum"}}', "stackblitz-labs/bolt.diy#401 has the inner text", {"code": "400"}),
    Overflow("OpenRouter", 400, "Provider returned error", "anomalyco/opencode#24462 has the form", {"code": 400, "metadata": {"raw": '{"error":{"message":"prompt is too long: 202609 tokens > 200000 maximum","type":"invalid_request_error"}}'}}),
]  # fmt: skip

OTHER_REFUSALS = [
    (400, "Invalid 'messages[0].name': string too long. Expected a string with maximum length 64, but got a string with length 80 instead."),
    (400, "Invalid 'tools': array too long. Expected an array with maximum length 128, but got an array with length 200 instead."),
    (400, "Input validation error: `stop` supports up to 4 stop sequences. Given: 5"),
    (422, "body.temperature: Input should be less than or equal to 2"),
    (400, "messages.0.content.1.image.source.base64: image exceeds 5 MB maximum: 6000000 bytes > 5242880 bytes"),
    (400, "The input image is too large. The maximum size is 20 MB."),
    (400, "Tool description exceeds the maximum length of 1024 characters"),
    (400, OPENAI_TOO_LARGE),
    (400, "Could not finish the message because max_tokens or model output limit was reached. Please try again with higher max_tokens."),
    (400, "Invalid max_tokens value, the valid range of max_tokens is [1, 8192]"),
    (400, "max_tokens: 16384 > 4096, which is the maximum allowed number of output tokens for claude-3-5-sonnet-20240620"),
    (400, "Invalid value for temperature: 'the prompt is too long: 9000 tokens > 4096 maximum'"),
    (400, 'Input should be a valid number, input: "maximum context length is 5 tokens, you requested 9 tokens"'),
    (413, "Request Entity Too Large"),
    (404, "prompt is too long: 202128 tokens > 200000 maximum"),
    (400, "The model `gpt-4-32768` does not support the role of message 40000."),
]  # fmt: skip
"""Status and text of refusals that have nothing to do with the length of a prompt."""
