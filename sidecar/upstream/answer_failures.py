"""The failures of an answer under status 200 that was cut, and of policies that read it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sidecar.upstream.errors.classify import broken_off, interrupted, timed_out

if TYPE_CHECKING:
    import httpx

    from policies.api.upstream import UpstreamError
    from sidecar.upstream.errors.secret_values import Secrets
    from sidecar.wire.operations.operation import Reading


def cut_by(reading: Reading, request: httpx.Request, error: Exception, secrets: Secrets) -> UpstreamError:
    """Return the failure of an answer that *error* cut, after what was *reading*, without *secrets*."""
    if isinstance(error, TimeoutError):
        return timed_out("idle_timeout" if reading.has_output else "first_token_timeout", request)
    if reading.has_output:
        return interrupted(request, str(error), secrets)
    return broken_off(error, request)


def stop_iteration(error: StopIteration) -> RuntimeError:
    """Return what replaces the policy's *error*, which neither a future nor a coroutine passes on (PEP 479)."""
    return RuntimeError("a policy raised StopIteration").with_traceback(error.__traceback__)
