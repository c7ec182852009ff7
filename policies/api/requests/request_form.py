"""Where one API has the parts of a request that policies read."""

from __future__ import annotations

from typing import Any

import msgspec

from .parts import Message


class Prompt(msgspec.Struct, frozen=True, gc=False):
    """The prompt of a request: its messages, the number of token ids, and how many prompts are answered separately.

    A prompt that is a string, or a list of them, has one message without a role for each. Token ids that the sidecar has not
    decoded (`msgspec.Raw`) are counted by their commas.
    """

    messages: list[Message]
    token_ids: int = 0
    prompts: int = 1
    longest_ids: int = 0
    """The number of token ids of the longest prompt that consists of them."""
    repeated: int = 0
    """Bytes, as JSON, of text that is read once more for each further prompt of a list: one `suffix` belongs to all."""


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
    parts_field: str = ""
    """The field of the prompt whose list holds the parts of one message, instead of messages; empty for none."""
    ceiling_field: str = "max_tokens"
    """The field in which a ceiling is set for a client that sent none; empty where answers have no output tokens."""
    user_path: tuple[str, ...] = ("user",)
    """The names of the fields that lead to the end user."""
    is_free: bool = False
    """Whether nothing is reserved for a call: policies see it, and limits do not count it."""
    answers_each_prompt: bool = False
    """Whether each prompt of a list gets answers of its own."""
    turns_field: str = ""
    """The field with the most calls of the server's own tools; each of them sends the prompt to the model again."""
    frames_messages: bool = True
    """Whether a chat template puts a frame around each message of the prompt; false for plain text."""
    can_stream: bool = True
    """Whether `stream` has an effect."""
    is_relayed: bool = False
    """Whether the body is relayed as bytes, so that only `model` and `user` of it are known."""

    def prompt(self, body: dict[str, Any]) -> Prompt:
        """Return the prompt in *body*. Called about twice per call; no text is copied."""
        if len(self.prompt_fields) == 1 and self.prompt_fields[0] == self.conversation_field:
            return Prompt(body.get(self.conversation_field) or [])
        found = _Found(are_messages=self.frames_messages)
        for field in self.prompt_fields:
            value = body.get(field)
            if isinstance(value, list) and field == self.parts_field:
                found.messages.append({"content": value})
            elif isinstance(value, list):
                found.take_list(value)
            elif isinstance(value, msgspec.Raw):
                found.take_ids(bytes(value))
            elif value is not None:
                found.messages.append({"content": value if isinstance(value, str) else [value]})
        if not self.answers_each_prompt:
            return Prompt(found.messages, found.ids, 1, found.longest)
        shared = (value for field in self.prompt_fields[1:] if (value := body.get(field)) and found.prompts > 1)
        repeated = (found.prompts - 1) * sum(len(msgspec.json.encode(value)) for value in shared)
        return Prompt(found.messages, found.ids, found.prompts, found.longest, repeated)


class _Found:
    """Messages and token ids of a prompt that is being read."""

    __slots__ = ("_are_messages", "ids", "longest", "messages", "prompts")

    def __init__(self, *, are_messages: bool) -> None:
        self._are_messages = are_messages
        self.messages: list[Message] = []
        self.ids = self.longest = 0
        self.prompts = 1

    def take_list(self, value: list[Any]) -> None:
        """Take a list of messages, of prompts, or of token ids, which may be mixed (llama.cpp)."""
        plain = 0
        for each in value:
            if isinstance(each, dict):
                self.messages.append(each if self._are_messages else {"content": [each]})
            elif isinstance(each, str):
                self.messages.append({"content": each})
            elif isinstance(each, list):
                self._add(len(each))
            else:
                plain += 1
        self._add(plain)
        if not plain:
            self.prompts = max(self.prompts, len(value))

    def take_ids(self, written: bytes) -> None:
        """Take token ids, or lists of them, that are not decoded. A comma is in front of each id but the first."""
        first = 1
        for ids in written.split(b"]"):
            self._add(ids.count(b",") + first)
            first = 0
        self.prompts = max(self.prompts, written.count(b"[") - 1)

    def _add(self, ids: int) -> None:
        self.ids += ids
        self.longest = max(self.longest, ids)


CHAT_REQUEST = RequestForm(name="chat")
"""OpenAI's chat completions, and Chat Nest's calls, which are sent upstream as such."""
MODELS_REQUEST = RequestForm(
    name="models", has_completion=False, prompt_fields=(), conversation_field="", ceiling_field="", can_stream=False
)
"""The list of models, or the entry of one."""
STORED_REQUEST = RequestForm(
    name="stored", has_completion=False, prompt_fields=(), conversation_field="", ceiling_field="", can_stream=False
)
"""Stored responses and conversations: no model works for them."""
RELAYED_REQUEST = RequestForm(
    name="passthrough",
    has_completion=False,
    prompt_fields=(),
    conversation_field="",
    ceiling_field="",
    can_stream=False,
    is_relayed=True,
)
"""A route that is relayed and generates nothing."""
PRICED_RELAY_REQUEST = msgspec.structs.replace(RELAYED_REQUEST, has_completion=True)
"""A route that is relayed and may generate, so that each call costs `Call.tokens_each`."""
