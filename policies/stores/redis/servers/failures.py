"""What a failure of Redis means, and what to do about it, as one line for the log.

Passwords never appear: only the address that the caller gives, and the text of the error reply.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from .classification import failure_of

MAX_TEXT_CHARACTERS = 300
"""Characters that are kept of a server's own text."""

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
    "slot_moves": (
        "the cluster moves its keys to another node ({text})",
        "wait until they have moved; see CLUSTER INFO",
    ),
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
_APPENDED_TEXT = re.compile(r" script: [0-9a-f]{40}.*$|, on @user_script.*$|,? with args beginning with.*$", re.DOTALL)
"""What Redis appends to an error: the name of the script, and arguments, which hold identities of clients."""


def describe_failure(error: BaseException | str, address: str) -> str:
    """Return `ADDRESS: cause; remedy` for *error*, a failure of the client library, of the network, or the text of an error reply.

    *address* names the server, without password.
    """
    return _message(failure_of(error), address, _text(error))


def causes_of(errors: Iterable[BaseException]) -> str:
    """Return the causes of *errors* of several servers, each once, in an order of their own: an outage has one message."""
    found = {REDIS_FAILURES[failure_of(each)][0].format(text=_text(each)) for each in errors}
    return "; ".join(sorted(found))


def lost_data(address: str) -> str:
    """Return the message for a server that has lost the counters which this process used before."""
    return _message("lost_data", address, "")


def _message(failure: str, address: str, text: str) -> str:
    cause, remedy = REDIS_FAILURES[failure]
    return f"{address}: {cause.format(text=text)}; {remedy.format(text=text)}"


def _text(error: BaseException | str) -> str:
    """Return the words of *error* in one line of printable characters."""
    text = _APPENDED_TEXT.sub("", str(error)) or type(error).__name__
    printable = "".join(each if each.isprintable() else " " for each in text[:MAX_TEXT_CHARACTERS])
    return " ".join(printable.split()).rstrip(".")
