"""From a request to a call and back: who asks for what, through which chain, in which form it is answered."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, NamedTuple

import anyio

from policies.base import Rejection
from policies.call import Call
from policies.chain import Chain, ClientLeft
from policies.upstream import UpstreamError

from .access import Access, Denied
from .answer import Answer, ChatNestAnswer, JSONAnswer, OpenAIStream, send_fault
from .body import BadRequest, json_object, json_steps
from .errors import (
    Fault,
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
from .incoming import ClientGone, Receive, Refused, Scope, check_json, read_body, request_id
from .keys import UnknownKey
from .live import LiveCall
from .outgoing import Outgoing, Send, Straight, outgoing
from .schema import chat_nest_caps, chat_nest_messages, chat_nest_profile, check_openai, system_prompt
from .upstream import crossing

if TYPE_CHECKING:
    from .gateway import Gateway

CHAT = "/api/chat"
COMPLETIONS = "/v1/chat/completions"
MODELS = "/v1/models"
SCHEMA_HEADER = b"x-event-schema"
PROFILE_HEADER = b"x-profile"
REQUEST_ID = b"x-request-id"
TRIED_BEFORE = b"x-stainless-retry-count"
"""How often OpenAI's SDKs have already sent the call."""
LARGE = 262_144
"""Bytes of a body from which it is read in several turns of the loop."""
LAST_WORD = 5.0
"""Seconds in which a client must take the last event of a failed answer; one that never reads is not waited for."""


class Asked(NamedTuple):
    """One request as it came, its name, and what its key opens."""

    scope: Scope
    receive: Receive
    out: Outgoing
    headers: dict[bytes, bytes]
    name: str
    access: Access


class Route(ABC):
    """One data route, as an ASGI application.  A subclass says what a request asks for."""

    path: str
    method = "POST"

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request to its end; whatever happens is answered, settled and closed."""
        headers: dict[bytes, bytes] = dict(scope["headers"])  # of a repeated one the last
        given = headers.get(REQUEST_ID)
        name = self.gateway.names() if given is None else request_id(given, self.gateway.names)
        out = outgoing(send)
        try:
            if scope["method"] != self.method:
                raise Refused(method_not_allowed(self.method))
            if self.gateway.live.draining:
                raise Refused(draining())
            asked = Asked(scope, receive, out, headers, name, self.gateway.keys.access(headers))
            call, chain, answer = await self.prepare(asked)
            if asked.access.models is not None:
                asked.access.check(call)
            if self.gateway.live.draining:
                raise Refused(draining())
        except ClientGone:
            return
        except (Refused, BadRequest, Denied, UnknownKey) as error:
            await self._refuse(out, _fault(error), name)
            return
        except Exception:
            self.gateway.process.log.exception("request %s could not be prepared", name)
            await self._refuse(out, internal_error(), name)
            return
        await self._run(call, chain, answer, asked)

    @abstractmethod
    async def prepare(self, asked: Asked) -> tuple[Call, Chain, Answer]:
        """Read the request; return the call, the chain that it goes through and the form of its answer.

        Raises `Refused`, `BadRequest`, `Denied` or `ClientGone`; nothing is held yet.
        """

    async def _refuse(self, out: Outgoing, fault: Fault, name: str) -> None:
        fields = [(b"content-type", b"application/json"), (b"x-request-id", name.encode())]
        if self.gateway.live.draining:
            fields.append((b"connection", b"close"))
        await send_fault(out, fault, fields, chat_path=self.path == CHAT)

    def call(self, asked: Asked, body: dict[str, Any], **more: Any) -> Call:
        """Return the call that asks for *body*.  Its id is ours alone: holds are told apart by it."""
        sent = crossing(asked.headers, keyed=bool(self.gateway.settings.keys))
        sent["x-request-id"] = asked.name
        return Call(
            id=self.gateway.names() if REQUEST_ID in asked.headers else asked.name,
            path=self.path,
            body=body,
            process=self.gateway.process,
            tenant=asked.access.tenant,
            ip=self.gateway.proxies.client(asked.scope),
            headers=sent,
            repeated=asked.headers.get(TRIED_BEFORE, b"0") != b"0",
            **more,
        )

    async def _run(self, call: Call, chain: Chain, answer: Answer, asked: Asked) -> None:
        gateway = self.gateway
        answer.call = call
        live = LiveCall(answer, gateway.loop)
        gateway.live.add(live)
        gateway.heart.watch(answer)
        timer: asyncio.TimerHandle | None = None
        fault: Fault | None = None
        try:
            live.watch(asked.out, asked.receive)
            left_already = live.left
            if left_already:
                return
            server = gateway.settings.server
            if seconds := server.chat_deadline if answer.greets else server.deadline:
                call.deadline = gateway.process.monotonic() + seconds
                timer = gateway.loop.call_later(seconds, _too_late, live, seconds)
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
            gateway.heart.forget(answer)
            live.stop_watching()
            gateway.live.remove(live)

    async def _outcome(self, call: Call, chain: Chain, answer: Answer) -> Fault | None:
        gateway = self.gateway
        try:
            admitted = answer.admitted if answer.greets else None
            await chain.run(call, answer.emit, admitted=admitted, sink=answer.sink)
        except Rejection as rejection:
            return fault_of_rejection(rejection)
        except UpstreamError as error:
            gateway.process.log.warning("call %s: upstream failed: %s", call.id, error.kind)
            return fault_of_upstream(error)
        except ClientLeft:
            return None
        except Exception:
            gateway.process.log.exception("call %s failed", call.id)
            return internal_error()
        return None

    def _answer(self, form: type[Answer], asked: Asked) -> Answer:
        return form(asked.out, asked.name, chat_path=self.path == CHAT, clock=self.gateway.loop.time)


class ChatRoute(Route):
    """`POST /api/chat`: a Chat Nest request, answered by Chat Nest events."""

    path = CHAT

    async def prepare(self, asked: Asked) -> tuple[Call, Chain, Answer]:
        """See `Route`."""
        settings, upstream = self.gateway.settings.server, self.gateway.upstream
        check_json(asked.headers)
        said = await _object(asked, settings.chat_max_body)
        messages = chat_nest_messages(said, settings.chat_roles)
        prompt = system_prompt(said)
        if prompt and settings.chat_system_prompt == "use":
            messages.insert(0, {"role": "system", "content": prompt})
        profile = asked.access.chat_profile(chat_nest_profile(said))
        body: dict[str, Any] = {"messages": messages, "stream": True}
        if model := upstream.default_model:
            body["model"] = model
        if profile.temperature is not None:
            body["temperature"] = profile.temperature
        call = self.call(asked, body, profile=profile.name, caps=chat_nest_caps(said), stand_in=model)
        return call, self.gateway.chains[profile.owner, profile.name], self._answer(ChatNestAnswer, asked)


class CompletionsRoute(Route):
    """`POST /v1/chat/completions`: an OpenAI request, answered as OpenAI would, or by Chat Nest events."""

    path = COMPLETIONS

    async def prepare(self, asked: Asked) -> tuple[Call, Chain, Answer]:
        """See `Route`."""
        check_json(asked.headers)
        body = await _object(asked, self.gateway.settings.server.max_body)
        check_openai(body)
        named = asked.headers.get(PROFILE_HEADER)
        access = asked.access
        plain = named is None and access.allowed is None
        profile = access.base if plain else access.profile((named or b"").decode("latin-1"))
        call = self.call(asked, body, profile=profile.name)
        if not call.model and (model := self.gateway.upstream.default_model):
            call.model = call.stand_in = model
        form: type[Answer] = OpenAIStream if call.stream else JSONAnswer
        if SCHEMA_HEADER in asked.headers and _wants_chat_nest(asked.headers):
            if call.n > 1:
                msg = "'n' must be 1 where the answer is Chat Nest events: they tell no answers apart."
                raise BadRequest(msg, "n")
            body["stream"] = True
            form = ChatNestAnswer
        return call, self.gateway.chains[profile.owner, profile.name], self._answer(form, asked)


class ModelsRoute(Route):
    """`GET /v1/models`: upstream's list, under the same limits of requests."""

    path = MODELS
    method = "GET"

    async def prepare(self, asked: Asked) -> tuple[Call, Chain, Answer]:
        """See `Route`."""
        profile = asked.access.profile(asked.headers.get(PROFILE_HEADER, b"").decode("latin-1"))
        call = self.call(asked, {}, operation="models", profile=profile.name)
        return call, self.gateway.chains[profile.owner, profile.name], self._answer(JSONAnswer, asked)


def _too_late(live: LiveCall, seconds: float) -> None:
    live.interrupt(deadline_passed(seconds))


def _fault(error: Refused | BadRequest | Denied | UnknownKey) -> Fault:
    if isinstance(error, Refused):
        return error.fault
    if isinstance(error, Denied):
        return forbidden(error.message, error.param)
    if isinstance(error, UnknownKey):
        return unauthorized()
    return invalid_request(error.message, error.param)


async def _object(asked: Asked, limit: int) -> dict[str, Any]:
    """Return the JSON object that was sent.  Others get their turns between the steps of reading a large one."""
    whole = asked.out.whole_body() if isinstance(asked.out, Straight) else None
    if whole is not None and len(whole) <= min(limit, LARGE):
        return json_object(whole)
    raw = await read_body(asked.receive, asked.headers, limit, whole=whole)
    if len(raw) <= LARGE:
        return json_object(raw)
    steps = json_steps(raw)
    while True:
        await asyncio.sleep(0)
        try:
            next(steps)
        except StopIteration as end:
            found: dict[str, Any] = end.value
            await asyncio.sleep(0)
            return found


def _wants_chat_nest(headers: dict[bytes, bytes]) -> bool:
    schema = headers.get(SCHEMA_HEADER, b"").strip().lower()
    if schema not in (b"", b"chat-nest"):
        msg = "'x-event-schema' must be 'chat-nest', or left out for OpenAI's own events."
        raise BadRequest(msg, "x-event-schema")
    return schema == b"chat-nest"
