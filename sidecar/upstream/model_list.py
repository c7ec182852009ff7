"""The list of models, or the entry of one, as an attempt: it passes the same chain as every other call.

The list of several upstreams is merged.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING
from urllib.parse import quote

from policies.api.match import matches_any
from policies.api.upstream import UpstreamError
from sidecar.upstream.errors.classify import from_object, timed_out
from sidecar.wire.error_object import MalformedAnswer
from sidecar.wire.operations.models import ENCODED_SLASH_STATE, MODEL_ROUTE

from .routing.model_entries import CONTEXT_MARKS, merged, shown_entries, shown_entry, with_entries, written_list
from .whole_attempt import WholeAttempt

if TYPE_CHECKING:
    from policies.api.call import Call

    from .client import UpstreamClient
    from .routing.model_entries import Entries
    from .routing.model_routing import ModelRouting

MERGED_LIST_SECONDS = 10.0
"""Seconds that one of several upstreams gets to list its models; its `head` if that is less."""
RETRIED_LIST_SECONDS = 1.0
"""The same for an upstream whose list could not be read the last time: it must not delay each answer."""


class ModelListAttempt(WholeAttempt):
    """See `policies.api.upstream.Stream`: one batch, the JSON for the client.

    *upstream* is that of the attempt.  The list is merged from *upstreams* if there are several and *routing* is set.  An
    upstream that cannot list its models is left out, unless all fail.  For a client that may use some models only, the list is
    reduced to these.
    """

    def __init__(
        self,
        upstream: UpstreamClient,
        call: Call,
        upstreams: Sequence[UpstreamClient] = (),
        routing: ModelRouting | None = None,
    ) -> None:
        super().__init__(upstream, call)
        self._upstreams, self._routing = upstreams, routing

    async def _body(self) -> bytes:
        """Return the list or the model. Raises `UpstreamError`."""
        if self._call.path == MODEL_ROUTE:
            return await self._one()
        if self._routing is None or self._call.upstream:
            return await self._listed()
        return await self._merged(self._routing)

    async def _one(self) -> bytes:
        call, upstream = self._call, self._upstream
        name = upstream.name_of(call.model, substituted=False)
        path = _encoded(name, encodes_slashes=ENCODED_SLASH_STATE in call.state)
        body = await upstream.models(call.forwarded_headers, f"/models/{path}", call)
        is_alias = name != call.model and upstream.settings.rewrite_answers
        return shown_entry(body, call.model if is_alias else None)

    async def _listed(self) -> bytes:
        """Return the list of one upstream; its own bytes where nothing is left out or added."""
        call, upstream = self._call, self._upstream
        body = await upstream.models(call.forwarded_headers, call=call)
        is_restricted = call.permitted_models is not None
        if not (is_restricted or upstream.settings.exact_aliases or any(mark in body for mark in CONTEXT_MARKS)):
            return body
        try:
            entries = await self._entries(upstream, body)
        except UpstreamError:
            if is_restricted:
                raise
            return body
        listed = list(entries.values())
        return written_list(listed) if is_restricted else with_entries(body, listed)

    async def _merged(self, routing: ModelRouting) -> bytes:
        """Return the lists of all upstreams as one. Raises the error of the first one if all have failed."""
        reads = (self._read(each, routing) for each in self._upstreams)
        results = await asyncio.gather(*reads, return_exceptions=True)
        found: list[Entries] = []
        errors: list[UpstreamError] = []
        for upstream, result in zip(self._upstreams, results, strict=True):
            if isinstance(result, UpstreamError):
                upstream.listing.note_failure(result)
                errors.append(result)
            elif isinstance(result, BaseException):
                raise result
            else:
                upstream.listing.note_success()
                found.append(result)
        if not found:
            raise errors[0]
        return written_list(list(merged(found).values()))

    async def _read(self, upstream: UpstreamClient, routing: ModelRouting) -> Entries:
        name = upstream.settings.name
        try:
            limit = RETRIED_LIST_SECONDS if upstream.listing.has_failed else MERGED_LIST_SECONDS
            async with asyncio.timeout(min(limit, upstream.settings.head)):
                body = await upstream.models(self._call.forwarded_headers)
        except TimeoutError as error:
            raise timed_out("head_timeout", upstream.asked) from error
        entries = await self._entries(upstream, body)
        return {model: raw for model, raw in entries.items() if routing.lists(name, model)}

    async def _entries(self, upstream: UpstreamClient, body: bytes) -> Entries:
        patterns = self._call.permitted_models
        permits = _permits_all if patterns is None else partial(_permits, patterns)
        try:
            return await shown_entries(body, upstream.settings.exact_aliases, permits)
        except ValueError:
            malformed = MalformedAnswer("the list of models is not as OpenAI defines it, or too long")
            raise from_object(malformed, upstream.asked) from None


def _permits(patterns: Sequence[str], name: str) -> bool:
    return matches_any(name, patterns)


def _permits_all(_: str) -> bool:
    return True


def _encoded(name: str, *, encodes_slashes: bool) -> str:
    """Return *name* percent-encoded.  Servers differ in which form of a slash they accept, so the client's is kept."""
    return quote(name, safe=":@" if encodes_slashes else ":@/")
