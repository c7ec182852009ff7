"""What a failure of Redis means, and what to do about it, as one line for the log.

The error code decides, which is the first word of an error reply (redis.io/docs/latest/develop/reference/protocol-spec,
"Simple errors"; the codes are in `createSharedObjects` of src/server.c). `ERR` has many causes, so its sentences are
searched. Failures without a reply are told apart by the errors of the operating system. Passwords never appear: only the
address that the caller gives, and the text of the error reply.
"""

from __future__ import annotations

import errno
import re
import socket
import ssl
from collections.abc import Iterator, Mapping

from redis.exceptions import AuthenticationError, InvalidResponse
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

MAX_TEXT_CHARACTERS = 300
"""Characters that are kept of a server's own text."""
MAX_CAUSES = 8
"""Exceptions of a chain of causes that are examined."""


_SEE_THAT_IT_RUNS = "see that it runs and can be reached"
_ITS_LOG = "see the log of the server"
REDIS_FAILURES: Mapping[str, tuple[str, str]] = {
    "refused": ("connection refused", _SEE_THAT_IT_RUNS),
    "unknown_host": ("the host name cannot be resolved ({text})", "correct the name, or see that DNS works"),
    "no_route": ("the network does not reach it ({text})", _SEE_THAT_IT_RUNS),
    "no_socket": ("the Unix socket does not exist", "see that it runs, and that the path is right"),
    "socket_closed": ("no permission to use the Unix socket", "let the sidecar's user write to it"),
    "timeout": ("no answer in time", _SEE_THAT_IT_RUNS + ", and that the scheme (redis:// or rediss://) is right"),
    "no_tls": ("the TLS handshake failed ({text})", "use redis:// for a server without TLS, or repair its certificate"),
    "certificate": (
        "its TLS certificate is not accepted ({text})",
        "install a valid one, or trust its issuer by SSL_CERT_FILE",
    ),
    "closed": (
        "it closed the connection",
        _SEE_THAT_IT_RUNS + ", that it is Redis or Valkey, and that the scheme is right (rediss:// for TLS)",
    ),
    "not_redis": ("the server does not answer like Redis ({text})", "correct host and port, or use rediss:// for TLS"),
    "no_password": ("it requires a password", "give it in SIDECAR_STORE, as redis://:PASSWORD@HOST:PORT/DB"),
    "wrong_password": ("it does not accept the user or the password", "correct them in SIDECAR_STORE"),
    "needless_password": ("it has no password", "remove the password from SIDECAR_STORE"),
    "no_permission": (
        "its ACL does not permit this user the operation ({text})",
        "permit +eval +evalsha +info +@hash +@sortedset +exists +scan +select +time +type +unlink, for the keys of the prefix",
    ),
    "foreign": (
        "keys of the prefix hold data of another program ({text})",
        "use another ?prefix=NAME or database, or delete these keys",
    ),
    "no_memory": ("it is out of memory", "give it more memory, with maxmemory-policy noeviction"),
    "replica": ("it is a read-only replica", "name the primary, not a replica"),
    "cannot_persist": (
        "it refuses writes because it cannot save its data",
        "make room on its disk, or repair its persistence; " + _ITS_LOG,
    ),
    "too_few_replicas": ("it refuses writes because too few replicas follow it", "start its replicas"),
    "primary_lost": ("it has lost its primary", "start the primary, or name another server"),
    "loading": ("it is still loading its data", "wait until it is ready"),
    "script_runs": (
        "it is busy with a script",
        "stop that script with SCRIPT KILL; no other program should run long ones",
    ),
    "cluster_down": ("the cluster does not serve all keys ({text})", "start its missing nodes; see CLUSTER INFO"),
    "cluster_unreachable": ("no node of the cluster answers ({text})", "see that its nodes run and can be reached"),
    "not_a_cluster": (
        "the servers of the URL are not a cluster",
        "name one of them, or its sentinels by redis+sentinel://",
    ),
    "cluster_database": ("a cluster has no numbered databases", "remove the number: redis://HOST:PORT/0"),
    "no_primary": (
        "no sentinel names the primary ({text})",
        "correct the name, and see that the sentinels and the primary run",
    ),
    "failover": ("its sentinels replace the primary ({text})", "wait until they have promoted a replica"),
    "no_database": ("it has no database of that number", "name a database that it has, as redis://HOST:PORT/DB"),
    "too_many_clients": ("it has too many clients", "raise its maxclients, or stop clients that are not needed"),
    "protected": ("it runs in protected mode", "set a password, or bind it to the right address"),
    "too_old": ("it lacks a command ({text})", "it must be Redis 5 or newer, or Valkey, with scripts permitted"),
    "script_failed": (
        "the script failed ({text})",
        "see that all sidecars have this version and that no other program writes its keys",
    ),
    "lost_data": (
        "its data was flushed, evicted or lost: limits start anew, what was spent before is forgotten",
        "set maxmemory-policy noeviction and appendonly yes, and give other programs another database",
    ),
    "no_descriptors": ("too many open files", "raise the limit of open files (ulimit -n)"),
    "unknown": ("{text}", _SEE_THAT_IT_RUNS),
}
"""Cause and remedy of each failure, by name. `{text}` stands for the error's own words."""
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
    "TRYAGAIN": "cluster_down",
    "CROSSSLOT": "cluster_down",
    "MOVED": "cluster_down",
    "ASK": "cluster_down",
    "DENIED": "protected",
    "-DENIED": "protected",
}
"""Failures by the code of the error reply."""
_FAILURES_BY_SENTENCE: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern, re.IGNORECASE), name)
    for pattern, name in (
        (
            "authentication required|must be called with the client already authenticated|: unauthenticated ",
            "no_password",
        ),
        ("without any password configured|no password is set", "needless_password"),
        ("invalid password|invalid username-password|wrong number of arguments for 'auth'", "wrong_password"),
        ("no permissions? to|can't run this command|acl failure in script", "no_permission"),
        ("wrong kind of value|not a valid float|is not an integer", "foreign"),
        ("used memory > 'maxmemory'", "no_memory"),
        ("read only replica|read only slave", "replica"),
        ("stop-writes-on-bgsave-error|writing to the aof", "cannot_persist"),
        ("not enough good (replicas|slaves)", "too_few_replicas"),
        ("link with master is down", "primary_lost"),
        ("loading the dataset", "loading"),
        ("busy running a script", "script_runs"),
        ("hash slot not served|cluster is down", "cluster_down"),
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
"""Failures by what the sentence contains. They are needed for `ERR`, and for codes that the client library removes."""
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
_ERROR_CODE = re.compile(r"-?([A-Z]{2,20})\b")
_APPENDED_TEXT = re.compile(r" script: [0-9a-f]{40}.*$|, on @user_script.*$|,? with args beginning with.*$", re.DOTALL)
"""What Redis appends to an error: the name of the script, and arguments, which hold identities of clients."""


class NamedFailure(Exception):
    """A failure that this program has found itself: *failure* is its name in `REDIS_FAILURES`, *text* says more."""

    def __init__(self, failure: str, text: str) -> None:
        super().__init__(text)
        self.failure = failure


def describe_failure(error: BaseException | str, address: str) -> str:
    """Return `ADDRESS: cause; remedy` for *error*, a failure of the client library, of the network, or the text of an error reply.

    *address* names the server, without password.
    """
    return _message(failure_of(error), address, _text(error))


def lost_data(address: str) -> str:
    """Return the message for a server that has lost the counters which this process used before."""
    return _message("lost_data", address, "")


def _message(failure: str, address: str, text: str) -> str:
    cause, remedy = REDIS_FAILURES[failure]
    return f"{address}: {cause.format(text=text)}; {remedy.format(text=text)}"


def failure_of(error: BaseException | str) -> str:
    """Return the name of the failure that *error* is, one of `REDIS_FAILURES`."""
    if isinstance(error, str):
        return _of_reply(error, "") or "unknown"
    found = next(filter(None, map(_of_exception, _causes(error))), None)
    return found or _of_reply(str(error), "") or "unknown"


def _of_exception(error: BaseException) -> str | None:
    if isinstance(error, NamedFailure):
        return error.failure
    if isinstance(error, ssl.SSLCertVerificationError):
        return "certificate"
    if isinstance(error, ssl.SSLError):
        return "no_tls"
    if isinstance(error, socket.gaierror):
        return "unknown_host"
    if isinstance(error, InvalidResponse):
        return "not_redis"
    if isinstance(error, TimeoutError | RedisTimeoutError):
        return "timeout"
    if isinstance(error, OSError):
        return _FAILURES_BY_ERRNO.get(error.errno or 0)
    if type(error) is RedisConnectionError and str(error).startswith("Error "):
        return None  # it quotes the host, and its cause tells more
    if (found := _of_reply(str(error), getattr(error, "status_code", None) or "")) is not None:
        return found
    return "wrong_password" if isinstance(error, AuthenticationError) else None


def _of_reply(text: str, code: str) -> str | None:
    """Return the failure of an error reply with *text*; *code* is its first word, if the client library has removed it."""
    if not code and (found := _ERROR_CODE.match(text)) is not None:
        code = found[1]
    if code in _FAILURES_BY_CODE:
        return _FAILURES_BY_CODE[code]
    return next((name for pattern, name in _FAILURES_BY_SENTENCE if pattern.search(text)), None)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield *error* and the exceptions from which it was raised, at most `MAX_CAUSES`."""
    each: BaseException | None = error
    for _ in range(MAX_CAUSES):
        if each is None:
            return
        yield each
        each = each.__cause__ or each.__context__


def _text(error: BaseException | str) -> str:
    """Return the words of *error* in one line of printable characters."""
    text = _APPENDED_TEXT.sub("", str(error)) or type(error).__name__
    printable = "".join(each if each.isprintable() else " " for each in text[:MAX_TEXT_CHARACTERS])
    return " ".join(printable.split()).rstrip(".")
