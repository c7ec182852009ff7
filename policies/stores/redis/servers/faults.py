"""What an error of Redis means for the operation that it answers. For its cause and remedy see `failures`."""

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
