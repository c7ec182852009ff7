"""An upstream that stores responses and conversations: it answers their routes from two tables.

The forms are those of openai-python's types (`types/responses`, `types/conversations`); the texts of errors are OpenAI's.
"""

from __future__ import annotations

import json
from typing import Any

from wire import Connection


class StoringUpstream:
    """A script for `wire.upstream`. `objects` has what is stored, by id; `seen` the method and target of each request."""

    def __init__(self, name: str = "1") -> None:
        self.objects: dict[str, dict[str, Any]] = {}
        self.seen: list[str] = []
        self._name, self._number = name, 0

    async def __call__(self, connection: Connection) -> None:
        method, target, _ = connection.head.decode().split(" ", 2)
        self.seen.append(f"{method} {target}")
        status, answer = self._answer(method, target.partition("?")[0].removeprefix("/v1").split("/")[1:], connection)
        await connection.answer(status, json.dumps(answer).encode())

    def _answer(self, method: str, parts: list[str], connection: Connection) -> tuple[int, dict[str, Any]]:
        if parts == ["responses", "input_tokens"]:
            return 200, {"object": "response.input_tokens", "input_tokens": len(connection.raw_body)}
        if parts == ["conversations"]:
            self._number += 1
            return 200, self._stored(f"conv_{self._name}{self._number}", "conversation")
        found = self.objects.get(parts[1])
        if found is None:
            message = f"{parts[0][:-1].capitalize()} with id '{parts[1]}' not found."
            return 404, {"error": {"message": message, "type": "invalid_request_error", "param": None, "code": None}}
        if method == "DELETE" and len(parts) == 2:  # an id alone
            del self.objects[parts[1]]
            return 200, {"id": parts[1], "object": f"{found['object']}.deleted", "deleted": True}
        if parts[2:] in (["input_items"], ["items"]):
            return 200, {"object": "list", "data": [], "has_more": False}
        return 200, {**found, "path": "/".join(parts)}

    def _stored(self, stored_id: str, kind: str) -> dict[str, Any]:
        self.objects[stored_id] = {"id": stored_id, "object": kind}
        return self.objects[stored_id]

    def add_response(self, stored_id: str) -> None:
        """Store a response, as a call has created it."""
        self._stored(stored_id, "response")
