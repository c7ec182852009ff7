"""What an error of Redis means for the operation that it answers, and what an operator can do about it."""

from __future__ import annotations

import re
from enum import Enum, auto

from redis.exceptions import (
    AskError,
    AuthenticationError,
    BusyLoadingError,
    ClusterDownError,
    MasterDownError,
    MovedError,
    NoPermissionError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    TryAgainError,
)

from .url import Address

REMEDY_BY_PHRASE = {
    "NOAUTH": "give the password in SIDECAR_STORE, as redis://:PASSWORD@HOST:PORT/DB",
    "Authentication required": "give the password in SIDECAR_STORE, as redis://:PASSWORD@HOST:PORT/DB",
    "invalid username-password": "correct the password in SIDECAR_STORE",
    "WRONGPASS": "correct the password in SIDECAR_STORE",
    "without any password configured": "remove the password from SIDECAR_STORE",
    "no permissions": "allow EVAL, EVALSHA, TIME and the keys of the prefix to the user of SIDECAR_STORE",
    "command not allowed when used memory": "give it more memory, with maxmemory-policy noeviction",
    "unable to persist on disk": "see that its disk has room and can be written",
    "unable to persist to disk": "see that its disk has room and can be written",
    "read only replica": "name the primary, not a replica",
    "unknown command": "it must be Redis 5 or newer, or Valkey",
    "DB index is out of range": "name a database that it has, as redis://HOST:PORT/DB",
    "SELECT is not allowed in cluster mode": "a cluster has only the database 0: end the URL with '/0'",
    "cluster support disabled": "these servers are no cluster: name one of them, or its sentinels by redis+sentinel://",
    "certificate verify failed": "add the certificate's issuer to the trusted ones of this machine, as by SSL_CERT_FILE",
    "NOREPLICAS": "see that its replicas run and can be reached",
}
"""What to do about an error whose text contains the key."""
UNKNOWN_CAUSE_REMEDY = "see that it runs and can be reached"


class Reaction(Enum):
    """What follows from an error reply."""

    SEND_SOURCE = auto()
    """The server does not know the script. Nothing was executed."""
    FOLLOW = auto()
    """Another node has the keys. Nothing was executed."""
    ASK = auto()
    """Another node has the keys of this one command. Nothing was executed."""
    WAIT = auto()
    """The server has the keys and cannot execute the command for the moment. Nothing was executed."""
    LEAVE = auto()
    """The server is a replica, loads its data, or has lost its cluster: another one may have the keys. Nothing was executed."""
    REFUSE = auto()
    """The server refuses to write, or to serve this user, until an operator changes that. Nothing was executed."""
    FAIL = auto()
    """The script failed. It may have been executed in part."""


_BY_CLASS: tuple[tuple[type[RedisError], Reaction], ...] = (
    (NoScriptError, Reaction.SEND_SOURCE),
    (MovedError, Reaction.FOLLOW),  # before `AskError`, of which it is a subclass
    (AskError, Reaction.ASK),
    (MasterDownError, Reaction.LEAVE),  # before `ClusterDownError`, of which it is a subclass
    (ReadOnlyError, Reaction.LEAVE),
    (TryAgainError, Reaction.WAIT),
    (ClusterDownError, Reaction.LEAVE),
    (BusyLoadingError, Reaction.LEAVE),
    (OutOfMemoryError, Reaction.REFUSE),
    (NoPermissionError, Reaction.REFUSE),
    (AuthenticationError, Reaction.REFUSE),
)
_BY_CODE = {
    "BUSY": Reaction.WAIT,
    "NOREPLICAS": Reaction.WAIT,
    "MISCONF": Reaction.REFUSE,
    "READONLY": Reaction.LEAVE,
    "OOM": Reaction.REFUSE,
    "NOPERM": Reaction.REFUSE,
}
"""Codes that the library has no class for, or that Redis 6 and older wrap."""
_WRAPPED_ERROR = re.compile(r"Error running script .*?-(READONLY|OOM|MISCONF|NOREPLICAS|NOPERM) ", re.DOTALL)
"""How Redis 6 and older report an error of a command in a script. The script was aborted there, at its first write."""


def reaction_to(error: Exception) -> Reaction:
    """Return what follows from *error*, the answer to a script."""
    for kind, reaction in _BY_CLASS:
        if isinstance(error, kind):
            return reaction
    text = str(error)
    wrapped = _WRAPPED_ERROR.search(text)
    return _BY_CODE.get(wrapped[1] if wrapped else text.partition(" ")[0], Reaction.FAIL)


def describe(address: Address | str, error: Exception) -> str:
    """Return "ADDRESS: ERROR; REMEDY". *address* is without credentials."""
    text = str(error) or ("no answer in time" if isinstance(error, TimeoutError) else type(error).__name__)
    remedies = (remedy for phrase, remedy in REMEDY_BY_PHRASE.items() if phrase in text)
    return f"{address}: {text}; {next(remedies, UNKNOWN_CAUSE_REMEDY)}"
