"""Where the requests to one upstream go, and the sidecar's own headers in them."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import parse_qsl

import httpx

from sidecar.config.upstream import AUTHORIZATION_HEADER
from sidecar.upstream.transport.response import Target
from sidecar.wire.operations.chat_completions import CHAT_COMPLETIONS
from sidecar.wire.operations.messages import COUNT_TOKENS
from sidecar.wire.operations.operation import PASSED_QUERY_STATE
from sidecar.wire.operations.registry import GOVERNED_OPERATIONS

if TYPE_CHECKING:
    from policies.api.call import Call
    from sidecar.config.upstream import ResolvedUpstream

USER_AGENT = "user-agent"
LIST_ROUTE = "/models"
"""The path of the list of models, below the base URL."""
_STREAM_HEADERS = [("accept", "text/event-stream"), ("content-type", "application/json")]
_WHOLE_HEADERS = [("accept", "application/json"), ("content-type", "application/json")]


class RequestTargets:
    """The targets of one upstream with *settings*, made once.

    `own_names` are the headers that the operator sets, in lower case. `plain_headers` are those of every request, without
    those of its body. `listed` is the list of models. `chat_url` is that of chat completions.
    """

    def __init__(self, settings: ResolvedUpstream) -> None:
        self._settings = settings
        self._query = dict(settings.query) or None
        headers = [("accept-encoding", "identity"), *settings.headers.items(), *settings.secret_headers.items()]
        if settings.key:
            header = settings.api_key_header.lower()
            headers.append((header, f"Bearer {settings.key}" if header == AUTHORIZATION_HEADER else settings.key))
        self.own_names = frozenset(name.lower() for name, _ in headers)
        if USER_AGENT not in self.own_names:
            headers.append((USER_AGENT, "chatnest-sidecar"))
        self.plain_headers = tuple(headers)
        self.chat_url = self._url(CHAT_COMPLETIONS.upstream_path)
        self.listed = self.at(LIST_ROUTE)
        self._streamed: dict[str, Target] = {}
        self._whole: dict[str, Target] = {}
        for each in (*GOVERNED_OPERATIONS, COUNT_TOKENS):
            url = self._url(each.upstream_path)
            names = {each.request.name: url}
            if passed := each.passed_query:
                names[f"{each.request.name}?{passed}"] = url.copy_merge_params(dict(parse_qsl(passed)))
            for name, target in names.items():
                self._streamed[name] = Target("POST", target, [*headers, *_STREAM_HEADERS])
                self._whole[name] = Target("POST", target, [*headers, *_WHOLE_HEADERS])

    def _url(self, path: str) -> httpx.URL:
        return httpx.URL(f"{self._settings.endpoint}{path}", params=self._query)

    def at(self, path: str) -> Target:
        """Return the target of a GET of *path*, percent-encoded, below the base URL."""
        return Target("GET", self._url(path), list(self.plain_headers))

    def of(self, call: Call, *, streams: bool) -> Target:
        """Return where a request for *call* goes, with the query that its API passes on. Called once per request."""
        name = call.operation.name
        if call.state and (passed := call.state.get(PASSED_QUERY_STATE)) is not None:
            name = f"{name}?{passed}"
        return (self._streamed if streams else self._whole)[name]
