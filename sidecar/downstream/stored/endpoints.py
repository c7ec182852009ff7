"""The routes of stored responses and conversations. They cost requests and no tokens, and serve each tenant its own objects."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import msgspec

from policies.api.lease import Ending, Lease
from policies.api.requests.request_form import STORED_REQUEST
from policies.api.store import StoreDown
from sidecar.config.access import Forbidden
from sidecar.downstream.client_errors import compaction_refused, method_not_allowed, not_found
from sidecar.downstream.ownership.continuation import check_references
from sidecar.downstream.ownership.owners import NotOwned, OwnersUnavailable
from sidecar.downstream.request import IncomingRequest, RequestRefused, check_json, read_object
from sidecar.downstream.response import ClientResponse, JSONResponse
from sidecar.downstream.route import Route
from sidecar.wire.request.json_body import BadRequest
from sidecar.wire.request.openai_request import MAX_MODEL_ID_LENGTH
from sidecar.wire.stored.created import CREATED_STATE, CreatedIds
from sidecar.wire.stored.paths import (
    COMPACT_PATH,
    CONVERSATION_ROUTE,
    CONVERSATIONS_PATH,
    INPUT_TOKENS_PATH,
    ITEMS_ROUTE,
    PLAIN_REQUEST_STATE,
    RESPONSE_ROUTE,
    STORED_PATHS,
    PlainRequest,
    ids_in,
    passed_query,
)
from sidecar.wire.stored.references import ITEMS_FIELD, references_of

if TYPE_CHECKING:
    from policies.api.call import Call
    from policies.api.lease import Outcome
    from policies.engine.chain import Chain
    from sidecar.downstream.ownership.owners import ResponseOwners, StoredObject
    from sidecar.downstream.services import RouteServices
    from sidecar.wire.stored.references import StoredKind

INVALID_ID = ": no stored object has such an id."


class StoredRoute(Route):
    """One route of `STORED_PATHS`: a subclass has its path."""

    def __init__(self, services: RouteServices) -> None:
        super().__init__(services)
        self._stored = STORED_PATHS[self.path]

    def _check_open(self, method: str) -> None:
        if method not in self._stored.methods:
            raise RequestRefused(method_not_allowed(", ".join(self._stored.methods)))
        super()._check_open(self.method)

    async def prepare(self, request: IncomingRequest) -> tuple[Call, Chain, ClientResponse]:
        """See `Route`."""
        scope, access, owners = request.scope, request.access, self.services.owners
        name: str = scope["method"]
        method, path = self._stored.methods[name], scope["path"]
        ids = () if "{" not in self.path else ids_in(path)
        if ids is None:
            raise RequestRefused(not_found(path, INVALID_ID))
        query = passed_query(scope.get("query_string", b""), method.parameters)
        body: dict[str, Any] = {}
        if method.fields is not None:
            check_json(request.headers)
            sent, _ = await read_object(
                request, self.services.settings.server.max_body, self.large_inflated, self.services.buffered
            )
            body = {field: value for field, value in sent.items() if field in method.fields}
        profile = request.profile
        call = self.call(request, body, operation=STORED_REQUEST, profile=profile.name)
        has_model = self.path == INPUT_TOKENS_PATH
        if has_model:
            self._settle_model(call)
            if access.models is not None and not call.model:
                msg = "This key may not use a model that the call does not name."
                raise Forbidden(msg, "model")
        stored = await _bound(owners, call, self._stored.kind, ids)
        call.state[PLAIN_REQUEST_STATE] = PlainRequest(
            name,
            _upstream_path(self.path, ids),
            self.path.removeprefix("/v1"),
            ids[0] if ids else "",
            query,
            has_body=method.fields is not None,
            has_model=has_model,
        )
        response = self.response(JSONResponse, request)
        response.last_lease = _lease(owners, call, name, ids, stored)
        return call, self.services.chains[profile.owner, profile.name], response

    def _settle_model(self, call: Call) -> None:
        """Name the model whose tokens are counted: the default one, if the client names none."""
        model = call.body.get("model")
        if model is not None and (not isinstance(model, str) or len(model) > MAX_MODEL_ID_LENGTH or "\0" in model):
            msg = f"'model' must be a string of at most {MAX_MODEL_ID_LENGTH} characters, without NUL."
            raise BadRequest(msg, "model")
        if not model and (default := self.services.default_model):
            call.model = call.substituted_model = default


class CompactRoute(Route):
    """`POST /v1/responses/compact`, which is refused."""

    path = COMPACT_PATH

    async def prepare(self, request: IncomingRequest) -> tuple[Call, Chain, ClientResponse]:  # of the parent
        """Raise `RequestRefused`."""
        raise RequestRefused(compaction_refused())


def stored_routes() -> dict[str, type[Route]]:
    """Return the class of each route, by its path as calls and records name it."""
    found: dict[str, type[Route]] = {
        path: type("StoredRoute", (StoredRoute,), {"path": path, "__doc__": StoredRoute.__doc__})
        for path in STORED_PATHS
    }
    found[COMPACT_PATH] = CompactRoute
    return found


async def _bound(owners: ResponseOwners, call: Call, kind: StoredKind, ids: tuple[str, ...]) -> StoredObject | None:
    """Return the object that the first of *ids* names, and bind *call* to its upstream; None if it is unknown, or has no id.

    Raises `NotOwned`, `OwnersUnavailable` and `BadRequest` as `continuation.admitted` does.
    """
    stored = None
    if ids:
        try:
            stored = await owners.owned(call.tenant, (kind, ids[0]))
        except StoreDown as error:
            if owners.keyed:
                raise OwnersUnavailable from error
        else:
            if stored is None and owners.keyed:
                raise NotOwned(kind, ids[0], in_path=True)
    if stored is not None:
        call.required_upstream = stored.upstream
    is_input = call.path == INPUT_TOKENS_PATH
    await check_references(owners, call, references_of(call.body, "input" if is_input else ITEMS_FIELD))
    return stored


def _upstream_path(route: str, ids: tuple[str, ...]) -> str:
    """Return the path below the base URL, from *route* and the checked *ids*."""
    path = route.removeprefix("/v1")
    for name, stored_id in zip(("{id}", "{item}"), ids, strict=False):
        path = path.replace(name, quote(stored_id, safe=""))
    return path


def _lease(
    owners: ResponseOwners, call: Call, method: str, ids: tuple[str, ...], stored: StoredObject | None
) -> Lease | None:
    """Return what is done when the request has succeeded; None for nothing."""
    if method == "DELETE" and call.path in (RESPONSE_ROUTE, CONVERSATION_ROUTE):
        return _ForgetLease(owners, "response" if call.path == RESPONSE_ROUTE else "conversation", ids[0])
    if method == "POST" and call.path == CONVERSATIONS_PATH:
        call.state[CREATED_STATE] = created = CreatedIds()
        return _ConversationLease(owners, call, created, 0)
    if method == "POST" and call.path == ITEMS_ROUTE and stored is not None:
        return _ConversationLease(owners, call, CreatedIds(response=ids[0]), stored.tokens)
    return None


class _ForgetLease(Lease):
    """Drops the entry of an object that upstream has deleted."""

    __slots__ = ("_kind", "_owners", "_stored_id")

    def __init__(self, owners: ResponseOwners, kind: StoredKind, stored_id: str) -> None:
        self._owners, self._kind, self._stored_id = owners, kind, stored_id

    async def settle(self, outcome: Outcome) -> None:
        """Drop the entry. While the store is down it stays; upstream answers that the object is gone."""
        if outcome.ending is Ending.DONE:
            await self._owners.forget([(self._kind, self._stored_id)])


class _ConversationLease(Lease):
    """Keeps the owner of a conversation that was created or got items.

    Each byte of the items counts as a token, which no tokenizer exceeds, until the first answer reports the real number.
    """

    __slots__ = ("_call", "_created", "_owners", "_tokens")

    def __init__(self, owners: ResponseOwners, call: Call, created: CreatedIds, tokens: int) -> None:
        self._owners, self._call, self._created, self._tokens = owners, call, created, tokens

    async def settle(self, outcome: Outcome) -> None:
        """Keep the owner, if upstream has accepted the items."""
        if outcome.ending is not Ending.DONE or not (stored_id := self._created.response):
            return
        items = self._call.body.get(ITEMS_FIELD)
        added = len(msgspec.json.encode(items)) if items else 0
        objects: dict[tuple[StoredKind, str], int] = {("conversation", stored_id): self._tokens + added}
        await self._owners.remember(self._call.tenant, outcome.upstream, objects, conversation_before=self._tokens)
