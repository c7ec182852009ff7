"""Which failure of Redis an error is, and what follows from it for the operation that it answers.

The class of the client library decides, or the error code, which is the first word of an error reply (redis.io/docs/latest/develop/
reference/protocol-spec, "Simple errors"). `ERR` has many causes, so its sentences are searched. Failures without a reply are told
apart by the errors of the operating system. Messages for all failures are in `failures`.
"""

from __future__ import annotations

import errno
import re
import socket
import ssl
from collections.abc import Mapping
from enum import Enum, auto

from redis.exceptions import (
    AskError,
    AuthenticationError,
    BusyLoadingError,
    ClusterCrossSlotError,
    ClusterDownError,
    InvalidResponse,
    MasterDownError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    TryAgainError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

MAX_CAUSES = 8
"""Exceptions of a chain of causes that are examined."""
_FAILURES_BY_CLASS: tuple[tuple[type[BaseException], str], ...] = (
    (ssl.SSLCertVerificationError, "certificate"),
    (ssl.SSLError, "no_tls"),
    (socket.gaierror, "unknown_host"),
    (InvalidResponse, "not_redis"),
    (TimeoutError, "timeout"),
    (RedisTimeoutError, "timeout"),
    (NoPermissionError, "no_permission"),
    (OutOfMemoryError, "no_memory"),
    (ReadOnlyError, "replica"),
    (BusyLoadingError, "loading"),
    (MasterDownError, "primary_lost"),  # before `ClusterDownError`, of which it is a subclass
    (ClusterDownError, "cluster_down"),
    (ClusterCrossSlotError, "cluster_down"),
    (TryAgainError, "slot_moves"),
    (AskError, "slot_moves"),  # and `MovedError`, its subclass
)
_FAILURES_BY_CODE: Mapping[str, str] = {
    "NOAUTH": "no_password",
    "WRONGPASS": "wrong_password",
    "NOPERM": "no_permission",
    "WRONGTYPE": "foreign",
    "OOM": "no_memory",
    "READONLY": "replica",
    "MISCONF": "cannot_persist",
    "NOREPLICAS": "too_few_replicas",
    "MASTERDOWN": "primary_lost",
    "LOADING": "loading",
    "BUSY": "script_runs",
    "CLUSTERDOWN": "cluster_down",
    "DENIED": "protected",
}
"""Failures by the code of the error reply, for replies without a class, and errors inside a script."""
_FAILURES_BY_SENTENCE: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern, re.IGNORECASE), name)
    for pattern, name in (
        ("authentication required|must be called with the client already auth|: unauthenticated ", "no_password"),
        ("without any password configured|no password is set", "needless_password"),
        ("invalid password|invalid username-password|wrong number of arguments for 'auth'", "wrong_password"),
        ("can't run this command|acl failure in script", "no_permission"),
        ("wrong kind of value|not a valid float|is not an integer", "foreign"),
        ("select is not allowed in cluster mode", "cluster_database"),
        ("db index is out of range|invalid db index", "no_database"),
        ("max number of clients|max number of connections", "too_many_clients"),
        ("protected mode", "protected"),
        ("unknown command|unknown redis command|unknown subcommand", "too_old"),
        ("user_script|error (compiling|running) script", "script_failed"),
        ("closed by server|connection closed|connection lost|connection reset|broken pipe", "closed"),
        ("timeout|timed out", "timeout"),
    )
)
"""Failures by what the sentence contains. They are needed for `ERR`, and where the client library removes the code."""
_FAILURES_BY_ERRNO: Mapping[int, str] = {
    errno.ECONNREFUSED: "refused",
    errno.ECONNRESET: "closed",
    errno.EPIPE: "closed",
    errno.ETIMEDOUT: "timeout",
    errno.EHOSTUNREACH: "no_route",
    errno.ENETUNREACH: "no_route",
    errno.ENETDOWN: "no_route",
    errno.EADDRNOTAVAIL: "no_route",
    errno.ENOENT: "no_socket",
    errno.EACCES: "socket_closed",
    errno.EMFILE: "no_descriptors",
    errno.ENFILE: "no_descriptors",
}
_ERROR_IN_SCRIPT = re.compile(r"Error running script .*?-([A-Z]{2,20}) ", re.DOTALL)
"""How Redis 6 and older report an error of a command in a script. The script was aborted there."""
_ERROR_CODE = re.compile(r"-?([A-Z]{2,20})\b")


class Reaction(Enum):
    """What follows from an error reply to a script. Unless it failed, nothing was executed."""

    WAIT = auto()
    """The server has the keys and cannot execute the script for the moment."""
    LEAVE = auto()
    """The server is a replica, loads its data, or has lost its cluster: another one may have the keys."""
    REFUSE = auto()
    """The server refuses to write, or to serve this user, until an operator changes that."""
    FAIL = auto()
    """The script failed. It may have been executed in part."""


_REACTIONS_BY_FAILURE: Mapping[str, Reaction] = {
    "slot_moves": Reaction.WAIT,
    "script_runs": Reaction.WAIT,
    "too_few_replicas": Reaction.WAIT,
    "replica": Reaction.LEAVE,
    "loading": Reaction.LEAVE,
    "primary_lost": Reaction.LEAVE,
    "cluster_down": Reaction.LEAVE,
    "no_memory": Reaction.REFUSE,
    "no_permission": Reaction.REFUSE,
    "no_password": Reaction.REFUSE,
    "wrong_password": Reaction.REFUSE,
    "cannot_persist": Reaction.REFUSE,
}
"""Failures that do not mean that the script failed."""


class NamedFailure(Exception):
    """A failure that this program has found itself: *failure* is its name, *text* says more."""

    def __init__(self, failure: str, text: str) -> None:
        super().__init__(text)
        self.failure = failure


def reaction_to(error: Exception) -> Reaction:
    """Return what follows from *error*, the answer of a server to a script."""
    return _REACTIONS_BY_FAILURE.get(failure_of(error), Reaction.FAIL)


def failure_of(error: BaseException | str) -> str:
    """Return the name of the failure that *error* is: an exception, with its causes, or the text of an error reply."""
    if isinstance(error, str):
        return _of_reply(error) or "unknown"
    each: BaseException | None = error
    for _ in range(MAX_CAUSES):
        if each is None:
            break
        if (found := _of_exception(each)) is not None:
            return found
        each = each.__cause__ or each.__context__
    return _of_reply(str(error)) or "unknown"


def _of_exception(error: BaseException) -> str | None:
    if isinstance(error, NamedFailure):
        return error.failure
    for kind, failure in _FAILURES_BY_CLASS:
        if isinstance(error, kind):
            return failure
    if isinstance(error, OSError):
        return _FAILURES_BY_ERRNO.get(error.errno or 0)
    if type(error) is RedisConnectionError and str(error).startswith("Error "):
        return None  # it quotes the host, and its cause tells more
    return _of_reply(str(error)) or ("wrong_password" if isinstance(error, AuthenticationError) else None)


def _of_reply(text: str) -> str | None:
    found = _ERROR_IN_SCRIPT.search(text) or _ERROR_CODE.match(text)
    if found is not None and found[1] in _FAILURES_BY_CODE:
        return _FAILURES_BY_CODE[found[1]]
    return next((name for pattern, name in _FAILURES_BY_SENTENCE if pattern.search(text)), None)
