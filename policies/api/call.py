"""One request, as the policies see it: the whole body, with typed accessors over it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import msgspec

if TYPE_CHECKING:
    from .claim import Claim
    from .services import Services
    from .store import Standing
    from .tokens import Size

Operation: TypeAlias = Literal["chat", "models"]
Message: TypeAlias = dict[str, Any]

LIMIT_FIELDS = ("max_tokens", "max_completion_tokens", "n_predict", "max_output_tokens", "max_new_tokens")
"""Fields that servers take for the ceiling of an answer: OpenAI's two, llama.cpp's own, and some that others accept."""
MANY_FIELDS = ("n", "best_of", "n_cmpl", "num_return_sequences")
"""Fields that say how many answers are made: `best_of` are made, `n` of them are sent; `n_cmpl` is llama.cpp's own."""
_LIMIT, _MANY = frozenset(LIMIT_FIELDS), frozenset(MANY_FIELDS)


class Caps(msgspec.Struct, frozen=True):
    """What the client itself asked to be limited to; each only ever lowers a limit of ours."""

    day_tokens: int | None = None
    request_tokens: int | None = None


class Call(msgspec.Struct, kw_only=True, eq=False):
    """One request on its way through the chain.  Policies may rewrite it while it is being admitted.

    `body` is what goes upstream when admission ends; fields that nobody knows stay in it.
    """

    id: str
    path: str
    body: dict[str, Any]
    services: Services
    operation: Operation = "chat"
    tenant: str = "default"
    ip: str = ""
    profile: str = ""
    caps: Caps = Caps()
    headers: dict[str, str] = {}
    """Sent upstream beside our own; names in lower case."""
    deadline: float | None = None
    """The moment of `services.monotonic` at which the answer must have ended."""
    repeated: bool = False
    """The client's SDK sends it again: it earns nothing for the retry budget."""
    imposed: bool = False
    """The answer's ceiling is ours: the client set none."""
    size: Size | None = None
    """The prompt as it was when it was reserved; None where no policy counts tokens."""
    prompts: dict[str, int] = {}
    """The prompt's tokens as each budget of dollars has held them, by its name."""
    stand_in: str = ""
    """The model that was put in for a client that named none: an upstream with one of its own takes that."""
    standings: list[tuple[Claim, Standing]] = []
    """Where the limits of the call stood when the store answered: what the answer's limit headers say."""

    @property
    def model(self) -> str:
        """The model's name; empty where the upstream's own default holds."""
        name = self.body.get("model")
        return name if isinstance(name, str) else ""

    @model.setter
    def model(self, name: str) -> None:
        self.body["model"] = name

    @property
    def messages(self) -> list[Message]:
        """The conversation, oldest first; empty for a call that has none."""
        messages: list[Message] = self.body.get("messages") or []
        return messages

    @messages.setter
    def messages(self, messages: list[Message]) -> None:
        self.body["messages"] = messages

    @property
    def user(self) -> str:
        """The end user that the client names; only ever meaningful within its tenant."""
        name = self.body.get("user")
        return name if isinstance(name, str) else ""

    @property
    def stream(self) -> bool:
        """Whether upstream is asked to stream."""
        return self.body.get("stream") is True

    @property
    def names_model(self) -> bool:
        """Whether the client, or a policy, says which model it is to be."""
        return self.model not in ("", self.stand_in)

    @property
    def others(self) -> list[str]:
        """The models that a router upstream is told to fall back to."""
        others = self.body.get("models")
        return [name for name in others if isinstance(name, str)] if isinstance(others, list) else []

    @property
    def models(self) -> list[str]:
        """All models that may serve the call: its own, and those that a router is told to fall back to."""
        return [self.model, *self.others]

    @property
    def served_models(self) -> Sequence[str]:
        """What the upstreams call the models that may serve the call; an empty name stands for one that is not known yet."""
        return self.services.names_of(self.model, self.others, substituted=not self.names_model)

    @property
    def n(self) -> int:
        """How many answers are made; each may be as long as the ceiling."""
        if _MANY.isdisjoint(self.body):
            return 1
        return max((many for field in MANY_FIELDS if isinstance(many := self.body.get(field), int)), default=1)

    @property
    def shown(self) -> int:
        """How many answers are sent: of `best_of` only `n` are."""
        if _MANY.isdisjoint(self.body):
            return 1
        many = (self.body.get(field) for field in MANY_FIELDS if field != "best_of")
        return max((each for each in many if isinstance(each, int)), default=1)

    @property
    def max_tokens(self) -> int | None:
        """The ceiling of one answer in tokens: the lower one where a client sends both fields."""
        lowest = None
        if _LIMIT.isdisjoint(self.body):
            return lowest
        for field in LIMIT_FIELDS:
            limit = self.body.get(field)
            if isinstance(limit, int) and (lowest is None or limit < lowest):
                lowest = limit
        return lowest

    @max_tokens.setter
    def max_tokens(self, ceiling: int) -> None:
        body = self.body
        said = False
        if not _LIMIT.isdisjoint(body):
            for field in LIMIT_FIELDS:
                if isinstance(body.get(field), int):
                    body[field], said = ceiling, True
        if not said:
            self.imposed, body[LIMIT_FIELDS[0]] = True, ceiling

    @property
    def text(self) -> str:
        """All text of the conversation, a space between pieces: what a word filter looks at."""
        return " ".join(self._pieces())

    @property
    def characters(self) -> int:
        """How many characters `text` has, without making it."""
        pieces = self._pieces()
        return sum(map(len, pieces)) + max(0, len(pieces) - 1)

    def _pieces(self) -> list[str]:
        return [piece for message in self.messages for piece in texts(message)]


def texts(message: Message) -> list[str]:
    """Return the text pieces of one message: its content, or the text parts of it."""
    content = message.get("content")
    if isinstance(content, str):
        return [content]
    if not isinstance(content, list):
        return []
    return [part["text"] for part in content if isinstance(part, dict) and isinstance(part.get("text"), str)]
