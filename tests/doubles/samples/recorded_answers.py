"""Answers recorded from llama.cpp's own server: the body of each as it was, in `recorded/llama_cpp`.

Source: recorded from the server in xllamacpp 2026.10.11549 (llama.cpp b11549) with the model that `tests/real_engine/tiny_model.py`
writes, a context of 512 tokens, and a prompt of one word. Names end with `.sse` for streams.

What differs from OpenAI and Anthropic:

- Events of Responses have no `sequence_number` and no `output_index`; an answer that ended at its ceiling is `completed`;
  usage has no `output_tokens_details`; `timings` stands beside the response.
- Usage of completions with `n` or with several prompts is that of one choice alone.
- Completions put the usage into the chunk with the finish, also if the client did not ask for it.
- Completions and Messages report the prompt without cached tokens only in `timings` and in `input_tokens`, respectively.
- `/v1/messages` answers errors in OpenAI's envelope, and accepts requests without `max_tokens`.
- `/v1/embeddings` answers 500 to an input over the batch size, and 501 without `--embeddings`.
- `previous_response_id` is 400; `GET /v1/responses/{id}` is 404; `HEAD /` is 415.
"""

from __future__ import annotations

from pathlib import Path

LLAMA_CPP: dict[str, bytes] = {
    path.name: path.read_bytes() for path in sorted((Path(__file__).parent / "recorded" / "llama_cpp").iterdir())
}
"""Bodies by the name of their file."""
ERROR_STATUS: dict[str, int] = {
    "completions_overflow.json": 400,
    "embeddings_overflow.json": 500,
    "embeddings_refused.json": 501,
    "messages_overflow.json": 400,
    "responses_overflow.json": 400,
    "responses_previous_id.json": 400,
}
"""Status of the error answers; all others were 200."""
