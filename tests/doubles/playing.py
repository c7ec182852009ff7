"""An upstream that sends one answer of the table in `hostile`."""

from __future__ import annotations

import asyncio

from hostile import CUT, RESET, Case
from wire import Connection, Script


def plays(case: Case) -> Script:
    """Return a script that writes the pieces of *case*, each in an event loop iteration of its own."""

    async def script(connection: Connection) -> None:
        for piece in case.pieces:
            if piece == CUT:
                connection.close()
            elif piece == RESET:
                connection.reset()
            else:
                await connection.send(piece)
                await asyncio.sleep(0)

    return script
