"""The tables of cases, one for each API."""

from __future__ import annotations

from dataclasses import replace

import answers
from answers import CHAT
from apis import responses
from apis.completions import COMPLETIONS
from apis.embeddings import EMBEDDINGS
from apis.messages import MESSAGES
from apis.responses import RESPONSES
from case import (
    OVERLOADED,
    Case,
    error_in_stream,
    failure,
    last_cases,
    plain_recoveries,
    recovery,
    refusals,
    stream_failures,
)

PLAYED = (CHAT.answers,)
CHAT_CASES = (
    Case("plain", "plain", PLAYED),
    Case("plain with reasoning", "plain", (answers.reasons,)),
    Case("stream", "stream", PLAYED),
    Case("stream with usage", "stream_usage", PLAYED, shows="11"),
    Case("stream with reasoning", "stream", (answers.reasons,)),
    Case("stream with comments", "stream", (answers.comments,)),
    Case("stream of a refusal", "stream", (answers.refuses,), shows="", fails=(None, None)),
    Case("tools", "tools", PLAYED, shows="Oslo"),
    Case("tools in a stream", "tools_stream", PLAYED, shows="Oslo"),
    Case("structured output", "structured", PLAYED, shows="Ada Lovelace"),
    Case("structured output in a stream", "structured_stream", PLAYED, shows="Ada Lovelace"),
    *refusals(CHAT),
    *plain_recoveries(CHAT),
    *stream_failures(CHAT),
    *last_cases(CHAT),
)
CREATED = (RESPONSES.answers,)
FAILED = (responses.fails_after_text,)
RESPONSES_CASES = (
    Case("plain", "plain", CREATED),
    Case("plain with reasoning", "plain", (responses.reasons,)),
    Case("stream", "stream", CREATED),
    Case("stream with reasoning", "stream", (responses.reasons,)),
    Case("stream of a refusal", "stream", (responses.refuses,), shows="", fails=(None, None)),
    Case("tools", "tools", CREATED, shows="Oslo"),
    Case("tools in a stream", "tools_stream", CREATED, shows="Oslo"),
    Case("structured output", "structured", CREATED, shows="Ada Lovelace"),
    Case("structured output in a stream", "structured_stream", CREATED, shows="Ada Lovelace"),
    Case("answer that is incomplete", "incomplete", CREATED, fails=(None, None)),
    Case("stream that is incomplete", "incomplete_stream", CREATED, fails=(None, None)),
    Case("failed answer", "plain", FAILED, shows="", fails=(None, True)),
    Case("failed in a stream", "stream", FAILED, fails=(None, True)),
    *refusals(RESPONSES),
    *plain_recoveries(RESPONSES),
    *stream_failures(RESPONSES),
    *last_cases(RESPONSES),
)
"""For every client of Responses."""
RESPONSES_SDK_CASES = (
    Case("custom tool", "custom_tool", CREATED, shows="print(1)"),
    Case("custom tool in a stream", "custom_tool_stream", CREATED, shows="print(1)"),
    Case("previous response", "previous", CREATED, shows="resp_"),
    Case("unknown previous response", "previous_missing", CREATED, shows="not found", fails=(True, True)),
    Case("stored response", "stored", CREATED, shows="deleted"),
    Case("unknown stored response", "stored_missing", CREATED, shows="not found", fails=(True, True)),
    Case("cancel of a stored response", "cancel_stored", CREATED, shows="Cannot cancel", fails=(True, True)),
    Case("count of input tokens", "input_tokens", CREATED, shows="11"),
    *RESPONSES_CASES,
)
"""For OpenAI's own SDKs."""
COMPLETED = (COMPLETIONS.answers,)
COMPLETIONS_CASES = (
    Case("plain", "plain", COMPLETED),
    Case("stream", "stream", COMPLETED),
    *refusals(COMPLETIONS),
    *plain_recoveries(COMPLETIONS),
    *stream_failures(COMPLETIONS),
    *last_cases(COMPLETIONS),
)
"""For every client of completions."""
COMPLETIONS_SDK_CASES = (
    Case("stream with usage", "stream_usage", COMPLETED, shows="11"),
    Case("several prompts", "several_prompts", COMPLETED),
    Case("token ids", "token_ids", COMPLETED),
    Case("lists of token ids in a stream", "token_lists_stream", COMPLETED),
    Case("choices, best of, log probabilities, echo", "choices", COMPLETED, shows="Say hello"),
    Case("ceiling", "ceiling", COMPLETED, shows="length"),
    *COMPLETIONS_CASES,
)
"""For OpenAI's own SDKs."""
EMBEDDED = (EMBEDDINGS.answers,)
UNAVAILABLE = failure(EMBEDDINGS, "unavailable to the end", 503, OVERLOADED)
EMBEDDINGS_CASES = (
    Case("plain", "plain", EMBEDDED, shows="0.25"),
    Case("several inputs", "several", EMBEDDED, shows="0.25"),
    *refusals(EMBEDDINGS),
    *(replace(case, shows="0.25") for case in plain_recoveries(EMBEDDINGS)),
    UNAVAILABLE,
)
"""For every client of embeddings."""
EMBEDDINGS_SDK_CASES = (
    Case("token ids", "token_ids", EMBEDDED, shows="0.25"),
    Case("lists of token ids", "token_lists", EMBEDDED, shows="0.25"),
    Case("floats", "floats", EMBEDDED, shows="0.25"),
    Case("dimensions", "dimensions", EMBEDDED, shows="0.25"),
    *EMBEDDINGS_CASES,
)
"""For OpenAI's own SDKs."""
SENT = (MESSAGES.answers,)
MESSAGES_CASES = (
    Case("plain", "plain", SENT),
    Case("plain with thinking", "thinking", SENT),
    Case("stream", "stream", SENT),
    Case("stream with thinking", "thinking_stream", SENT),
    Case("tools", "tools", SENT, shows="Oslo"),
    Case("tools in a stream", "tools_stream", SENT, shows="Oslo"),
    Case("ceiling", "ceiling", SENT, shows="max_tokens"),
    Case("count of tokens", "count_tokens", SENT, shows="19"),
    recovery(MESSAGES, "overloaded, then a stream", "stream", 529, OVERLOADED),
    *refusals(MESSAGES),
    *plain_recoveries(MESSAGES),
    *stream_failures(MESSAGES),
    *last_cases(MESSAGES),
)
CLAUDE_CODE_CASES = (
    Case("start", "start", SENT, shows="200"),
    Case("count of tokens", "count_tokens", SENT, shows="19"),
    Case("stream", "stream", SENT),
    Case("tools in a stream", "tools_stream", SENT, shows="Oslo"),
    error_in_stream(MESSAGES),
)
"""For the requests of Claude Code."""
