"""What the chain tells the owner of a call's task."""

from __future__ import annotations


class CallControl:
    """The phase of one running call, for the code that may cancel its task.

    `settling`: the call has ended and its reservation is being settled; a cancellation now would interrupt the settlement,
    so the owner waits until it is False again. Settlement takes bounded time.
    """

    __slots__ = ("settling",)

    def __init__(self) -> None:
        self.settling = False
