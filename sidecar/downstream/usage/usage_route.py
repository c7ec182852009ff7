"""`GET /v1/usage`: the caller's own limits, read without a reservation.

Each policy of the caller's chains reports its limits as claims (`RunningPolicy.limits_for`), and the store returns their
standings without reserving (`Store.standings`). No `admit` runs: those of a deployment may queue, count or refuse. So
the request costs nothing, and it is answered where a budget or a rate has nothing left.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from policies.api.claim import counts_by_model
from policies.api.requests.request_form import MODELS_REQUEST
from policies.api.store import StoreDown
from sidecar.downstream.client_errors import method_not_allowed, store_unavailable
from sidecar.downstream.refusal_form import JSON_HEADER
from sidecar.downstream.request import IncomingRequest, RequestRefused
from sidecar.downstream.response import ClientResponse, JSONResponse, write_whole
from sidecar.downstream.route import USAGE_PATH, Route

from .read_pace import ReadPace
from .report import MAX_LISTED_LIMITS, ReportedLimit, UsageReport, entries_of, limits_of
from .selection import Asked, Selection, asked_by, models_to_list

if TYPE_CHECKING:
    from policies.api.call import Call
    from policies.api.store import Standing
    from policies.engine.chain import Chain
    from sidecar.config.access import Access, Profile
    from sidecar.downstream.request_record import RequestTrail
    from sidecar.downstream.services import RouteServices
    from sidecar.wire.limit_headers import Header

READING_METHODS = ("GET", "HEAD")
NO_STORE_HEADER: Header = (b"cache-control", b"no-store")


class UsageRoute(Route):
    """`GET /v1/usage` and `HEAD`. The header `x-profile` selects the chain, `?model=` and `?user=` what is counted by."""

    path = USAGE_PATH
    method = "GET"

    def __init__(self, services: RouteServices) -> None:
        super().__init__(services)
        clocks = services.policy_services
        self._pace = ReadPace(clocks.monotonic, clocks.sleep)
        self._hides_shared = len({each.tenant for each in services.settings.accesses}) > 1

    def _check_open(self, method: str) -> None:
        if method not in READING_METHODS:
            raise RequestRefused(method_not_allowed(", ".join(READING_METHODS)))
        super()._check_open(self.method)

    async def prepare(self, request: IncomingRequest) -> tuple[Call, Chain, ClientResponse]:
        """Read the usage; return the call that it was read for, its chain, and the response, which has it.

        Raises `RequestRefused` (429, 503), `BadRequest` or `Forbidden`.
        """
        access = request.access
        profile = request.profile
        asked = asked_by(request.scope["query_string"])
        call = self._call(request, profile.name, asked)
        access.check(call)
        async with self._pace.turn(access.tenant):
            report = await self._report(access, profile, call, asked)
        response = self.response(UsageResponse, request)
        assert isinstance(response, UsageResponse)  # for the type: it has the class that was passed
        response.body = msgspec.json.encode(report)
        return call, self.services.chains[profile.owner, profile.name], response

    def _call(self, request: IncomingRequest, profile: str, asked: Asked) -> Call:
        body: dict[str, Any] = {name: value for name, value in asked._asdict().items() if value}
        return self.call(request, body, operation=MODELS_REQUEST, profile=profile)

    async def _report(self, access: Access, profile: Profile, call: Call, asked: Asked) -> UsageReport:
        services = self.services
        chosen = [each for each in (access.base, *access.profiles.values()) if access.permits(each)]
        chains = {each.name: services.chains[each.owner, each.name] for each in chosen}
        selection = Selection(access, asked.model, services.policy_services.names_of)

        def call_of(name: str, model: str) -> Call:
            body = {**call.body, "model": model} if model else dict(call.body)
            return msgspec.structs.replace(call, profile=name, body=body, state={}, notes=[], standings=[])

        models, left_out = [asked.model or services.default_model], 0
        limits = limits_of(chains, profile.name, models, call_of, selection)
        counts_models = any(counts_by_model(each.claim.by or "tenant") for each in limits)
        if counts_models and not asked.model:
            models, left_out = models_to_list(services.settings, access, services.default_model)
            limits = limits_of(chains, profile.name, models, call_of, selection)
        left_out += max(0, len(limits) - MAX_LISTED_LIMITS)
        limits = limits[:MAX_LISTED_LIMITS]
        entries = entries_of(limits, await self._standings(limits), selection, hides_shared=self._hides_shared)
        return UsageReport(
            tenant=access.tenant,
            profile=profile.name,
            limits=entries,
            models=[*filter(None, models)] if counts_models else [],
            left_out=left_out,
            unlisted=[each.policy for each in chains[profile.name].unlisted if selection.covers(each.match)],
        )

    async def _standings(self, limits: Sequence[ReportedLimit]) -> Sequence[Standing]:
        services = self.services.policy_services
        try:
            return await services.store.standings([each.claim for each in limits]) if limits else ()
        except StoreDown as error:
            services.state_changed("store", "down", str(error))
            raise RequestRefused(store_unavailable()) from error

    async def _serve(
        self, request: IncomingRequest, call: Call, chain: Chain, response: ClientResponse, trail: RequestTrail
    ) -> None:
        """Write the response; no call runs."""
        assert isinstance(response, UsageResponse)  # for the type: `prepare` made it
        response.closing = self.services.active_calls.draining
        response.write()


class UsageResponse(JSONResponse):
    """The usage as one JSON object, which no cache may keep."""

    body = b""

    def write(self) -> None:
        """Write the object; the server leaves it out where the method is `HEAD`."""
        self.ended = True
        write_whole(self._connection, 200, self._headers(JSON_HEADER, NO_STORE_HEADER), self.body)
