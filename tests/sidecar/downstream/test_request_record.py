"""The record of one request, built from what its trail holds."""

from __future__ import annotations

from policies.api.lease import Ending, Outcome
from policies.api.usage import Usage
from policies.engine.call_control import CallControl
from policies.testing import make_call
from sidecar.downstream.request_record import RequestTrail


def test_notes_in_a_record_are_printable() -> None:
    """A record has the notes of its call without characters that are not printable, and no empty ones."""
    call = make_call("hi")
    for text in ("kept 6 of 14 messages", "a\r\nforged: line\x1b[31m\x00", "\n"):
        call.note(text)
    control = CallControl()
    control.outcome = Outcome(Ending.DONE, Usage(), 1)
    trail = RequestTrail(request_id="r", route="/", method="POST", started_at=0.0, begun=0.0, control=control)
    trail.note_call(call, None)

    assert trail.record(200, 1.0).notes == ("kept 6 of 14 messages", "aforged: line[31m")
