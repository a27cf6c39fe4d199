"""What all scripts begin with, in the program and in its children: import it first."""

from __future__ import annotations

import argparse
import faulthandler
import signal
import sys
from collections.abc import Callable, Collection

SHOW_STACKS = signal.SIGRTMAX  # the watchdog's request, as in arena.py

# Import takes care of spawned children, inheritance of forked ones.
faulthandler.enable()
faulthandler.register(SHOW_STACKS, all_threads=True)


def say(line: str) -> None:
    """Tell the watchdog that the script is getting on."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def interrupted_call(calls: Collection[str]) -> argparse.Namespace:
    """The command line of a script that blocks: `call`, the start `method`, how many `times`."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--call", choices=calls, required=True)
    parser.add_argument("--method", default="fork")
    parser.add_argument("--times", type=int, default=3)
    return parser.parse_args()


def be_interrupted(block: Callable[[], object], times: int) -> None:
    """Block so often; each time KeyboardInterrupt must come. Says `blocks` before, and `interrupted` afterwards."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for _ in range(times):
        try:
            say("blocks")
            block()
        except KeyboardInterrupt:
            say("interrupted")
        else:
            raise RuntimeError(f"{block} returned")
