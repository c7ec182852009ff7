"""The fake upstream with all APIs: each request is answered by the API of its path."""

from __future__ import annotations

from apis.api import not_found, send_json
from apis.completions import COMPLETIONS
from apis.embeddings import EMBEDDINGS
from apis.messages import MESSAGES
from apis.responses import RESPONSES
from wire import Connection

APIS = {"responses": RESPONSES, "completions": COMPLETIONS, "embeddings": EMBEDDINGS, "messages": MESSAGES}
"""By the first part of the path after the version; `/chat/completions` has its own double."""


async def answers(connection: Connection) -> None:
    """Answer as the API of the path does; an unknown path is 404."""
    method, path, _ = connection.head.decode().split(" ", 2)
    first = path.partition("?")[0].removeprefix("/v1").strip("/").partition("/")[0]
    if method == "HEAD" and not first:
        await MESSAGES.answers(connection)
    elif first in APIS:
        await APIS[first].answers(connection)
    else:
        await send_json(connection, not_found(f"Unknown path {path}"), 404)
