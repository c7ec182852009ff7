"""What follows from an error reply for the operations that it answers."""

from __future__ import annotations

import pytest
from redis.exceptions import ResponseError, TryAgainError

from policies.stores.redis.servers.classification import Reaction, reaction_to

REPLIES = {
    "NOREPLICAS Not enough good replicas to write.": Reaction.WAIT,
    "BUSY Redis is busy running a script.": Reaction.WAIT,
    "READONLY You can't write against a read only replica.": Reaction.LEAVE,
    "LOADING Redis is loading the dataset in memory": Reaction.LEAVE,
    "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.": Reaction.LEAVE,
    "CLUSTERDOWN The cluster is down": Reaction.LEAVE,
    "OOM command not allowed when used memory > 'maxmemory'.": Reaction.REFUSE,
    "NOPERM this user has no permissions to run the 'time' command": Reaction.REFUSE,
    "NOAUTH Authentication required.": Reaction.REFUSE,
    "WRONGPASS invalid username-password pair or user is disabled.": Reaction.REFUSE,
    "MISCONF Redis is configured to save RDB snapshots, but it is currently not able to persist on disk.": Reaction.REFUSE,
    "WRONGTYPE Operation against a key holding the wrong kind of value": Reaction.FAIL,
    "ERR unknown command 'FOO'": Reaction.FAIL,
}


@pytest.mark.parametrize("reply", REPLIES)
def test_code_of_a_reply_decides(reply: str) -> None:
    """The code decides, also where Redis 6 and older report it as an error of the script that ran the command."""
    in_script = f"Error running script (call to f_{'0' * 40}): @user_script:1: @user_script: 1: -{reply}"
    assert reaction_to(ResponseError(reply)) is REPLIES[reply]
    assert reaction_to(ResponseError(in_script)) is REPLIES[reply]


def test_class_of_an_error_decides() -> None:
    """The client library removes the code of some replies, and raises an error of their class."""
    assert reaction_to(TryAgainError("Multiple keys request during rehashing of slot")) is Reaction.WAIT
