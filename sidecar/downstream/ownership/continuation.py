"""Calls that continue what upstream has stored, and whose answers are stored in turn.

Before the chain, `admitted` checks that the earlier objects belong to the tenant. It binds the call to the upstream that
has them, and sets the tokens of their hidden prompt. At the end of the call its lease keeps the owner of the answer. If the client leaves in
the middle of a stream, the response belongs to its tenant all the same, with the tokens that are known. If the store is
down then, the answer is sent, and later requests that refer to it are refused where API keys exist.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from policies.api.lease import Lease
from policies.api.prompt_size import size_of
from policies.api.store import StoreDown
from policies.api.tokens import BOUND_MESSAGE_TOKENS
from sidecar.wire.request.json_body import BadRequest
from sidecar.wire.stored.created import CREATED_STATE, CreatedIds
from sidecar.wire.stored.references import References, is_stored_id, references_of

from .owners import NotOwned, OwnersUnavailable

if TYPE_CHECKING:
    from policies.api.call import Call
    from policies.api.lease import Outcome

    from .owners import ResponseOwners, StoredName, StoredObject

CHOSEN_ID_FIELD = "request_id"
"""The field in which vLLM takes the id of the new response (`ResponsesRequest`)."""
UNKNOWN_PROMPT_TOKENS = 32_768
"""Hidden prompt of a call that continues an unknown response, where the context length of its model is not known.

Only without API keys: with them such a call is refused. The excess of a longer conversation is charged as debt.
"""


def _unknown_context(_: str) -> int | None:
    return None


async def check_references(owners: ResponseOwners, call: Call, references: References) -> list[StoredObject | None]:
    """Return the stored objects that *call* refers to, None for an unknown one, and bind it to the upstream that has them.

    Where clients have API keys, raises `NotOwned` for an unknown object, and `OwnersUnavailable` while the store is down.
    """
    names: Sequence[StoredName] = references.named
    if not names:
        return []
    try:
        found = await owners.all_owned(call.tenant, names)
    except StoreDown as error:
        if owners.keyed:
            raise OwnersUnavailable from error
        found = [None] * len(names)
    for name, stored in zip(names, found, strict=True):
        if stored is None and owners.keyed:
            raise NotOwned(*name)
        if stored is not None and not call.required_upstream:
            call.required_upstream = stored.upstream
    return found


async def admitted(
    owners: ResponseOwners, call: Call, *, context_of: Callable[[str], int | None] = _unknown_context
) -> Lease | None:
    """Check what the body of *call* refers to; return the lease that keeps the owner of its answer, None if it keeps none.

    The reader of the answer passes the first and the terminal event, or the whole answer, to `created_by(call)`.
    *context_of* returns the context length of a model in tokens, None if it is unknown.

    Raises `BadRequest` for invalid ids, and for an id of another tenant that the client chooses for its own response; `NotOwned` and `OwnersUnavailable` as `check_references` does.
    """
    references = references_of(call.body)
    await _check_chosen_id(owners, call)
    found = await check_references(owners, call, references)
    if references.compared:
        found.pop()  # its owner is checked, and it is no part of the prompt
    call.hidden_prompt_tokens = _hidden_tokens(found)
    if None in found:
        call.hidden_prompt_tokens += context_of(call.model) or UNKNOWN_PROMPT_TOKENS
    if call.body.get("store") is False and not references.conversation:
        return None
    call.state[CREATED_STATE] = created = CreatedIds(conversation=references.conversation)
    before = next(
        (
            each.tokens
            for (kind, _), each in zip(references.named, found, strict=False)
            if each is not None and kind == "conversation"
        ),
        0,
    )
    return _StoredLease(owners, call, created, before)


async def _check_chosen_id(owners: ResponseOwners, call: Call) -> None:
    """Raise `BadRequest` if the client chooses the id of another tenant's response: vLLM replaces what is stored under it."""
    chosen = call.body.get(CHOSEN_ID_FIELD)
    if not owners.keyed or not isinstance(chosen, str) or not is_stored_id(chosen):
        return
    try:
        is_taken = await owners.has_other_owner(call.tenant, ("response", chosen))
    except StoreDown as error:
        raise OwnersUnavailable from error
    if is_taken:
        msg = f"'{CHOSEN_ID_FIELD}' is the id of another response. Choose another one, or leave it out."
        raise BadRequest(msg, CHOSEN_ID_FIELD)


def _hidden_tokens(found: Sequence[StoredObject | None]) -> int:
    """Return the tokens of the known objects in *found*; several items of one response count once."""
    by_origin: dict[bytes, int] = {}
    tokens = 0
    for stored in found:
        if stored is None:
            continue
        if stored.origin:
            by_origin[stored.origin] = max(stored.tokens, by_origin.get(stored.origin, 0))
        else:
            tokens += stored.tokens
    return tokens + sum(by_origin.values())


class _StoredLease(Lease):
    """Keeps the owner of an answer: its response, its conversation, and its output items."""

    __slots__ = ("_call", "_conversation_before", "_created", "_owners")

    def __init__(self, owners: ResponseOwners, call: Call, created: CreatedIds, conversation_before: int) -> None:
        self._owners, self._call, self._created = owners, call, created
        self._conversation_before = conversation_before

    async def settle(self, outcome: Outcome) -> None:
        """Keep what the answer has named, with the tokens of the last attempt."""
        created, call = self._created, self._call
        if not created.response:
            return
        usage = outcome.usage.each[-1]
        answer = usage.output + BOUND_MESSAGE_TOKENS
        total = (usage.input or self._estimated_prompt()) + answer
        objects: dict[StoredName, int] = dict.fromkeys((("item", each) for each in created.items), answer)
        if call.body.get("store") is not False:
            objects["response", created.response] = total
        if created.conversation:
            objects["conversation", created.conversation] = total
        await self._owners.remember(
            call.tenant,
            outcome.upstream,
            objects,
            origin=created.response,
            conversation_before=self._conversation_before,
        )

    def _estimated_prompt(self) -> int:
        call = self._call
        size = call.size or size_of(call)
        return call.services.tokens.estimate(call.model, size, tenant=call.tenant) + call.hidden_prompt_tokens
