"""The data routes: Chat Nest, the APIs that pass the whole chain, and models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from policies.api.call import Call
from policies.api.requests.request_form import MODELS_REQUEST
from policies.engine.chain import Chain
from sidecar.wire.operations.chat_completions import CHAT_COMPLETIONS
from sidecar.wire.operations.chat_nest import CHAT_NEST
from sidecar.wire.operations.messages import COUNT_TOKENS
from sidecar.wire.operations.models import ENCODED_SLASH_STATE, MODEL_ROUTE, MODELS_PATH, model_id
from sidecar.wire.operations.operation import PASSED_QUERY_STATE
from sidecar.wire.request.chat_nest_request import chat_nest_caps, chat_nest_messages, chat_nest_profile, system_prompt
from sidecar.wire.request.json_body import BadRequest
from sidecar.wire.request.known_fields import CLIENT_FIELDS_STATE, DocumentedPart

from .client_errors import not_found, too_many_counts
from .ownership.continuation import admitted
from .request import PROFILE_HEADER, IncomingRequest, RequestRefused, check_json, in_steps, read_object
from .response import ChatNestResponse, ClientResponse, JSONResponse, OpenAIResponse
from .route import CHAT_PATH, Route

if TYPE_CHECKING:
    from sidecar.wire.operations.operation import Operation
    from sidecar.wire.request.documented_fields import ForwardedFields

    from .request_record import RequestTrail
    from .services import RouteServices

SCHEMA_HEADER = b"x-event-schema"
MANY_ITEMS = 1_000
"""Messages and their parts from which on a call is large: each policy gets an event-loop iteration of its own."""
MAX_TENANT_COUNTS, MAX_COUNTS = 16, 64
"""Requests for a number of tokens that run at the same time: of one tenant, and in the process."""
NO_MODEL_ID = ": no model has such an id."


class ChatRoute(Route):
    """`POST /api/chat`: a Chat Nest request, answered by Chat Nest events."""

    path = CHAT_PATH
    operation = CHAT_NEST

    async def prepare(self, request: IncomingRequest) -> tuple[Call, Chain, ClientResponse]:
        """See `Route`."""
        settings = self.services.settings.server
        check_json(request.headers)
        fields, is_large = await read_object(
            request, settings.chat_max_body, self.large_inflated, self.services.buffered
        )
        messages = chat_nest_messages(fields, settings.chat_roles)
        prompt = system_prompt(fields)
        if prompt and settings.chat_system_prompt == "use":
            messages.insert(0, {"role": "system", "content": prompt})
        profile = request.access.chat_profile(chat_nest_profile(fields))
        body: dict[str, Any] = {"messages": messages, "stream": True}
        if model := self.services.default_model:
            body["model"] = model
        if profile.temperature is not None:
            body["temperature"] = profile.temperature
        call = self.call(
            request,
            body,
            profile=profile.name,
            caps=chat_nest_caps(fields),
            substituted_model=model,
            is_large=is_large or len(messages) > MANY_ITEMS,
        )
        return call, self.services.chains[profile.owner, profile.name], self.response(ChatNestResponse, request)


class OperationRoute(Route):
    """`POST` to the path of one API: its request passes the whole chain and is answered in the form of the API.

    Chat completions are answered by Chat Nest events where the client asks for them.
    """

    def __init__(self, services: RouteServices, operation: Operation = CHAT_COMPLETIONS) -> None:
        self.path, self.operation = operation.path, operation
        super().__init__(services)
        self._known_upstreams = services.settings.known_upstreams

    async def prepare(self, request: IncomingRequest) -> tuple[Call, Chain, ClientResponse]:
        """See `Route`."""
        check_json(request.headers)
        services = self.services
        operation, limit = self.operation, services.settings.server.max_body
        body, is_large = await read_object(
            request, limit, self.large_inflated, services.buffered, operation.token_id_fields
        )
        items = await in_steps(operation.check_steps(body)) if is_large else operation.check(body)
        note = ""
        if self._known_upstreams is not False or request.access.fields == "known":
            body, note = self._forwarded(body, request.access.fields)
        access = request.access
        has_base = PROFILE_HEADER not in request.headers and access.allowed is None
        profile = access.base if has_base else request.profile
        call = self.call(
            request,
            body,
            operation=operation.request,
            profile=profile.name,
            is_large=is_large or items > MANY_ITEMS,
        )
        if note:
            call.note(note)
        if self._known_upstreams is None:
            call.state[CLIENT_FIELDS_STATE] = dict(body)
        if operation.passed_query and request.scope["query_string"].decode("latin-1") == operation.passed_query:
            call.state[PASSED_QUERY_STATE] = operation.passed_query
        if not call.model and (model := self.services.default_model):
            call.model = call.substituted_model = model
        form: type[ClientResponse] = OpenAIResponse if call.stream else JSONResponse
        if SCHEMA_HEADER in request.headers and operation.has_chat_nest_events and _wants_chat_nest(request.headers):
            if call.choices_generated > 1:
                msg = "'n' must be 1 for Chat Nest events: they have no choice index."
                raise BadRequest(msg, "n")
            body["stream"] = True
            form = ChatNestResponse
        response = self.response(form, request)
        if operation.stores_answers:
            response.last_lease = await admitted(self.services.owners, call)
        return call, self.services.chains[profile.owner, profile.name], response

    def _forwarded(self, body: dict[str, Any], fields: ForwardedFields) -> tuple[dict[str, Any], str]:
        """Return the fields of *body* that are forwarded by the *fields* of the key and of the upstreams, and a note.

        Where only some upstreams have `fields = "known"`, all fields are, and each attempt drops its own.
        """
        part = DocumentedPart(body, fields=self.operation.fields)
        return (body, "") if fields == "any" and self._known_upstreams is None else (part.body, part.note())


class TokenCountRoute(OperationRoute):
    """`POST /v1/messages/count_tokens`: upstream counts the tokens of a prompt; no limit counts the call.

    So that it is no free load, each tenant, and the process, has a limit of counts that run at the same time.
    """

    def __init__(self, services: RouteServices) -> None:
        super().__init__(services, COUNT_TOKENS)
        self._running: dict[str, int] = {}

    async def _serve(
        self, request: IncomingRequest, call: Call, chain: Chain, response: ClientResponse, trail: RequestTrail
    ) -> None:
        running, tenant = self._running, call.tenant
        own = running.get(tenant, 0)
        if own >= MAX_TENANT_COUNTS or sum(running.values()) >= MAX_COUNTS:
            trail.error = too_many_counts(MAX_TENANT_COUNTS)
            self._refuse(request.connection, trail.error, trail.request_id)
            return
        running[tenant] = own + 1
        try:
            await super()._serve(request, call, chain, response, trail)
        finally:
            if running[tenant] == 1:
                del running[tenant]
            else:
                running[tenant] -= 1


class ModelsRoute(Route):
    """`GET /v1/models`: upstream's list, under the same limits of requests."""

    path = MODELS_PATH
    method = "GET"

    async def prepare(self, request: IncomingRequest) -> tuple[Call, Chain, ClientResponse]:
        """See `Route`."""
        profile = request.profile
        call = self.call(request, {}, operation=MODELS_REQUEST, profile=profile.name)
        return call, self.services.chains[profile.owner, profile.name], self.response(JSONResponse, request)


class ModelRoute(ModelsRoute):
    """`GET /v1/models/{id}`: upstream's entry of one model, under the same limits of requests."""

    path = MODEL_ROUTE

    async def prepare(self, request: IncomingRequest) -> tuple[Call, Chain, ClientResponse]:
        """See `Route`."""
        scope = request.scope
        if (name := model_id(scope["path"])) is None:
            raise RequestRefused(not_found(scope["path"], NO_MODEL_ID))
        call, chain, response = await super().prepare(request)
        call.model = name
        if b"%2f" in (scope.get("raw_path") or b"").lower():
            call.state[ENCODED_SLASH_STATE] = True
        return call, chain, response


def _wants_chat_nest(headers: dict[bytes, bytes]) -> bool:
    schema = headers.get(SCHEMA_HEADER, b"").strip().lower()
    if schema not in (b"", b"chat-nest"):
        msg = "'x-event-schema' must be 'chat-nest', or left out for OpenAI's own events."
        raise BadRequest(msg, "x-event-schema")
    return schema == b"chat-nest"
