"""Make a case that fails smaller, while it fails in the same way."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import msgspec
from client_wire import ClientCase
from upstream_wire import UpstreamCase

AnyCase = ClientCase | UpstreamCase
MAX_TRIALS = 80


def with_pieces(case: AnyCase, pieces: list[bytes]) -> AnyCase:
    """Return *case* with other *pieces*."""
    return msgspec.structs.replace(case, pieces=[piece for piece in pieces if piece] or [b""])


async def shrunk(case: AnyCase, fails: Callable[[AnyCase], Awaitable[bool]]) -> AnyCase:
    """Return a smaller case for which *fails* is true: in one piece if possible, then without ranges of bytes."""
    trials = 0

    async def still(other: AnyCase) -> bool:
        nonlocal trials
        trials += 1
        return await fails(other)

    joined = with_pieces(case, [b"".join(case.pieces)])
    if await still(joined):
        case = joined
    at, size = 0, max(1, max(map(len, case.pieces)) // 2)
    while size and trials < MAX_TRIALS:
        index, smaller = 0, None
        for index, piece in enumerate(case.pieces):
            if at < len(piece):
                pieces = [*case.pieces[:index], piece[:at] + piece[at + size :], *case.pieces[index + 1 :]]
                smaller = with_pieces(case, pieces)
                if await still(smaller):
                    break
                smaller = None
        if smaller is not None:
            case = smaller
        else:
            at += size
        if at >= max(map(len, case.pieces)):
            at, size = 0, size // 2
    return case
