"""Build what runs in one process: the chains of all profiles over one store, the upstreams, heartbeats and observers."""

from __future__ import annotations

import asyncio
import inspect
import socket
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from policies.api.services import Services
from policies.engine.chain import Chain
from policies.engine.ledger import Ledger
from policies.engine.retry_budget import RetryBudgets
from policies.stores.entries.in_memory import entries_of
from policies.stores.opening import open_store
from sidecar.downstream.active_calls import ActiveCalls
from sidecar.downstream.authentication import KeyTable
from sidecar.downstream.buffered_bodies import BufferedBodies
from sidecar.downstream.client_address import TrustedProxies
from sidecar.downstream.heartbeat import Heartbeats
from sidecar.downstream.ownership.owners import ResponseOwners
from sidecar.downstream.request import RequestIds
from sidecar.downstream.services import Observe, OriginFault
from sidecar.observers.dispatch import Observers
from sidecar.observers.escaping import quoted
from sidecar.upstream.circuit_breaker import Breaker, Change
from sidecar.upstream.client import UpstreamClient
from sidecar.upstream.errors.sdk import load as load_sdk
from sidecar.upstream.router import UpstreamRouter
from sidecar.upstream.transport.http_transport import HttpTransport
from sidecar.upstream.transport.httpx_transport import HttpxTransport
from sidecar.upstream.transport.response import Transport

from .allowed_hosts import AllowedHosts
from .limits.limit_registration import LimitRegistration
from .request_origin import RequestOrigin
from .store_heartbeat import StoreHeartbeat

if TYPE_CHECKING:
    import httpx

    from policies.api.store import StoreDown
    from policies.records.observer import Observer, RunningObserver
    from sidecar.config.access import Profile
    from sidecar.config.log import LogLevel
    from sidecar.config.settings import Settings
    from sidecar.config.upstream import ResolvedUpstream
    from sidecar.observers.process_log import ProcessLog
    from sidecar.observers.state_log import StateLog
    from sidecar.upstream.circuits.circuit import Scope

EXPECTED_STATES = frozenset({"up", "closed", "draining", "accepting"})
"""States that are logged as information; all others are warnings or errors."""
STORE_HEARTBEAT_SECONDS = 2.0
"""Seconds between two heartbeats to the store; also between two attempts to send settlements that it did not take."""
MAX_LOGGED_NAME_CHARACTERS = 100
"""Characters of a model's name in the log lines about its circuit."""
OBSERVER_CLOSE_SECONDS = 5.0


class Gateway:
    """The composition root: all objects that the routes of one process share.

    Built inside the running event loop, closed when the server has drained. *on_loopback*: the server listens on TCP, and on
    addresses of this machine alone.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        transport: httpx.AsyncBaseTransport | None = None,
        policy_services: Services | None = None,
        log: ProcessLog | None = None,
        on_loopback: bool = True,
    ) -> None:
        self.loop = loop = asyncio.get_running_loop()
        self.settings = settings
        self.policy_services = policy_services or Services(
            store=open_store(settings.store.url, folder=settings.folder, resident=True)
        )
        if log is not None:
            self.policy_services.state_changed = partial(_report_state, log.states)
        started = [_started(each) for each in settings.observers]
        receivers = started if log is None or log.access is None else [log.access, *started]
        self._observers = Observers(receivers, self.policy_services.log)
        self.observe: Observe | None = self._observers.observe if receivers else None
        self.policy_services.upstreams = tuple(each.name for each in settings.upstreams)
        over = None if transport is None else HttpxTransport(transport)
        self.upstream = UpstreamRouter([self._upstream(each, over) for each in settings.upstreams])
        self.upstream.start()
        self.policy_services.names_of, self.policy_services.may_serve = self.upstream.names_of, self.upstream.may_serve
        self.heartbeats = Heartbeats(settings.server.heartbeat, clock=loop.time, call_at=loop.call_at)
        self.active_calls = ActiveCalls()
        self.request_ids = RequestIds()
        self.buffered = BufferedBodies(
            settings.server.max_buffered,
            is_shared=len({each.tenant for each in settings.accesses}) > 1,
            on_change=self._report_buffered,
        )
        self.owners = ResponseOwners(
            entries_of(self.policy_services.store, self.policy_services.clock),
            self.policy_services.upstreams,
            keyed=bool(settings.keys),
        )
        self._ledger = Ledger(self.policy_services)
        self._retries = RetryBudgets(self.policy_services.monotonic)
        self.keys = KeyTable(settings.default_access, settings.keys, self.policy_services.clock)
        self.trusted_proxies = TrustedProxies(settings.server.trusted_proxies, settings.server.proxy_header)
        listed, checks = settings.server.allowed_hosts, on_loopback and not settings.keys
        permits_host = AllowedHosts(listed, socket.gethostname()).permits if listed or checks else None
        self.origin_fault: OriginFault = RequestOrigin(permits_host, settings.server.cors_origins).fault
        chosen = [each for access in settings.accesses for each in (access.base, *access.profiles.values())]
        self.chains: Mapping[tuple[str, str], Chain] = {(each.owner, each.name): self._built(each) for each in chosen}
        if any(type(policy).__module__.partition(".")[0] != "policies" for policy in settings.base.policies):
            load_sdk()  # before the first call: a policy of the deployment may ask for `failure.exception()`
        self._store_heartbeat = StoreHeartbeat(
            self.policy_services, self._ledger, STORE_HEARTBEAT_SECONDS, on_change=self._report_store
        )
        self._store_heartbeat.start()
        self._limit_registration = LimitRegistration(
            self.policy_services, self.chains, settings.accesses, STORE_HEARTBEAT_SECONDS
        )
        self._limit_registration.start()

    def _upstream(self, choice: ResolvedUpstream, over: Transport | None) -> UpstreamClient:
        services = self.policy_services

        def on_change(change: Change) -> None:
            cause = "" if change.cause is None else change.cause.reason
            services.state_changed(_breaker_subject(choice.name, change.scope), change.state, cause)

        breaker = Breaker(choice.breaker, services.monotonic, on_change=on_change)
        return UpstreamClient(
            choice,
            over or _transport(choice),
            clock=services.clock,
            monotonic=services.monotonic,
            breaker=breaker,
            warn=services.log.warning,
            withheld=self.settings.forward_headers.difference(choice.forward_headers),
            keyed=bool(self.settings.keys),
        )

    def _built(self, profile: Profile) -> Chain:
        return Chain(profile.policies, self.upstream, self.policy_services, ledger=self._ledger, retries=self._retries)

    @property
    def default_model(self) -> str:
        """The model of calls that name none; empty while it is not known."""
        return self.upstream.default_model

    def _report_buffered(self, is_full: bool) -> None:  # noqa: FBT001  # a callback
        most = self.settings.server.max_buffered
        cause = f"unread requests hold {most} bytes (server.max_buffered); further ones get 503" if is_full else ""
        self.policy_services.state_changed("request buffer", "full" if is_full else "accepting", cause)

    def report_connections(self, is_full: bool) -> None:  # noqa: FBT001  # a callback
        """Log that connections are refused because there are too many, or that they are accepted again."""
        most = self.settings.server.max_connections
        cause = f"{most} are open (server.max_connections); further ones get 503" if is_full else ""
        self.policy_services.state_changed("connections", "full" if is_full else "accepting", cause)

    def _report_store(self, error: StoreDown | None) -> None:
        if error is None:
            self.policy_services.state_changed("store", "up", "")
        else:
            self.policy_services.state_changed("store", "down", str(error))

    async def close(self) -> None:
        """Send the settlements that are left, then close policies, connections and the store."""
        await self._limit_registration.aclose()
        await self._store_heartbeat.aclose()
        for chain in self.chains.values():
            await chain.close()
        await self.upstream.aclose()
        await self._observers.close(OBSERVER_CLOSE_SECONDS)
        await self.policy_services.store.aclose()


def _transport(choice: ResolvedUpstream) -> Transport:
    """Return the transport to one upstream: that of its factory, else HTTP/1.1."""
    if choice.make_transport is not None:
        return HttpxTransport(choice.make_transport(), connect=choice.connect)
    return HttpTransport(connect=choice.connect, tls=choice.trust, proxy=choice.via, uds=choice.uds)


def _started(observer: Observer) -> RunningObserver:
    """Return what *observer* starts. Raises TypeError if it cannot receive records: the server does not start then."""
    running: Any = observer.start()
    observe, close = getattr(running, "observe", None), getattr(running, "close", None)
    if not callable(observe) or inspect.iscoroutinefunction(observe) or not inspect.iscoroutinefunction(close):
        msg = f"{type(observer).__name__}.start returned a {type(running).__name__}; return an object with `def observe` and `async def close`"
        raise TypeError(msg)
    return cast("RunningObserver", running)


def _breaker_subject(upstream: str, scope: Scope) -> str:
    """Return the subject of log lines about the circuit *scope*; clients choose the names of models."""
    subject = f"breaker {upstream}"
    if scope.model is not None:
        subject += f" model {quoted(scope.model[:MAX_LOGGED_NAME_CHARACTERS])}"
    return subject if scope.tenant is None else f"{subject} tenant {scope.tenant}"


def _report_state(states: StateLog, subject: str, state: str, cause: str) -> None:
    level: LogLevel = "error" if state == "down" else "info" if state in EXPECTED_STATES else "warning"
    states.changed(subject, state, cause=cause, level=level)
