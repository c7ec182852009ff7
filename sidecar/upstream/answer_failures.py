"""The failures of an answer under status 200: an error object, a malformed answer, or one that was cut."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sidecar.upstream.errors.classify import broken_off, from_object, interrupted, timed_out
from sidecar.wire.error_object import MalformedAnswer

if TYPE_CHECKING:
    import httpx

    from policies.api.call import Call
    from policies.api.upstream import UpstreamError
    from sidecar.wire.answer_reader import AnswerReader

    from .client import UpstreamClient


def failure_of(reading: AnswerReader, call: Call, upstream: UpstreamClient) -> UpstreamError:
    """Return the failure that *upstream* sent instead of an answer to *call*.

    An error object before any output or usage report did no work; a malformed answer may have.
    """
    found, reported = reading.failure, reading.usage
    secrets = upstream.secrets_of(call.forwarded_headers)
    if isinstance(found, dict):
        upstream.routes.note_error(found.get("message") or "")
    failure = from_object(found, upstream.asked, secrets=secrets, own_key=upstream.own_key, now=upstream.clock())
    worked = reading.has_output or bool(reported.input or reported.output)
    failure.worked = worked or isinstance(found, MalformedAnswer)
    return failure


def cut_by(reading: AnswerReader, request: httpx.Request, error: Exception) -> UpstreamError:
    """Return the failure of an answer that *error* cut, after what was *reading*."""
    if isinstance(error, TimeoutError):
        return timed_out("idle_timeout" if reading.has_output else "first_token_timeout", request)
    if reading.has_output:
        return interrupted(request, str(error))
    return broken_off(error, request)


def stop_iteration(error: StopIteration) -> RuntimeError:
    """Return what replaces the policy's *error*, which neither a future nor a coroutine passes on (PEP 479)."""
    return RuntimeError("a policy raised StopIteration").with_traceback(error.__traceback__)
