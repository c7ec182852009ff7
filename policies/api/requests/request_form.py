"""Where one API has the parts of a request that policies read."""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec

from .parts import Message


class Prompt(NamedTuple):
    """The prompt of a request: its messages, the number of token ids, and how many prompts are answered separately.

    A prompt that is a string, or a list of them, has one message without a role for each.
    """

    messages: list[Message]
    token_ids: int = 0
    prompts: int = 1


class RequestForm(msgspec.Struct, frozen=True, kw_only=True):
    """One API, as policies see its requests: the names of the fields that hold each part.

    Policies read a call by the properties of `Call`, which are the same for all APIs, and do not compare names.
    """

    name: str
    """The name in records: "chat", "responses", …"""
    has_completion: bool = True
    """Whether a model works for the call, so that it has a prompt and costs tokens."""
    conversation_field: str = "messages"
    """The field with messages of which the oldest may be dropped; empty for none."""
    prompt_fields: tuple[str, ...] = ("messages",)
    """The fields with the prompt: text, messages, token ids, or lists of them."""
    ceiling_field: str = "max_tokens"
    """The field in which a ceiling is set for a client that sent none; empty where answers have no output tokens."""
    user_path: tuple[str, ...] = ("user",)
    """The names of the fields that lead to the end user."""
    is_free: bool = False
    """Whether nothing is reserved for a call: policies see it, and limits do not count it."""
    answers_each_prompt: bool = False
    """Whether each prompt of a list gets answers of its own."""
    can_stream: bool = True
    """Whether `stream` has an effect."""

    def prompt(self, body: dict[str, Any]) -> Prompt:
        """Return the prompt in *body*. Called about twice per call; no text is copied."""
        if len(self.prompt_fields) == 1 and self.prompt_fields[0] == self.conversation_field:
            return Prompt(body.get(self.conversation_field) or [])
        messages: list[Message] = []
        ids, prompts = 0, 1
        for field in self.prompt_fields:
            value = body.get(field)
            if not isinstance(value, list):
                if isinstance(value, str):
                    messages.append({"content": value})
                elif value is not None:
                    messages.append({"content": [value]})
                continue
            plain = 0
            for each in value:
                if isinstance(each, dict):
                    messages.append(each)
                elif isinstance(each, str):
                    messages.append({"content": each})
                elif isinstance(each, list):
                    ids += len(each)
                else:
                    plain += 1
            ids += plain
            if self.answers_each_prompt and not plain:
                prompts = max(prompts, len(value))
        return Prompt(messages, ids, prompts)


CHAT_REQUEST = RequestForm(name="chat")
"""OpenAI's chat completions, and Chat Nest's calls, which are sent upstream as such."""
MODELS_REQUEST = RequestForm(
    name="models", has_completion=False, prompt_fields=(), conversation_field="", ceiling_field="", can_stream=False
)
"""The list of models, or the entry of one."""
