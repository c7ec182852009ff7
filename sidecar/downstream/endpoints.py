"""The data routes: Chat Nest, OpenAI chat completions, and models."""

from __future__ import annotations

from typing import Any

from policies.api.call import Call
from policies.engine.chain import Chain
from sidecar.wire.chat_nest_request import chat_nest_caps, chat_nest_messages, chat_nest_profile, system_prompt
from sidecar.wire.json_body import BadRequest
from sidecar.wire.openai_request import check_openai

from .request import IncomingRequest, _object, check_json
from .response import Answer, ChatNestAnswer, JSONAnswer, OpenAIStream
from .route import CHAT, COMPLETIONS, MODELS, Route

SCHEMA_HEADER = b"x-event-schema"


PROFILE_HEADER = b"x-profile"


class ChatRoute(Route):
    """`POST /api/chat`: a Chat Nest request, answered by Chat Nest events."""

    path = CHAT

    async def prepare(self, asked: IncomingRequest) -> tuple[Call, Chain, Answer]:
        """See `Route`."""
        settings = self.services.settings.server
        check_json(asked.headers)
        said = await _object(asked, settings.chat_max_body)
        messages = chat_nest_messages(said, settings.chat_roles)
        prompt = system_prompt(said)
        if prompt and settings.chat_system_prompt == "use":
            messages.insert(0, {"role": "system", "content": prompt})
        profile = asked.access.chat_profile(chat_nest_profile(said))
        body: dict[str, Any] = {"messages": messages, "stream": True}
        if model := self.services.default_model:
            body["model"] = model
        if profile.temperature is not None:
            body["temperature"] = profile.temperature
        call = self.call(asked, body, profile=profile.name, caps=chat_nest_caps(said), substituted_model=model)
        return call, self.services.chains[profile.owner, profile.name], self._answer(ChatNestAnswer, asked)


class CompletionsRoute(Route):
    """`POST /v1/chat/completions`: an OpenAI request, answered as OpenAI would, or by Chat Nest events."""

    path = COMPLETIONS

    async def prepare(self, asked: IncomingRequest) -> tuple[Call, Chain, Answer]:
        """See `Route`."""
        check_json(asked.headers)
        body = await _object(asked, self.services.settings.server.max_body)
        check_openai(body)
        named = asked.headers.get(PROFILE_HEADER)
        access = asked.access
        plain = named is None and access.allowed is None
        profile = access.base if plain else access.profile((named or b"").decode("latin-1"))
        call = self.call(asked, body, profile=profile.name)
        if not call.model and (model := self.services.default_model):
            call.model = call.substituted_model = model
        form: type[Answer] = OpenAIStream if call.stream else JSONAnswer
        if SCHEMA_HEADER in asked.headers and _wants_chat_nest(asked.headers):
            if call.choices_generated > 1:
                msg = "'n' must be 1 where the answer is Chat Nest events: they tell no answers apart."
                raise BadRequest(msg, "n")
            body["stream"] = True
            form = ChatNestAnswer
        return call, self.services.chains[profile.owner, profile.name], self._answer(form, asked)


class ModelsRoute(Route):
    """`GET /v1/models`: upstream's list, under the same limits of requests."""

    path = MODELS
    method = "GET"

    async def prepare(self, asked: IncomingRequest) -> tuple[Call, Chain, Answer]:
        """See `Route`."""
        profile = asked.access.profile(asked.headers.get(PROFILE_HEADER, b"").decode("latin-1"))
        call = self.call(asked, {}, operation="models", profile=profile.name)
        return call, self.services.chains[profile.owner, profile.name], self._answer(JSONAnswer, asked)


def _wants_chat_nest(headers: dict[bytes, bytes]) -> bool:
    schema = headers.get(SCHEMA_HEADER, b"").strip().lower()
    if schema not in (b"", b"chat-nest"):
        msg = "'x-event-schema' must be 'chat-nest', or left out for OpenAI's own events."
        raise BadRequest(msg, "x-event-schema")
    return schema == b"chat-nest"
