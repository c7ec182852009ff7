"""One request, as the policies see it: the whole body, with typed accessors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import msgspec

from policies.api.requests.parts import Message, parts_of, replace_texts, texts
from policies.api.requests.request_form import CHAT_REQUEST, Prompt, RequestForm

from .claim import Claim
from .services import Services
from .store import Standing
from .tokens import Size

LIMIT_FIELDS = ("max_tokens", "max_completion_tokens", "n_predict", "max_output_tokens", "max_new_tokens")
"""Fields that servers read as the ceiling of an answer: OpenAI's two, llama.cpp's own, and some that others accept."""
MANY_FIELDS = ("n", "best_of", "n_cmpl", "num_return_sequences")
"""Fields for the number of answers: `best_of` are generated, `n` of them are returned; `n_cmpl` is llama.cpp's own."""
RETURNED_FIELDS = tuple(field for field in MANY_FIELDS if field != "best_of")
_LIMIT_FIELD_SET, _MANY_FIELD_SET = frozenset(LIMIT_FIELDS), frozenset(MANY_FIELDS)

MAX_NOTES, MAX_NOTE_LENGTH = 16, 200
"""Notes that a call keeps, and characters of each."""
NO_HEADERS: Mapping[str, str] = MappingProxyType({})


class Caps(msgspec.Struct, frozen=True):
    """Limits in the client's request, in tokens; each can only lower a configured limit."""

    day_tokens: int | None = None
    request_tokens: int | None = None


class Call(msgspec.Struct, kw_only=True, eq=False):
    """One request in the chain. Policies may rewrite it in `admit`.

    `body` is sent upstream after admission, including fields that no policy knows.
    """

    id: str
    """The id of its reservation in the store; chosen by the sidecar, not by the client."""
    path: str
    """The route: "/v1/chat/completions", "/api/chat", ..."""
    body: dict[str, Any]
    """The whole JSON body."""
    services: Services
    """Clocks, randomness, the log. See `Services`."""
    operation: RequestForm = CHAT_REQUEST
    """The API of the request. Policies use the properties below, which are the same for all APIs."""
    tokens_each: int = 0
    """The tokens that each call of a relayed route costs, at least; 0 for all calls whose prompt can be read."""
    tenant: str = "default"
    """The tenant of the client's API key."""
    ip: str = ""
    """The client's address."""
    profile: str = ""
    """The selected profile; empty for the base chain."""
    caps: Caps = Caps()
    headers: Mapping[str, str] = NO_HEADERS
    """The client's headers, read only; names in lower case, without credentials and cookies."""
    forwarded_headers: dict[str, str] = {}
    """Client headers that are sent upstream in addition to those of the sidecar; names in lower case."""
    permitted_models: Sequence[str] | None = None
    """Patterns of the models that the client's key may use; None permits all."""
    upstream: str = ""
    """The upstream of all attempts; a policy may set it in `admit`. Empty: one that serves the model."""
    required_upstream: str = ""
    """The only upstream that has the call's stored response or conversation; it precedes `upstream` and `Retry.upstream`."""
    hidden_prompt_tokens: int = 0
    """Tokens of the prompt that only upstream has, such as an earlier response: as last reported, or an estimate."""
    state: dict[str, object] = {}
    """Data that one policy passes to another. Start each key with the policy's name: "spam.score"."""
    deadline: float | None = None
    """The time of `services.monotonic`, in seconds, by which the answer must have ended."""
    is_large: bool = False
    """Whether it has so many bytes, values, or messages and parts, that each policy gets an event-loop iteration of its own."""
    is_client_retry: bool = False
    """Whether the client's SDK marked it as a retry; such a call adds nothing to the retry budget."""
    ceiling_is_ours: bool = False
    """Whether a policy set the answer's ceiling because the client set none."""
    ceiling_was_lowered: bool = False
    """Whether a policy lowered the client's ceiling. If upstream refuses it, the sidecar adapts it."""
    ceiling_may_be_dropped: bool = False
    """Whether the policies that set the ceiling need it only as a saving, so that the request may be sent without it.

    The sidecar drops it where upstream refuses lower ceilings too. It never drops the client's own ceiling.
    """
    size: Size | None = None
    """The prompt's size as reserved; None if no policy counts tokens."""
    substituted_model: str = ""
    """The default model that was set for a client that named none; an upstream with its own model replaces it."""
    upstream_headers: Sequence[tuple[bytes, bytes]] = ()
    """Headers for the client from the answer that ends the call: upstream's request id and processing times."""
    standings: list[tuple[Claim, Standing]] = []
    """The limits of the call as the store returned them, for the response's limit headers."""
    notes: list[str] = []
    """Decisions of policies, for the record of the call. See `note`."""

    def note(self, text: str) -> None:
        """Add a decision of a policy to the call's record, such as "kept 6 of 14 messages".

        It must not quote prompts or keys. A call keeps its first 16 notes, 200 characters of each; the record has them
        without characters that are not printable. Raises `TypeError` for another type than a string.
        """
        if not isinstance(text, str):
            msg = f"call.note got a {type(text).__name__}; pass a string"
            raise TypeError(msg)
        if len(self.notes) < MAX_NOTES and text.strip():
            self.notes.append(text[:MAX_NOTE_LENGTH])

    @property
    def has_completion(self) -> bool:
        """Whether a model works for the call, so that it has a prompt and costs tokens."""
        return self.operation.has_completion

    @property
    def has_ceiling(self) -> bool:
        """Whether the answer has output tokens, whose number a ceiling limits; false for embeddings."""
        return self.operation.ceiling_field != ""

    @property
    def model(self) -> str:
        """The model's name; empty for the upstream's default."""
        name = self.body.get("model")
        return name if isinstance(name, str) else ""

    @model.setter
    def model(self, name: str) -> None:
        self.body["model"] = name

    @property
    def messages(self) -> list[Message]:
        """The conversation, oldest message first, of which policies may drop messages; empty for a call without one.

        The input of the Responses API is none: its items refer to each other. `text` has the text of all APIs.
        """
        messages: list[Message] = self.body.get(self.operation.conversation_field) or []
        return messages

    @messages.setter
    def messages(self, messages: list[Message]) -> None:
        if not (field := self.operation.conversation_field):
            msg = f"a call of the API {self.operation.name!r} has no conversation to replace"
            raise TypeError(msg)
        self.body[field] = messages

    @property
    def prompt(self) -> Prompt:
        """The prompt in the form that is common to all APIs, instructions included. See `Prompt`."""
        return self.operation.prompt(self.body)

    @property
    def user(self) -> str:
        """The end user that the client names; unique only within its tenant. A number is read as its digits."""
        name: Any = self.body
        for field in self.operation.user_path:
            name = name.get(field) if isinstance(name, dict) else None
        return name if isinstance(name, str) else str(name) if type(name) is int else ""

    @property
    def prompt_turns(self) -> int:
        """How often the model may read the prompt: once, and once more for each call of a tool that the server runs."""
        if not (field := self.operation.turns_field):
            return 1
        calls = self.body.get(field)
        return 1 + calls if type(calls) is int and calls > 0 else 1

    @property
    def stream(self) -> bool:
        """Whether a stream is requested from upstream."""
        return self.body.get("stream") is True and self.operation.can_stream

    @property
    def names_model(self) -> bool:
        """Whether the client or a policy named the model."""
        return self.model not in ("", self.substituted_model)

    @property
    def fallback_models(self) -> list[str]:
        """The models that a router upstream may fall back to, by the body's `models`."""
        others = self.body.get("models")
        return [name for name in others if isinstance(name, str)] if isinstance(others, list) else []

    @property
    def candidate_models(self) -> list[str]:
        """All models that may serve the call: its own, and the fallbacks of a router."""
        return [self.model, *self.fallback_models]

    @property
    def served_models(self) -> Sequence[str]:
        """The upstreams' names of the models that may serve the call; an empty string stands for an unknown name."""
        return self.services.names_of(self.model, self.fallback_models, substituted=not self.names_model)

    @property
    def choices_generated(self) -> int:
        """The number of answers that upstream generates, each up to the ceiling; at least 1, 0 without output tokens."""
        is_plain = self.operation is CHAT_REQUEST and _MANY_FIELD_SET.isdisjoint(self.body)  # saves 0.2 µs
        return 1 if is_plain else self._answers(MANY_FIELDS)

    @property
    def choices_returned(self) -> int:
        """The number of answers that upstream returns; of `best_of` it returns `n`."""
        is_plain = self.operation is CHAT_REQUEST and _MANY_FIELD_SET.isdisjoint(self.body)
        return 1 if is_plain else self._answers(RETURNED_FIELDS)

    def _answers(self, fields: Sequence[str]) -> int:
        form = self.operation
        if not form.ceiling_field:
            return 0
        each = 1
        if not _MANY_FIELD_SET.isdisjoint(self.body):
            many = (self.body.get(field) for field in fields)
            each = max(1, max((number for number in many if isinstance(number, int)), default=1))
        return each * self.prompt.prompts if form.answers_each_prompt else each

    @property
    def max_tokens(self) -> int | None:
        """The ceiling of one answer in tokens; the lowest if the client sends several fields.

        None without a ceiling: -1, 0 and null are none, because servers generate without a limit then.
        """
        lowest = None
        for field in _LIMIT_FIELD_SET.intersection(self.body):
            limit = self.body[field]
            if type(limit) is int and limit > 0 and (lowest is None or limit < lowest):
                lowest = limit
        return lowest

    @max_tokens.setter
    def max_tokens(self, ceiling: int) -> None:
        # Null fields stay, because some servers refuse two ceilings. All others are replaced, also a -1 beside a number.
        body, is_set, is_lower = self.body, False, True
        for field in _LIMIT_FIELD_SET.intersection(body):
            limit = body[field]
            if limit is None:
                continue
            if type(limit) is int and limit > 0:
                is_set, is_lower = True, is_lower and limit > ceiling
            body[field] = ceiling
        if not is_set and self.operation.ceiling_field:
            self.ceiling_is_ours, body[self.operation.ceiling_field] = True, ceiling
        elif is_lower:
            self.ceiling_was_lowered = True

    @property
    def parts(self) -> list[dict[str, Any]]:
        """The parts of all messages that are objects, such as images, in order, whatever the form of the content."""
        return [part for message in self.prompt.messages for part in parts_of(message) if isinstance(part, dict)]

    @property
    def text(self) -> str:
        """All text of the prompt, joined by spaces, for filters that search words."""
        return " ".join(self._pieces())

    def replace_text(self, change: Callable[[str], str]) -> None:
        """Replace each text of the prompt by `change(text)`, in all APIs alike, for filters that change words.

        Raises what *change* raises; the body is unchanged then.
        """
        form = self.operation
        changed = {field: replace_texts(self.body[field], change) for field in form.prompt_fields if field in self.body}
        self.body.update(changed)

    @property
    def characters(self) -> int:
        """The number of characters of `text`, without building it."""
        pieces = self._pieces()
        return sum(map(len, pieces)) + max(0, len(pieces) - 1)

    def _pieces(self) -> list[str]:
        return [piece for message in self.prompt.messages for piece in texts(message)]
