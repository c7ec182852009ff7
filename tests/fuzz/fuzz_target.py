"""`sidecar ARGUMENTS` with a watch in it: the process that is fuzzed. The variable `FUZZ_SOCKET` has the path of its socket."""

from __future__ import annotations

import os
import sys

import uvloop
from watching import WATCH, CountingProbe, Watch


def main() -> int:
    """Run the command line with a watch in its event loop."""
    watch = Watch(os.environ["FUZZ_SOCKET"], os.getpid())
    WATCH.set(watch)
    new = uvloop.new_event_loop

    def with_probe() -> uvloop.Loop:
        loop = new()
        loop.call_soon(CountingProbe(loop, watch).start)
        return loop

    uvloop.new_event_loop = with_probe
    from sidecar.cli.main import main as run

    return run(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
