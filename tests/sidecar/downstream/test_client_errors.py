"""Errors as clients receive them: status, code, message and headers, in the format of each path."""

from __future__ import annotations

import json

from policies.api.rejection import Rejection
from sidecar.downstream.client_errors import (
    chat_body,
    chat_status,
    draining,
    error_for_rejection,
)


def test_rejection_keeps_its_code_and_details() -> None:
    """A rejection by a policy has its own code and details, and its wait rounded up."""
    fault = error_for_rejection(Rejection(429, "busy", "later", retry_after=1.2001, details={"policy": "q"}))

    assert json.loads(chat_body(fault)) == {"error": "later", "code": "busy", "policy": "q"}
    assert fault.headers == [(b"retry-after", b"2"), (b"retry-after-ms", b"1201")]
    assert error_for_rejection(Rejection(403, "no", "no")).headers == [(b"x-should-retry", b"false")]
    assert chat_status(error_for_rejection(Rejection(400, "request_too_large", "x"))) == 429
    assert draining().headers[0] == (b"retry-after", b"1")
