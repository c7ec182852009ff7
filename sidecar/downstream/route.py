"""From a request to a call and back: who asks for what, through which chain, in which form it is answered."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

import anyio

from policies.api.call import Call
from policies.api.rejection import Rejection
from policies.api.upstream import UpstreamError
from policies.engine.chain import Chain
from policies.engine.sink import ClientLeft
from sidecar.config.access import Forbidden
from sidecar.wire.forwarded_headers import forwardable_headers
from sidecar.wire.json_body import BadRequest

from .active_calls import ActiveCall
from .authentication import UnknownKey
from .client_connection import Outgoing, Send, outgoing
from .client_errors import (
    ClientError,
    deadline_passed,
    draining,
    fault_of_rejection,
    fault_of_upstream,
    forbidden,
    internal_error,
    invalid_request,
    method_not_allowed,
    unauthorized,
)
from .request import ClientGone, IncomingRequest, Receive, RequestRefused, Scope, request_id
from .response import Answer, send_fault

if TYPE_CHECKING:
    from .services import RouteServices

CHAT = "/api/chat"
COMPLETIONS = "/v1/chat/completions"
MODELS = "/v1/models"
REQUEST_ID = b"x-request-id"
TRIED_BEFORE = b"x-stainless-retry-count"
"""How often OpenAI's SDKs have already sent the call."""
LAST_WORD = 5.0
"""Seconds in which a client must take the last event of a failed answer; one that never reads is not waited for."""


class Route(ABC):
    """One data route, as an ASGI application.  A subclass says what a request asks for."""

    path: str
    method = "POST"

    def __init__(self, services: RouteServices) -> None:
        self.services = services

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request to its end; whatever happens is answered, settled and closed."""
        headers: dict[bytes, bytes] = dict(scope["headers"])  # of a repeated one the last
        given = headers.get(REQUEST_ID)
        name = self.services.names() if given is None else request_id(given, self.services.names)
        out = outgoing(send)
        try:
            if scope["method"] != self.method:
                raise RequestRefused(method_not_allowed(self.method))
            if self.services.live.draining:
                raise RequestRefused(draining())
            asked = IncomingRequest(scope, receive, out, headers, name, self.services.keys.access(headers))
            call, chain, answer = await self.prepare(asked)
            if asked.access.models is not None:
                asked.access.check(call)
            if self.services.live.draining:
                raise RequestRefused(draining())
        except ClientGone:
            return
        except (RequestRefused, BadRequest, Forbidden, UnknownKey) as error:
            await self._refuse(out, _fault(error), name)
            return
        except Exception:
            self.services.policy_services.log.exception("request %s could not be prepared", name)
            await self._refuse(out, internal_error(), name)
            return
        await self._run(call, chain, answer, asked)

    @abstractmethod
    async def prepare(self, asked: IncomingRequest) -> tuple[Call, Chain, Answer]:
        """Read the request; return the call, the chain that it goes through and the form of its answer.

        Raises `RequestRefused`, `BadRequest`, `Forbidden` or `ClientGone`; nothing is held yet.
        """

    async def _refuse(self, out: Outgoing, fault: ClientError, name: str) -> None:
        fields = [(b"content-type", b"application/json"), (b"x-request-id", name.encode())]
        if self.services.live.draining:
            fields.append((b"connection", b"close"))
        await send_fault(out, fault, fields, chat_path=self.path == CHAT)

    def call(self, asked: IncomingRequest, body: dict[str, Any], **more: Any) -> Call:
        """Return the call that asks for *body*.  Its id is ours alone: holds are told apart by it."""
        sent = forwardable_headers(asked.headers, keyed=bool(self.services.settings.keys))
        sent["x-request-id"] = asked.name
        return Call(
            id=self.services.names() if REQUEST_ID in asked.headers else asked.name,
            path=self.path,
            body=body,
            services=self.services.policy_services,
            tenant=asked.access.tenant,
            ip=self.services.proxies.client(asked.scope),
            forwarded_headers=sent,
            is_client_retry=asked.headers.get(TRIED_BEFORE, b"0") != b"0",
            **more,
        )

    async def _run(self, call: Call, chain: Chain, answer: Answer, asked: IncomingRequest) -> None:
        services = self.services
        answer.call = call
        live = ActiveCall(answer, services.loop)
        services.live.add(live)
        services.heart.watch(answer)
        timer: asyncio.TimerHandle | None = None
        fault: ClientError | None = None
        try:
            live.watch(asked.out, asked.receive)
            left_already = live.left
            if left_already:
                return
            server = services.settings.server
            if seconds := server.chat_deadline if answer.greets else server.deadline:
                call.deadline = services.policy_services.monotonic() + seconds
                timer = services.loop.call_later(seconds, _too_late, live, seconds)
            with live:
                fault = await self._outcome(call, chain, answer)
            if live.cancelled:
                await live.spared()
            if not live.left and (fault := live.fault or fault) is not None:
                with anyio.move_on_after(LAST_WORD):
                    await answer.fail(fault)
        finally:
            if timer is not None:
                timer.cancel()
            services.heart.forget(answer)
            live.stop_watching()
            services.live.remove(live)

    async def _outcome(self, call: Call, chain: Chain, answer: Answer) -> ClientError | None:
        services = self.services
        try:
            admitted = answer.admitted if answer.greets else None
            await chain.run(call, answer.emit, admitted=admitted, sink=answer.sink)
        except Rejection as rejection:
            return fault_of_rejection(rejection)
        except UpstreamError as error:
            services.policy_services.log.warning("call %s: upstream failed: %s", call.id, error.kind)
            return fault_of_upstream(error)
        except ClientLeft:
            return None
        except Exception:
            services.policy_services.log.exception("call %s failed", call.id)
            return internal_error()
        return None

    def _answer(self, form: type[Answer], asked: IncomingRequest) -> Answer:
        return form(asked.out, asked.name, chat_path=self.path == CHAT, clock=self.services.loop.time)


def _too_late(live: ActiveCall, seconds: float) -> None:
    live.interrupt(deadline_passed(seconds))


def _fault(error: RequestRefused | BadRequest | Forbidden | UnknownKey) -> ClientError:
    if isinstance(error, RequestRefused):
        return error.fault
    if isinstance(error, Forbidden):
        return forbidden(error.message, error.param)
    if isinstance(error, UnknownKey):
        return unauthorized()
    return invalid_request(error.message, error.param)
